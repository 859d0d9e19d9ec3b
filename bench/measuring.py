"""CPU and memory of a process, interleaved turns, and the spread of their values."""

import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


def cpu_seconds(pid: int) -> float:
    """The CPU time of all threads of a process so far, in user and in kernel mode."""
    # Linux: `clock_getcpuclockid` computes this clock from the process id.
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int | str = "self") -> int:
    """The resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median, the lowest and the highest of repeated values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The spread of at least one value."""
        ordered = sorted(values)
        return cls(median=statistics.median(ordered), low=ordered[0], high=ordered[-1])


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The value that so many percent of the ascending values do not exceed."""
    return ordered[len(ordered) * percent // 100]


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The ratio of two subjects, turn by turn.

    A turn measures both within seconds, so other load on the machine affects both.
    """
    return Spread.of(a / b for a, b in zip(over, under, strict=True))


def take_turns(
    subjects: Mapping[str, Callable[[], float]], *, turns: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Measure each subject once a turn, in an order that reverses, and before the turns to warm up.

    One turn alone is a trial: no figure has to be steady.
    """
    if warm_up and turns > 1:
        for subject in subjects.values():
            subject()
    values: dict[str, list[float]] = {name: [] for name in subjects}
    order = list(subjects)
    for _ in range(turns):
        for name in order:
            values[name].append(subjects[name]())
        order.reverse()
    return values
