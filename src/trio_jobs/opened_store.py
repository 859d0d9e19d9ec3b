"""The store of one process, from its opening to its end; and the one in memory."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime
from typing import Protocol, TypedDict

import trio

from trio_jobs.job import Job
from trio_jobs.lifecycle import Lifecycle
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.store import Store, StoreDatabaseError
from trio_jobs.pool.unfinished import Line
from trio_jobs.pool.wiring import Lease
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.memory import MemoryStore as MemoryStore

log = logging.getLogger(__name__)


class ForPool(TypedDict, total=False):
    """Arguments of `make_pool`; see there."""

    last_id: str
    lease: Lease
    nanoseconds: Callable[[], int]
    now: Callable[[], datetime]


class OpenedStore(Protocol):
    """A store, and what its process does with it before the pool runs and after its end."""

    @property
    def store(self) -> Store:
        """The store."""

    @property
    def for_pool(self) -> ForPool:
        """What `make_pool` is given beside the store."""

    def around(
        self, pool: Pool, stopping: trio.Event | None = None
    ) -> AbstractAsyncContextManager[None]:
        """A block in which the store has what it needs; all of the pool's life is in it.

        With a database its connections are open, and its tasks run.

        Args:
            pool: The pool, which has not begun.
            stopping: If this is set while the connections open, the block is not entered.

        Raises:
            StoreDatabaseError: The database cannot be used.
            StartStoppedError: ``stopping`` was set.
        """

    def start(self, pool: Pool) -> None:
        """Let the jobs of earlier processes wait for their turn in the pool, which has not begun.

        The event loop of the pool calls this.
        """

    def find_nowait(self, job_id: str) -> Job:
        """The job as clients see it now, if that needs no wait.

        Raises:
            JobNotFoundError: There is no such job; or, with a file, none that is unfinished.
        """

    def unwritten_lines(self) -> Iterator[Line]:
        """Name the jobs whose ends are not on the disk. Any thread may call this."""

    async def close(self, pool: Pool, *, seconds: float) -> bool:
        """Write and close the store. The pool has ended, and nobody else uses the store.

        Returns:
            Whether all is written; never later than after ``seconds``.
        """


class StoreInMemory:
    """An `OpenedStore` in memory.

    Args:
        settings: The bounds.
        now: The wall clock, as an aware UTC time.
    """

    def __init__(self, settings: StoreSettings, *, now: Callable[[], datetime]) -> None:
        self.for_pool = ForPool(now=now)
        self.store = MemoryStore(settings, now=now)
        self.find_nowait = self.store.find_nowait

    def around(
        self,
        pool: Pool,  # noqa: ARG002
        stopping: trio.Event | None = None,  # noqa: ARG002
    ) -> AbstractAsyncContextManager[None]:
        """See `OpenedStore.around`; there are no connections."""
        return nullcontext()

    def start(self, pool: Pool) -> None:
        """See `OpenedStore.start`; there are no such jobs."""

    def unwritten_lines(self) -> Iterator[Line]:
        """See `OpenedStore.unwritten_lines`."""
        return iter(())

    async def close(self, pool: Pool, *, seconds: float) -> bool:  # noqa: ARG002
        """See `OpenedStore.close`; makes no checkpoint."""
        self.store.report_dropped()
        return True


# Opens the store, in the event loop; given what to call there if the store cannot go on.
OpenStore = Callable[[Callable[[Exception], None]], OpenedStore]


def stop_after_failure(lifecycle: Lifecycle, error: Exception) -> None:
    """Stop the server at once: its store has failed while it runs.

    A database that cannot be used any more is told in one line: nothing of the server is broken.
    """
    is_unusable = isinstance(error, StoreDatabaseError)
    if is_unusable and not lifecycle.failed:
        log.critical("store_unusable", extra={"reason": str(error)})
    lifecycle.fail(error, quietly=is_unusable)
