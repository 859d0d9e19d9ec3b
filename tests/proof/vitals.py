"""What a process takes, read from /proc while it runs, and drawn as curves."""

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


# The picture, in its own units.
_WIDTH, _HEIGHT, _LEFT, _GAP = 760, 120, 70, 56


def draw(title: str, curves: Sequence[Curve]) -> str:
    """The curves below each other, as SVG; each axis begins at zero."""
    height = 40 + len(curves) * (_HEIGHT + _GAP)
    width = _LEFT + _WIDTH + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">',
        "<style>text { font: 12px sans-serif }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="22" style="font-size: 15px">{title}</text>',
    ]
    for number, curve in enumerate(curves):
        parts += _draw_one(curve, top=58 + number * (_HEIGHT + _GAP))
    return "\n".join([*parts, "</svg>", ""])


def _draw_one(curve: Curve, *, top: int) -> list[str]:
    end = max(curve.times[-1], 1e-9)
    most = max(*curve.values, 1e-9) * 1.1
    bottom = top + _HEIGHT
    points = " ".join(
        f"{_LEFT + moment / end * _WIDTH:.1f},{bottom - value / most * _HEIGHT:.1f}"
        for moment, value in zip(curve.times, curve.values, strict=True)
    )
    parts = [f'<text x="{_LEFT}" y="{top - 6}">{curve.title}</text>']
    for part in (0.0, 0.5, 1.0):
        y = bottom - part * _HEIGHT
        label = f"{most * part:.3g}"
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for sixth in range(7):
        x = _LEFT + sixth / 6 * _WIDTH
        label = f"{end * sixth / 6 / 60:.3g} min"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    parts.append(f'<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="1.2"/>')
    return parts
