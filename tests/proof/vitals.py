"""What a process takes, read from /proc while it runs, and drawn as curves."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """One look at a process.

    Attributes:
        rss: Resident memory, in bytes.
        descriptors: Open files and sockets.
        threads: As the kernel counts them.
    """

    rss: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """What it takes now."""
        process = Path("/proc", str(pid))
        return cls(
            rss=int((process / "statm").read_text().split()[1]) * PAGE,
            descriptors=len(list((process / "fd").iterdir())),
            threads=len(list((process / "task").iterdir())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A series of measurements: the moments in seconds, and what was measured."""

    title: str
    times: Sequence[float]
    values: Sequence[float]

    def median_between(self, start: float, end: float) -> float:
        """The median of what was measured in this part of the whole time (0.0 to 1.0)."""
        whole = self.times[-1]
        return median(
            value
            for moment, value in zip(self.times, self.values, strict=True)
            if start <= moment / whole <= end
        )


# The picture, in its own units: narrow with large letters, so that it can be read on a phone.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _GAP = 420, 110, 52, 28, 76
_BETWEEN_TICKS = (1, 2, 5, 10, 20, 50)


def draw(title: str, curves: Sequence[Curve]) -> str:
    """The curves below each other, as SVG; each axis begins at zero."""
    height = 40 + len(curves) * (_HEIGHT + _GAP)
    width = _LEFT + _WIDTH + _RIGHT
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        "<style>text { font: 14px sans-serif; fill: #1a1a1a } .title { font-weight: bold }</style>",
        # Else letters that are dark would stand on a dark page.
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="26" style="font-size: 17px" class="title">{title}</text>',
    ]
    for number, curve in enumerate(curves):
        parts += _draw_one(curve, top=66 + number * (_HEIGHT + _GAP))
    return "\n".join([*parts, "</svg>", ""])


def _draw_one(curve: Curve, *, top: int) -> list[str]:
    minutes = max(curve.times[-1], 1e-9) / 60
    heights = _ticks(max(*curve.values, 1e-9))
    most = heights[-1]
    bottom = top + _HEIGHT
    points = " ".join(
        f"{_LEFT + moment / 60 / minutes * _WIDTH:.1f},{bottom - value / most * _HEIGHT:.1f}"
        for moment, value in zip(curve.times, curve.values, strict=True)
    )
    parts = [f'<text x="{_LEFT}" y="{top - 9}" class="title">{curve.title}</text>']
    for value in heights:
        y = bottom - value / most * _HEIGHT
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{value:,g}</text>'
        )
    for value in _ticks(minutes):
        if value > minutes:
            continue
        x = _LEFT + value / minutes * _WIDTH
        label = f"{value:,g}" if value else "0 minutes"
        anchor = "middle" if value else "start"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="{anchor}">{label}</text>')
    parts.append(f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="1.5"/>')
    return parts


def _ticks(most: float) -> list[float]:
    """Round numbers from zero to the first that is not below the highest value; few enough."""
    unit = 10.0 ** math.floor(math.log10(most)) / 10
    step = next(unit * each for each in _BETWEEN_TICKS if most <= 5 * unit * each)
    return [step * n for n in range(math.ceil(most / step) + 1)]
