"""`TypeCounts`: the counts of the jobs of one type, and how long they took of late."""

from trio_jobs.job import Outcome
from trio_jobs.pool.histogram import Histogram
from trio_jobs.pool.statistics import TypeStatistics


class TypeCounts:
    """The counts of one type; `Observation` changes them as the jobs move.

    Attributes:
        found: Jobs of an earlier process that were pending; in a shared database, those that have
            come from other servers, less those that have gone to them.
        submitted: See `TypeStatistics`.
        claimed: Claims.
        put_back: Claims after which the job was pending again.
        retrying: See `TypeStatistics`, as for the next two.
        attempts_failed: See there.
        interruptions: See there.
        succeeded: How many jobs have succeeded.
        unsuccessful: How many have completed with each other outcome.
        run: The times from claim to end.
        wait: The times from admission to claim.
    """

    def __init__(self) -> None:
        self.found = 0
        self.submitted = 0
        self.claimed = 0
        self.put_back = 0
        self.retrying = 0
        self.attempts_failed = 0
        self.interruptions = 0
        self.succeeded = 0
        self.unsuccessful: dict[Outcome, int] = {}
        self.run = RecentDurations()
        self.wait = RecentDurations()

    @property
    def pending(self) -> int:
        """See `TypeStatistics`; a move changes one number, and this one follows."""
        return self.found + self.submitted + self.put_back - self.claimed

    @property
    def processing(self) -> int:
        """See `TypeStatistics`; right once all ends are counted."""
        return self.claimed - self.put_back - self.succeeded - sum(self.unsuccessful.values())

    def outcomes(self) -> dict[Outcome, int]:
        """How many jobs have completed, by outcome."""
        succeeded = {Outcome.SUCCEEDED: self.succeeded} if self.succeeded else {}
        return {**succeeded, **self.unsuccessful}

    def statistics(self) -> TypeStatistics:
        """The numbers now; all jobs that have ended must have been counted."""
        run, wait = self.run.percentiles(), self.wait.percentiles()
        return TypeStatistics(
            submitted=self.submitted,
            pending=self.pending,
            retrying=self.retrying,
            processing=self.processing,
            outcomes=self.outcomes(),
            attempts_failed=self.attempts_failed,
            interruptions=self.interruptions,
            run_p50_seconds=run[0],
            run_p95_seconds=run[1],
            wait_p50_seconds=wait[0],
            wait_p95_seconds=wait[1],
        )


class RecentDurations:
    """Durations in two windows that take turns, and all others.

    Attributes:
        windows: The present window, the one before, and all before that.
    """

    __slots__ = ("_cached", "_cached_at", "windows")

    def __init__(self) -> None:
        self.windows = [Histogram(), Histogram(), Histogram()]
        # The percentiles, and the counts of both windows that they are of.
        self._cached_at = (0, 0)
        self._cached: list[float | None] = [None, None]

    def turn(self) -> None:
        """Begin a new window."""
        present, former, others = self.windows
        others.merge(former)
        self.windows = [Histogram(), present, others]
        self._cached_at = (-1, -1)

    def percentiles(self) -> list[float | None]:
        """The 50th and the 95th percentile, of both windows; see `Histogram.percentiles`."""
        present, former, _ = self.windows
        if self._cached_at != (counts := (present.count, former.count)):
            self._cached_at = counts
            both = Histogram()
            both.merge(present)
            both.merge(former)
            self._cached = both.percentiles(0.5, 0.95)
        return self._cached

    def all(self) -> Histogram:
        """All durations so far, in one histogram."""
        total = Histogram()
        for window in self.windows:
            total.merge(window)
        return total
