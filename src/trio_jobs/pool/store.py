"""The store's port: what the pool needs of a store, the errors it raises, and its counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trio_jobs.job import Job, Outcome


class StoreError(Exception):
    """A request that the store refuses; nothing has changed."""


class JobNotFoundError(StoreError):
    """No such job: it was never admitted, or has been dropped since."""


class DuplicateJobError(StoreError):
    """A job with this id is in the store already."""


class InvalidTransitionError(StoreError):
    """The job's status does not allow the move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatistics:
    """How many jobs are where.

    Attributes:
        pending: Admitted, not yet claimed.
        processing: Claimed by a worker.
        completed: Ended, and still kept.
        completed_bytes: What the completed ones hold (`Job.size`).
        dropped: Completed ones that had to make room for others, by outcome.
            Those that a client has deleted are not among them.
    """

    pending: int
    processing: int
    completed: int
    completed_bytes: int
    dropped: Mapping[Outcome, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedJobs:
    """The jobs that have not completed, in order.

    Attributes:
        begun: A worker has claimed them, and may have done a part of their work.
        not_begun: No worker has.
    """

    begun: Sequence[Job]
    not_begun: Sequence[Job]

    def __bool__(self) -> bool:
        return bool(self.begun or self.not_begun)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.begun) + len(self.not_begun)
