"""`RunProgress`: how far a run is, as a line of text."""

import math
from collections import deque
from collections.abc import Callable

from trio_jobs.commands.run.done_lines import DoneLines

# Seconds. The rate of this last time says how long the rest takes.
_RATE_SECONDS = 30.0


class RunProgress:
    """The numbers of a run, and their line.

    Args:
        done: The lines with results; the run counts there.
        clock: In seconds.
        total: How many records there are; None if nobody knows.
    """

    def __init__(
        self, done: DoneLines, clock: Callable[[], float], *, total: int | None = None
    ) -> None:
        self._done = done
        self._clock = clock
        self._total = total
        self._before = done.number
        self._began = clock()
        # Times and numbers of records that were done then: of the last 30 s, and one older.
        self._samples: deque[tuple[float, int]] = deque([(self._began, self._before)])

    def line(self, *, gone_for: float | None = None) -> str:
        """The line while the run goes on. Each call takes a sample for the rate.

        Args:
            gone_for: For how many seconds the server is gone; None while it is there.
        """
        now = self._clock()
        while len(self._samples) > 1 and self._samples[1][0] <= now - _RATE_SECONDS:
            self._samples.popleft()
        since, before = self._samples[0]
        self._samples.append((now, self._done.number))
        rate = (self._done.number - before) / (now - since) if now > since else 0.0
        parts = [*self._counts(), f"{_number(rate)}/s"]
        if gone_for is not None:
            parts.append(f"server gone for {duration(gone_for)}")
        elif self._total is not None and rate > 0:
            parts.append(f"{duration(max(self._total - self._done.number, 0) / rate)} left")
        return " " + "  ".join(parts)

    def last_line(self) -> str:
        """The line at the end of a run that has done all."""
        seconds = self._clock() - self._began
        rate = (self._done.number - self._before) / seconds if seconds > 0 else 0.0
        parts = [*self._counts(), f"{_number(rate)}/s", f"done in {duration(seconds)}"]
        return " " + "  ".join(parts)

    def counts(self, done: int) -> str:
        """How many records are done, of how many."""
        return f"{done:,}" if self._total is None else f"{done:,}/{self._total:,}"

    def _counts(self) -> list[str]:
        failed = [f"{self._done.failed:,} failed"] if self._done.failed else []
        return [self.counts(self._done.number), *failed]


def duration(seconds: float) -> str:
    """A time in its two largest units: ``1 m 58 s``."""
    left = math.ceil(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2])


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
