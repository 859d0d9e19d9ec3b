"""`Reservation`: jobs that are on their way to the disk, and the wait for them."""

from collections.abc import Sequence
from typing import Self

import trio

from trio_jobs.job import Job
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import StoreTimeoutError, StoreWriteError
from trio_jobs.pool.store import DuplicateJobError

# What only one job can have: an idempotency key, or an old job that it re-runs.
Name = tuple[str, str]


class Reservation:
    """Jobs that are on their way to the disk.

    Attributes:
        jobs: The jobs, each as it will be when it is in.
        specs: What each was made of.
        slots: How many slots are reserved for them.
        names: The names that no other job may take meanwhile.
        began: When they were handed over, by Trio's clock, if some of them wait for a time.
        over: Set when they are in, or refused.
        error: Why they were refused; None if they were not.
    """

    __slots__ = ("_timeout", "began", "error", "jobs", "names", "over", "slots", "specs")

    def __init__(
        self, jobs: Sequence[Job], specs: Sequence[JobSpec], slots: int, timeout: float
    ) -> None:
        self.jobs = jobs
        self.specs = specs
        self.slots = slots
        self.names = names_of(specs)
        self.began = trio.current_time() if slots < len(jobs) else 0.0
        self.over = trio.Event()
        self.error: Exception | None = None
        self._timeout = timeout

    @classmethod
    def nothing(cls) -> Self:
        """A reservation of no jobs: another job has the key of the first submission."""
        nothing = cls([], [], 0, 0.0)
        nothing.over.set()
        return nothing

    async def wait(self, *, shield: bool = False) -> list[Job]:
        """Wait until the jobs are in; with ``shield``, cancellation is not acted on meanwhile.

        Raises:
            StoreWriteError: They were refused.
            StoreTimeoutError: It is not yet known.
            DuplicateJobError: The store has a job with one of their keys already.
        """
        # At less than the cost of `move_on_after`.
        with trio.CancelScope(relative_deadline=self._timeout, shield=shield):
            await self.over.wait()
        return self.result(in_time=self.over.is_set())

    def result(self, *, in_time: bool) -> list[Job]:
        """The jobs, which are in; or what `wait` raises."""
        if not in_time:
            raise StoreTimeoutError(self._timeout)
        if isinstance(self.error, DuplicateJobError):
            raise self.error
        if self.error is not None:
            raise StoreWriteError(str(self.error)) from self.error
        return list(self.jobs)


def names_of(specs: Sequence[JobSpec]) -> list[Name]:
    """The names of these jobs."""
    if len(specs) == 1 and specs[0].key is None and specs[0].rerun_of is None:  # the usual case
        return []
    names = [("rerun", spec.rerun_of) for spec in specs if spec.rerun_of is not None]
    names += [("key", spec.key.text) for spec in specs if spec.key is not None]
    return names
