"""`CompletionWaiters`: wakes the tasks that wait for a job to complete; no task polls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from trio_jobs.job import Job


class TooManyWaitersError(Exception):
    """``max_waiters`` tasks wait already."""


class Completion:
    """The completion of one job, shared by all tasks that wait for it.

    Attributes:
        job: The job as it completed, even if the store has dropped it since; None before.
    """

    __slots__ = ("_over", "_subscribers", "job")

    def __init__(self) -> None:
        self.job: Job | None = None
        self._over = trio.Event()
        self._subscribers = 0

    async def wait(self) -> None:
        """Wait until the job has completed, or the pool has ended. Always a checkpoint."""
        await self._over.wait()


class CompletionWaiters:
    """Knows which tasks wait for which jobs.

    Args:
        max_waiters: How many tasks may wait at the same time.
        ended: Called when the pool has ended.

    Attributes:
        count: How many tasks wait.
    """

    def __init__(self, *, max_waiters: int, ended: Callable[[], None] | None = None) -> None:
        self.count = 0
        self._max_waiters = max_waiters
        self._when_ended = ended
        self._ended = False
        # By job id. The last task that stops waiting removes the entry.
        self._awaited: dict[str, Completion] = {}

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Completion]:
        """Subscribe to the completion of an unfinished job, until the block ends.

        The caller looks the job up and enters the block without a checkpoint in between: the job
        could complete at that checkpoint, and the caller would wait until the pool ends.

        Raises:
            TooManyWaitersError: ``max_waiters`` tasks wait already.
        """
        if self.count >= self._max_waiters:
            raise TooManyWaitersError(f"{self.count} tasks wait already")
        completion = self._awaited.get(job_id)
        if completion is None:
            completion = self._awaited[job_id] = Completion()
            if self._ended:
                completion._over.set()
        self.count += 1
        completion._subscribers += 1
        try:
            yield completion
        finally:
            self.count -= 1
            completion._subscribers -= 1
            if completion._subscribers == 0:
                self._awaited.pop(job_id, None)

    def notify(self, job: Job) -> None:
        """Wake the tasks that wait for this job, which has just completed."""
        completion = self._awaited.get(job.id)
        if completion is not None:
            completion.job = job
            completion._over.set()

    def end(self) -> None:
        """Wake all tasks, now and from now on: the pool has ended. Idempotent."""
        self._ended = True
        for completion in self._awaited.values():
            completion._over.set()
        if self._when_ended is not None:
            self._when_ended()
