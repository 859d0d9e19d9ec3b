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
        descriptors: Open files and sockets, without those of the jobs' file.
        of_the_file: The descriptors of the jobs' file, and of those beside it.
        threads: As the kernel counts them.
    """

    rss: int
    descriptors: int
    of_the_file: int
    threads: int

    @classmethod
    def of(cls, pid: int, file: Path) -> Self:
        """What it takes now, with its jobs in this file or in memory."""
        process = Path("/proc", str(pid))
        targets = [_target(each) for each in (process / "fd").iterdir()]
        of_the_file = sum(target.startswith(str(file)) for target in targets)
        return cls(
            rss=int((process / "statm").read_text().split()[1]) * PAGE,
            descriptors=len(targets) - of_the_file,
            of_the_file=of_the_file,
            threads=len(list((process / "task").iterdir())),
        )


def _target(descriptor: Path) -> str:
    """The file of a descriptor; empty if it was closed meanwhile."""
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A series of measurements: the moments in seconds, and what was measured."""

    title: str
    times: Sequence[float]
    values: Sequence[float]

    def between(self, start: float, end: float) -> list[float]:
        """What was measured in this part of the whole time (0.0 to 1.0).

        A machine under load may have left it out: then what was measured next to its middle.
        """
        shares = [moment / self.times[-1] for moment in self.times]
        found = [v for at, v in zip(shares, self.values, strict=True) if start <= at <= end]
        middle = (start + end) / 2
        nearest = min(range(len(shares)), key=lambda index: abs(shares[index] - middle))
        return found or [self.values[nearest]]

    def median_between(self, start: float, end: float) -> float:
        """The median of these."""
        return median(self.between(start, end))


def draw(path: Path, title: str, curves: Sequence[Curve]) -> None:
    """Draw the curves below each other, as SVG; each axis begins at zero."""
    # Installed for the soak alone.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The same figures make the same file. Narrow with large letters, for phones.
    with mpl.rc_context({"svg.hashsalt": title, "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(5.2, 1.7 * len(curves)), layout="constrained", facecolor="white")
        figure.suptitle(title, fontweight="bold")
        panels = figure.subplots(len(curves), sharex=True)
        for axes, curve in zip(panels, curves, strict=True):
            axes.plot([each / 60 for each in curve.times], curve.values, color="#0072b2")
            axes.set_title(curve.title, loc="left")
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", color="#dddddd")
            axes.spines[["top", "right"]].set_visible(False)
        panels[-1].set_xlabel("minutes")
        figure.savefig(path, metadata={"Date": None, "Creator": None})
