"""`WorkerTasks`: the tasks of the workers. Their number can change while the pool runs."""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import count, islice

import trio

from trio_jobs.current_job import current_job_id
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.refusals import ShuttingDownError

# Workers that start or leave between two checkpoints: about a millisecond's work.
_STRIDE = 50


class WorkerTasks:
    """Starts each worker on a clone of the channel's receive end, and closes the clones of some.

    For a worker whose clone is closed the channel has ended: it returns at once if it waits for a
    job, and otherwise when its job has ended. A closed clone has taken no id, so no job is lost.

    The workers that leave count until they have ended: while there are more workers than asked
    for, no new one starts. So there are never more than the greatest number that was asked for.

    Args:
        number: How many workers the caller starts.
        run: Runs one worker on its clone.
        capacity: Closed once the pool takes no more jobs: then the number stays as it is.
        limit_threads: Called with the number of workers when it changes.

    Attributes:
        number: How many workers are asked for.
        leaving: How many have a closed clone, and have not ended.
    """

    def __init__(
        self,
        number: int,
        run: Callable[[trio.MemoryReceiveChannel[str]], Awaitable[None]],
        capacity: Capacity,
        limit_threads: Callable[[int], object],
    ) -> None:
        self.number = number
        self.leaving = 0
        self._run = run
        self._capacity = capacity
        self._limit_threads = limit_threads
        # In the order of their starts. None until the task has begun.
        self._staying: dict[trio.MemoryReceiveChannel[str], trio.lowlevel.Task | None] = {}
        self._names = map("worker-{}".format, count())
        self._start_soon: Callable[..., object] | None = None

    def open(
        self, nursery: trio.Nursery, watch: Callable[..., Awaitable[None]] | None = None
    ) -> None:
        """Start all workers in this nursery, each within ``watch`` if there is one."""
        self._start_soon = (
            nursery.start_soon if watch is None else partial(nursery.start_soon, watch)
        )

    def start(self, jobs: trio.MemoryReceiveChannel[str]) -> None:
        """Start a worker on its own clone of the receive end."""
        assert self._start_soon is not None  # noqa: S101  (for the type checker)
        self._start_soon(self._run_one, jobs, name=next(self._names))
        self._staying[jobs] = None

    async def set_number(self, number: int) -> None:
        """Ask for so many workers: more start, or some leave, idle ones first.

        A worker that waits for the disk counts as idle. At the return the idle ones have ended, and
        the busy ones that leave have a closed clone. The new ones have started, except for those
        that take the places of leaving ones.

        Args:
            number: At least 1; the channel has room for so many and the buffer.

        Raises:
            ShuttingDownError: The pool takes no more jobs.

        Cancellation:
            Not acted on.

        Checkpoints:
            One after each millisecond's work, and two at the end.
        """
        if self._is_fixed():
            raise ShuttingDownError
        self.number = number
        with trio.CancelScope(shield=True):
            for _ in iter(self._approach, False):
                await trio.lowlevel.checkpoint()
            # The idle workers whose clones were closed last end in the next turn.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    # As for `run_worker`: KeyboardInterrupt is raised in the program's own code.
    @trio.lowlevel.enable_ki_protection
    async def _run_one(self, jobs: trio.MemoryReceiveChannel[str]) -> None:
        if jobs in self._staying:
            self._staying[jobs] = trio.lowlevel.current_task()
        try:
            await self._run(jobs)
        finally:
            if jobs in self._staying:
                del self._staying[jobs]
            else:
                self.leaving -= 1
            self._limit_threads(max(self._count, 1))
        self._start_some()  # another one may start in its place

    @property
    def _count(self) -> int:
        return len(self._staying) + self.leaving

    def _is_fixed(self) -> bool:
        """Whether the number can change no more: the pool ends, or has not begun."""
        return self._capacity.closed or not self._staying

    def _approach(self) -> bool:
        """Start, or let go, some of the workers; return whether there may be more of them."""
        return self._start_some() or self._let_some_go()

    def _start_some(self) -> bool:
        if self._is_fixed():
            return False
        missing = min(self.number - self._count, _STRIDE)
        if missing > 0:
            self._limit_threads(self._count + missing)
            receive = next(iter(self._staying))
            for _ in range(missing):
                self.start(receive.clone())
            return True
        return False

    def _let_some_go(self) -> bool:
        if self._is_fixed():
            return False
        surplus = min(len(self._staying) - self.number, _STRIDE)
        if surplus > 0:
            for jobs in list(islice(self._idle_first(), surplus)):
                del self._staying[jobs]
                self.leaving += 1
                jobs.close()
            return True
        return False

    def _idle_first(self) -> Iterator[trio.MemoryReceiveChannel[str]]:
        """The staying workers: those without a job, then the others; of each, the newest first."""
        busy = []
        for jobs, task in reversed(self._staying.items()):
            if task is not None and task.context.get(current_job_id) is not None:
                busy.append(jobs)
            else:
                yield jobs
        yield from busy
