"""Waiting for jobs to complete: one event for each job that is waited for, and no polling."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trio_jobs.job import Job


class TooManyWaitersError(Exception):
    """As many tasks wait as may."""


class Completion:
    """A job's completion, which may be still to come; shared by all who wait for the job.

    Attributes:
        job: The completed job, as it was when it completed, whether or not it
            has been dropped since; None before.
    """

    __slots__ = ("_over", "_subscribers", "job")

    def __init__(self) -> None:
        self.job: Job | None = None
        self._over = trio.Event()
        self._subscribers = 0

    async def wait(self) -> None:
        """Wait until the job has completed, or the pool has ended without that.

        Checkpoints:
            Always.
        """
        await self._over.wait()


class CompletionWaiters:
    """Knows which jobs are waited for, and wakes those who wait.

    Args:
        max_waiters: How many tasks may wait at the same time.
    """

    def __init__(self, *, max_waiters: int) -> None:
        self._max_waiters = max_waiters
        self._waiters = 0
        self._ended = False
        # Only jobs that somebody waits for now: the last one to leave takes the entry away.
        self._awaited: dict[str, Completion] = {}

    @property
    def count(self) -> int:
        """How many tasks wait."""
        return self._waiters

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Completion]:
        """Wait for a job in this block: look it up, and enter, without a checkpoint in between.

        Leaving the block, however that happens, leaves nothing behind.

        Raises:
            TooManyWaitersError: Too many wait already.
        """
        if self._waiters >= self._max_waiters:
            raise TooManyWaitersError(f"{self._waiters} tasks wait already")
        completion = self._awaited.get(job_id)
        if completion is None:
            completion = self._awaited[job_id] = Completion()
            if self._ended:
                completion._over.set()
        self._waiters += 1
        completion._subscribers += 1
        try:
            yield completion
        finally:
            self._waiters -= 1
            completion._subscribers -= 1
            if completion._subscribers == 0:
                self._awaited.pop(job_id, None)

    def note(self, job: Job) -> None:
        """Wake those who wait for this job, which has just completed. A hook of the store's."""
        completion = self._awaited.get(job.id)
        if completion is not None:
            completion.job = job
            completion._over.set()

    def end(self) -> None:
        """Wake everybody, now and from now on: the pool has ended. Can be called again."""
        self._ended = True
        for completion in self._awaited.values():
            completion._over.set()
