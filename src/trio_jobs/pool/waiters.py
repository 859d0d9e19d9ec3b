"""`CompletionWaiters`: notifies tasks and functions of the end of a job; no task polls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from trio_jobs.job import Job

# Called with a job's id and the job, which has just completed, in the step in which clients may see
# it. None: it has completed, and is not there any more. It must not raise, and must take little
# time: the worker waits for it.
Call = Callable[[str, Job | None], None]


class TooManyWaitersError(Exception):
    """``max_waiters`` tasks wait already."""


class Completion:
    """The completion of one job, shared by all tasks that wait for it.

    Attributes:
        job: The job as it completed, even if the store has dropped it since; None before, and for a
            job that another server has dropped.
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
    """Knows which tasks wait for which jobs, and which functions to call.

    Args:
        max_waiters: How many tasks may wait at the same time.
        ended: Called when the pool has ended.
        watch: Called with a job's id when something begins to wait for it: the job may be another
            server's. None if this pool runs all jobs.

    Attributes:
        count: How many tasks wait.
        completions: What they wait for, by job id. The last task that stops waiting removes the
            entry.
        calls: The functions to call, by job id.
        over: Set when the pool has ended: no job completes any more.
    """

    def __init__(
        self,
        *,
        max_waiters: int,
        ended: Callable[[], None] | None = None,
        watch: Callable[[str], None] | None = None,
    ) -> None:
        self.count = 0
        self.over = trio.Event()
        self._max_waiters = max_waiters
        self._when_ended = ended
        self._watch = watch
        self.completions: dict[str, Completion] = {}
        self.calls: dict[str, tuple[Call, ...]] = {}

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Completion]:
        """Subscribe to the completion of an unfinished job, until the block ends.

        The caller looks the job up and enters the block without a checkpoint in between: the job
        could complete at that checkpoint, and the caller would wait until the pool ends. A job of
        another server may complete meanwhile: to watch it is to learn that it has.

        Raises:
            TooManyWaitersError: ``max_waiters`` tasks wait already.
        """
        if self.count >= self._max_waiters:
            raise TooManyWaitersError(f"{self.count} tasks wait already")
        completion = self.completions.get(job_id)
        if completion is None:
            completion = self.completions[job_id] = Completion()
            if self.over.is_set():
                completion._over.set()
            elif self._watch is not None:
                self._watch(job_id)
        self.count += 1
        completion._subscribers += 1
        try:
            yield completion
        finally:
            self.count -= 1
            completion._subscribers -= 1
            if completion._subscribers == 0:
                self.completions.pop(job_id, None)

    def call(self, job_id: str, call: Call) -> None:
        """Call a function once this unfinished job completes; for callers, see `subscribe`."""
        self.calls[job_id] = (*self.calls.get(job_id, ()), call)
        if self._watch is not None:
            self._watch(job_id)

    def forget_call(self, job_id: str, call: Call) -> None:
        """Do not call this function for this job any more."""
        if left := tuple(each for each in self.calls.pop(job_id, ()) if each != call):
            self.calls[job_id] = left

    def notify(self, job: Job) -> None:
        """Wake the tasks that wait for this job, which has just completed, and make the calls."""
        completion = self.completions.get(job.id)
        if completion is not None:
            completion.job = job
            completion._over.set()
        if self.calls:
            for call in self.calls.pop(job.id, ()):
                call(job.id, job)

    def notify_gone(self, job_id: str) -> None:
        """Do the same for a job that has completed, and was dropped before this server saw it."""
        if (completion := self.completions.get(job_id)) is not None:
            completion._over.set()
        for call in self.calls.pop(job_id, ()):
            call(job_id, None)

    def awaits(self, job_id: str) -> bool:
        """Whether something waits for this job, and was not told of its end."""
        completion = self.completions.get(job_id)
        return (completion is not None and not completion._over.is_set()) or job_id in self.calls

    @property
    def awaited(self) -> list[str]:
        """The ids of all jobs that something waits for; some have ended."""
        return list(self.completions.keys() | self.calls.keys())

    def end(self) -> None:
        """Wake all tasks, now and from now on: the pool has ended. Idempotent."""
        self.over.set()
        for completion in self.completions.values():
            completion._over.set()
        if self._when_ended is not None:
            self._when_ended()
