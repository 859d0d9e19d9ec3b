"""`JobQuery`: which jobs a list has, and in which order."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from trio_jobs.job import Job, JobStatus, Outcome, Waiting
from trio_jobs.shown_value import shown
from trio_jobs.timestamps import microseconds

_PENDING = JobStatus.PENDING


class Order(StrEnum):
    """In which order a list has its jobs."""

    OLDEST = "oldest"  # the first submission first
    NEWEST = "newest"  # the last submission first
    ENDED = "ended"  # only jobs that ended without success, the last end first
    NEXT = "next"  # only jobs that wait for a time, the first time first


def holds_none(_job_id: str) -> bool:
    """Whether a job is held, in a pool that holds none."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs a list has.

    Attributes:
        order: Their order.
        statuses: If there are any, only jobs that have one of them.
        outcomes: The same for how jobs have ended.
        types: The same for job types.
        waiting: The same for why jobs wait.
        since: If there is one, only jobs that were submitted at this time or later. In the order
            `Order.ENDED` the time of a job's end counts instead.
        until: If there is one, only jobs that were submitted, or have ended, before this time.
        rerun: Whether jobs that were re-run are among them.
        holds: Whether the pool holds the job with this id; for ``waiting``.
    """

    order: Order = Order.OLDEST
    statuses: Collection[JobStatus] = frozenset()
    outcomes: Collection[Outcome] = frozenset()
    types: Collection[str] = frozenset()
    waiting: Collection[Waiting] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    rerun: bool = True
    holds: Callable[[str], bool] = field(default=holds_none, compare=False)

    @property
    def wants_all(self) -> bool:
        """Whether no job of the order is left out."""
        filters = self.statuses or self.outcomes or self.types or self.waiting
        return self.rerun and not (filters or self.since or self.until)

    @property
    def walk(self) -> "JobQuery":
        """The query of a store's pages among which its jobs are, in an order that stores have."""
        if self.order is not Order.NEXT:
            return self
        return replace(self, order=Order.OLDEST, statuses=frozenset([_PENDING]))

    def select(self, jobs: Iterable[Job]) -> list[Job]:
        """Those of the given jobs that the list has."""
        ended = self.order is Order.ENDED
        if ended:
            jobs = [job for job in jobs if job.outcome not in (None, Outcome.SUCCEEDED)]
        elif self.order is Order.NEXT:
            jobs = [job for job in jobs if job.status is _PENDING and job.run_at is not None]
        if self.waiting:
            jobs = [job for job in jobs if why_waiting(job, self.holds) in self.waiting]
        if self.statuses:
            jobs = [job for job in jobs if job.status in self.statuses]
        if self.outcomes:
            jobs = [job for job in jobs if job.outcome in self.outcomes]
        if self.types:
            jobs = [job for job in jobs if job.type in self.types]
        if (since := self.since) is not None:
            jobs = [job for job in jobs if _time(job, ended=ended) >= since]
        if (until := self.until) is not None:
            jobs = [job for job in jobs if _time(job, ended=ended) < until]
        if not self.rerun:
            jobs = [job for job in jobs if job.rerun_as is None]
        return list(jobs)

    def position(self, job: Job) -> str:
        """The job's position in the order; the next page begins after it."""
        if self.order is Order.ENDED:
            return end_position(job)
        return _position(job.run_at or job.created_at, job) if self.order is Order.NEXT else job.id


def why_waiting(job: Job, holds: Callable[[str], bool]) -> Waiting | None:
    """Why a job waits outside the buffer; None if it does not.

    Args:
        job: The job.
        holds: Whether the pool holds the job with this id.
    """
    if job.status is not _PENDING:
        return None
    return Waiting.HELD if holds(job.id) else job.waiting


def end_position(job: Job) -> str:
    """The position of a completed job in the order of ends: its end in microseconds, and its id."""
    return _position(_time(job, ended=True), job)


def _position(time: datetime, job: Job) -> str:
    return f"{microseconds(time):016x}-{job.id}"


def parse_end_position(position: str) -> tuple[int, str]:
    """The end in microseconds and the id of `end_position`."""
    return int(position[:16], 16), position[17:]


def _time(job: Job, *, ended: bool) -> datetime:
    if not ended:
        return job.created_at
    assert job.completed_at is not None  # noqa: S101  (for the type checker: it has completed)
    return job.completed_at


def names(what: str, values: object) -> tuple[str, ...]:
    """The texts of an iterable, at least one; a single text is none.

    Raises:
        ValueError: There are none, or other values; the text begins with ``what``.
    """
    found: tuple[object, ...] = ()
    if isinstance(values, Iterable) and not isinstance(values, str | bytes):
        found = tuple(values)
    texts = tuple(name for name in found if isinstance(name, str) and name)
    if not texts or len(texts) < len(found):
        raise ValueError(
            f"{what} must be a list of one or more non-empty texts, got {shown(values)}"
        )
    return texts


ALL_JOBS = JobQuery()

# Greater than each id, and than each position in the order of ends.
BEHIND_ALL = "~"
