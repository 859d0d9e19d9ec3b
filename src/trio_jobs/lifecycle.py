"""`Lifecycle`: running → draining → cancelled → closed, and what a failure of a part does."""

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from trio_jobs.error_groups import without_groups

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a server has ended.

    Attributes:
        status: The exit status: 0; or 1 if a job is unfinished, or the pool or HTTP has failed.
        peak_buffered: The most jobs that were in the buffer at one time.
    """

    status: int = 0
    peak_buffered: int = 0


class Lifecycle:
    """Where the server is in its life. It only moves forwards, and each step sets one event.

    Args:
        refuse_jobs: Called when the pool fails: a server that accepts jobs must process them.
        arm_hard_limit: Called when the pool or HTTP fails. ``draining`` (by default False) says
            whether the pool still gets its grace period.

    Attributes:
        draining: New jobs are refused; the workers finish the accepted ones.
        cancelled: The workers are cancelled before the grace period is over.
        closed: The pool has ended, so HTTP closes.
        opening: The scope in which lifespans open; a drain cancels it.
        starting: The scope in which HTTP starts; a drain cancels it, so no port opens.
        pool: The scope of the workers; its deadline is the end of the grace period.
        error: The first failure of the pool.
        failed: Whether the pool or HTTP has failed.
    """

    def __init__(
        self, *, refuse_jobs: Callable[[], object], arm_hard_limit: Callable[..., object]
    ) -> None:
        self._refuse_jobs = refuse_jobs
        self._arm_hard_limit = arm_hard_limit
        self.draining = trio.Event()
        self.cancelled = trio.Event()
        self.closed = trio.Event()
        self.opening = trio.CancelScope()
        self.starting = trio.CancelScope()
        self.pool = trio.CancelScope()
        self.error: BaseException | None = None
        self.failed = False

    def drain(self) -> None:
        """Begin the drain."""
        self.draining.set()
        self.opening.cancel()
        self.starting.cancel()

    def cancel(self) -> None:
        """Cancel the workers at once: a second signal has come, or the pool has failed."""
        self.cancelled.set()
        self.pool.cancel()

    def close(self) -> None:
        """Close HTTP, now that the pool has ended."""
        self.closed.set()

    def fail(self, error: BaseException, *, quietly: bool = False) -> None:
        """Stop at once, since the pool has failed. A second failure has no effect.

        Args:
            error: The failure; the groups that nurseries put around one error are taken off.
            quietly: Whether the error is left out of the log.
        """
        if self.error is None:
            self.error = without_groups(error)
            self.failed = True
            self._refuse_jobs()
            self._arm_hard_limit()
            if not quietly:
                log.critical("pool_failed", exc_info=self.error)
            self.cancel()

    async def watch_worker(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a worker. If it fails, stop at once.

        At once means before the pool's nursery exits: a handler that never unwinds would delay
        that forever.
        """
        try:
            await work(*args)
        except BaseException as error:
            if trio.current_effective_deadline() != -math.inf:
                self.fail(error)
            raise

    async def watch_http(
        self,
        serve: Callable[..., Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve HTTP. A failure before it has started is raised; a later one begins the drain."""
        started = False
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve)
                started = True
                task_status.started()
            if not self.closed.is_set():
                raise RuntimeError("HTTP has ended by itself")  # noqa: TRY301  # logged below
        except Exception as error:
            if not started:
                raise
            log.critical("http_failed", exc_info=without_groups(error))
            self.drain_after_failure()

    def drain_after_failure(self, _: BaseException | None = None) -> None:
        """Begin the drain, since a part beside the pool has failed: HTTP, or a lifespan."""
        self.failed = True
        self._arm_hard_limit(draining=not self.closed.is_set())
        self.drain()
