"""`JobQuery`: which jobs a list has, and in which order."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from trio_jobs.job import Job, JobStatus, Outcome
from trio_jobs.settings import shown
from trio_jobs.timestamps import microseconds


class Order(StrEnum):
    """In which order a list has its jobs."""

    OLDEST = "oldest"  # the first submission first
    NEWEST = "newest"  # the last submission first
    ENDED = "ended"  # only jobs that ended without success, the last end first


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs a list has.

    Attributes:
        order: Their order.
        statuses: If there are any, only jobs that have one of them.
        outcomes: The same for how jobs have ended.
        types: The same for job types.
        since: If there is one, only jobs that were submitted at this time or later. In the order
            `Order.ENDED` the time of a job's end counts instead.
        until: If there is one, only jobs that were submitted, or have ended, before this time.
        rerun: Whether jobs that were re-run are among them.
    """

    order: Order = Order.OLDEST
    statuses: Collection[JobStatus] = frozenset()
    outcomes: Collection[Outcome] = frozenset()
    types: Collection[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    rerun: bool = True

    @property
    def wants_all(self) -> bool:
        """Whether no job of the order is left out."""
        filters = self.statuses or self.outcomes or self.types or self.since or self.until
        return self.rerun and not filters

    def select(self, jobs: Iterable[Job]) -> list[Job]:
        """Those of the given jobs that the list has."""
        ended = self.order is Order.ENDED
        if ended:
            jobs = [job for job in jobs if job.outcome not in (None, Outcome.SUCCEEDED)]
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

    def place(self, job: Job) -> str:
        """The job's place in the order: the next page begins after it, even if the job is gone."""
        return end_place(job) if self.order is Order.ENDED else job.id


def end_place(job: Job) -> str:
    """The place of a completed job in the order of ends: its end in microseconds, and its id."""
    return f"{microseconds(_time(job, ended=True)):016x}-{job.id}"


def parse_end_place(place: str) -> tuple[int, str]:
    """The end in microseconds and the id of `end_place`."""
    return int(place[:16], 16), place[17:]


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

# Greater than each id, and than each place in the order of ends.
BEHIND_ALL = "~"
