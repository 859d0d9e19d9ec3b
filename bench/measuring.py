"""How things are measured: a process's CPU and memory, interleaved turns, medians, their spread."""

import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# What `clock_getcpuclockid` makes of a process id, on Linux: it names all of
# that process's threads, in user and in kernel mode, to the nanosecond.
_CPUCLOCK_SCHED = 2


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used so far, all its threads together."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def resident_bytes(pid: int | str = "self") -> int:
    """The memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What repetitions came to: the middle one, and from where to where they went."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The spread of at least one value."""
        ordered = sorted(values)
        return cls(median=statistics.median(ordered), low=ordered[0], high=ordered[-1])

    def times(self, factor: float) -> "Spread":
        """The same in another unit."""
        return Spread(median=self.median * factor, low=self.low * factor, high=self.high * factor)


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """How much of one there is for each of the other, turn by turn.

    Each turn has measured both within seconds, so what the machine did
    meanwhile has hit both alike.
    """
    return Spread.of(a / b for a, b in zip(over, under, strict=True))


def take_turns(
    subjects: Mapping[str, Callable[[], float]], *, turns: int
) -> dict[str, list[float]]:
    """Measure every subject once a turn.

    Every other turn goes backwards: nobody always comes first, or always
    after the same one.
    """
    values: dict[str, list[float]] = {name: [] for name in subjects}
    order = list(subjects)
    for _ in range(turns):
        for name in order:
            values[name].append(subjects[name]())
        order.reverse()
    return values
