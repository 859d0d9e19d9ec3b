"""`Membership`: this server's lease among the servers of a database, as a cancel scope.

A server that cannot renew its lease cuts its own jobs before any other may take them over: each
running job is in a cancel scope with the lease's deadline. All other tasks of the server go on.

A scope cannot stop what makes no checkpoint: a thread, a handler that blocks the event loop or
shields itself, and, after a frozen process resumes, a handler that was ready to run, up to its next
checkpoint. What such a handler returns does not count: its job's end is refused if another server
has fetched the job.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from types import TracebackType
from typing import Final, Self

import trio

from trio_jobs.job import Ending, Job, Later
from trio_jobs.pool.worker import Process, ProcessBlock

# What a worker gets for a job that the lease has cut, or kept from beginning. The store ends the
# run, and records nothing.
CUT: Final = Later(seconds=0.0, snooze=True, lost=True)


class Membership:
    """The lease of this server; a new one begins after each that was lost.

    The listener joins and renews. A lease that was not renewed in time is lost for good, even if
    the answer comes later: its deadline has cut jobs that the database still says are here.

    Args:
        lost: Called with the id of a membership when it is lost: the jobs that were fetched under
            it are no longer here. Makes no checkpoint.

    Attributes:
        id: The membership's number in the database, which is never used again; 0 without one.
        deadline: Until when the lease holds, by Trio's clock; in the past without one.
    """

    def __init__(self, lost: Callable[[int], object]) -> None:
        self.id = 0
        self.deadline = -math.inf
        self._lost = lost
        self._running: set[trio.CancelScope] = set()
        self._changed = trio.Event()

    @property
    def holds(self) -> bool:
        """Whether there is a lease, and it has not run out."""
        return trio.current_time() < self.deadline

    async def wait_joined(self) -> None:
        """Wait until there is a lease.

        Checkpoints:
            Only if there is none.
        """
        while not self.id:
            await self._changed.wait()

    async def wait_lost(self) -> None:
        """Wait until there is no lease.

        Checkpoints:
            Only if there is one.
        """
        while self.id:
            await self._changed.wait()

    def joined(self, member: int, deadline: float) -> None:
        """Begin a lease.

        Args:
            member: The id of the new membership.
            deadline: The time before the request was sent, by Trio's clock, plus the lease.
        """
        assert not self.id  # noqa: S101 - the listener joins only after a lease was lost
        self.id, self.deadline = member, deadline
        self._note_change()

    def renewed(self, deadline: float) -> bool:
        """Move the deadline of the lease, and of all running jobs.

        Args:
            deadline: The time before the request was sent, by Trio's clock, plus the lease.

        Returns:
            Whether the lease goes on; False if it had run out before this call: then it is lost.
        """
        if not self.holds:
            self.lost()
            return False
        self.deadline = deadline
        for scope in self._running:
            scope.deadline = deadline
        return True

    def lost(self) -> None:
        """End the lease: cut the running jobs, and forget the fetched ones. Idempotent."""
        member, self.id, self.deadline = self.id, 0, -math.inf
        if not member:
            return
        for scope in self._running:
            scope.cancel()
        self._lost(member)
        self._note_change()

    async def guard(self) -> None:
        """Call `lost` each time that a lease runs out, until cancelled."""
        while True:
            with trio.move_on_at(self.deadline if self.id else math.inf):
                await self._changed.wait()
            if self.id and not self.holds:
                self.lost()

    def around(
        self,
        for_worker: ProcessBlock,
        *,
        is_here: Callable[[str], bool],
        cut: Callable[[str], object],
    ) -> ProcessBlock:
        """The same block, whose function runs each job in a cancel scope of the lease.

        The function returns `CUT` for a job that the lease has cut, or that is not here any more
        when it is to begin. A handler that ends all the same while it is being cut has ended: the
        function returns its end, and the database decides whether it still counts.

        Args:
            for_worker: The block of a worker.
            is_here: Whether the job was fetched under the present membership.
            cut: Called with the id of a job whose handler the lease has cancelled.
        """

        @contextmanager
        def leased_block() -> Iterator[Process]:
            with closing(_KeptBlock(for_worker, self._running)) as block:

                async def leased(job: Job) -> Ending | Later:
                    if not self.holds or not is_here(job.id):
                        return CUT
                    with block.until(self.deadline) as process:
                        return await process(job)
                    cut(job.id)
                    return CUT

                yield leased

        return leased_block

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class _KeptBlock:
    """A worker's block in a cancel scope of the lease; both are kept from job to job.

    Between two jobs the scope has no deadline: a worker that waits for a job is not cut. When a job
    was cut, or has raised, Trio leaves the scope, and the next job gets a new one.

    Args:
        for_worker: Makes the block. Its own scope, which is kept too, is inside the one of the
            lease.
        running: The scopes of the jobs that run.
    """

    def __init__(self, for_worker: ProcessBlock, running: set[trio.CancelScope]) -> None:
        self._for_worker = for_worker
        self._running = running
        self._kept = ExitStack()
        self._scope: trio.CancelScope | None = None
        self._process: Process

    def until(self, deadline: float) -> Self:
        """Set when to cut the next job, by Trio's clock."""
        if self._scope is None:
            self._scope = self._kept.enter_context(trio.CancelScope())
            self._process = self._kept.enter_context(self._for_worker())
        self._scope.deadline = deadline
        self._running.add(self._scope)
        return self

    def __enter__(self) -> Process:
        """Begin a job."""
        return self._process

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End a job, as `trio.CancelScope` does."""
        scope = self._scope
        assert scope is not None  # noqa: S101  (for the type checker: the job has begun)
        self._running.discard(scope)
        if error is None and not scope.cancel_called:
            scope.deadline = math.inf
            return False
        self._scope = None
        return bool(self._kept.__exit__(kind, error, traceback))

    def close(self) -> None:
        """Leave the block and the scope that the last job has kept."""
        self._kept.close()
