"""`main`: makes the parts, opens the nurseries, starts N workers, serves, and stops in order.

The parts of the server meet here: everything else gets what it needs as arguments.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import trio

from trio_jobs.api.app import create_app
from trio_jobs.api.context import ApiContext
from trio_jobs.forks import Forks, end_copy_with_its_step
from trio_jobs.handlers.blocking_monitor import BlockingMonitor
from trio_jobs.handlers.nurseries import GeneratorEnds
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.leftovers import Leftovers
from trio_jobs.logs.installation import Logs
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.pool import make_pool
from trio_jobs.pool.worker import check_channel_has_ended, run_worker
from trio_jobs.server.serve import serve
from trio_jobs.server.sockets import BindError, Listeners
from trio_jobs.service_manager import ServiceManager
from trio_jobs.settings import Config
from trio_jobs.shutdown.stop import Stop
from trio_jobs.takeovers import Takeovers, TakesBackBeforeWaiting
from trio_jobs.unfinished_report import UnfinishedReport

log = logging.getLogger(__name__)

# Seconds that reporting the unfinished jobs gets at the least. It goes on while HTTP closes, and
# must be over before the hard limit when nobody reads the log.
_REPORT_SECONDS = 0.3

# Seconds from the end of `http.graceful_timeout` to the last of the hard limit's clocks, and some.
_HARD_LIMIT_SECONDS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a server has ended.

    Attributes:
        status: The exit status: 0, nothing was left; 1, something was left or broke.
        peak_buffer_used: How many jobs were in the buffer at the most.
    """

    status: int = 0
    peak_buffer_used: int = 0


async def main(
    config: Config,
    handlers: HandlerRegistry,
    listeners: Listeners,
    stop: Stop,
    logs: Logs,
    token: str | None = None,
    folder: int | None = None,
    service_manager: ServiceManager | None = None,
    takeovers: Takeovers | None = None,
    forks: Forks | None = None,
    leftovers: Leftovers | None = None,
) -> Ended:
    """Serve until a signal asks to stop; everything is over when this returns.

    Args:
        config: The settings, unpacked here.
        handlers: The users' functions.
        listeners: Bound, not yet listening.
        stop: Says when to stop, and sees to it that the process does.
        logs: Where the unfinished jobs are named.
        token: What clients must show, if anything.
        folder: A descriptor of the folder that child processes start in; None for
            this process's own.
        service_manager: Told when connections are accepted, and when the stop begins.
        takeovers: Looked at at every turn of the event loop.
        forks: Told what a child that a handler forks gives up.
        leftovers: Where the unfinished jobs are left, if anywhere; started.

    Returns:
        How it has ended, for the last line of the log, which is written when nothing can change it
        any more.

    Raises:
        BindError: Somebody else was the first to listen on one of the addresses.

    Cancellation:
        Everything ends at once; jobs cut short are released.
    """
    send, receive = trio.open_memory_channel[str](config.pool.buffer_size)
    core = make_pool(
        handlers,
        send,
        workers=config.pool.workers,
        processes=config.pool.processes,
        keep_completed=config.store.keep_completed,
        keep_completed_bytes=config.store.keep_completed_bytes,
        max_result_bytes=config.store.max_result_bytes,
        max_waiters=config.http.max_waiters,
        folder=folder,
    )
    store, executor, admission = core.store, core.executor, core.admission
    trio.lowlevel.add_instrument(GeneratorEnds())
    if config.logging.slow_step:
        trio.lowlevel.add_instrument(BlockingMonitor(executor, limit=config.logging.slow_step))

    retry_after = max(1, math.ceil(config.pool.grace_period))
    app = create_app(ApiContext(pool=core, http=config.http, shutdown_retry_after=retry_after))
    ending = trio.Event()  # set by the first signal, and when HTTP fails
    pool_ended = trio.Event()
    failure = _Failure(stop, admission)
    serve_http = partial(
        serve,
        app,
        listeners,
        config.http,
        closing=pool_ended,
        token=token,
        health_path="/health",
        reserved_descriptors=core.processes.max_descriptors if core.processes else 0,
        connection_closed=core.shortage.note_change,
        last_moment=partial(_last_moment, config, stop, failure),
    )
    http = _Http(serve_http, stop, ending=ending, closing=pool_ended)
    report = UnfinishedReport(core.unfinished_jobs, leftovers)
    stop.unfinished = report.lines
    stop.connect()
    service_manager = service_manager or ServiceManager(None)
    if takeovers is not None:
        look = TakesBackBeforeWaiting(takeovers, executor.recent_types, executor.forget_types)
        trio.lowlevel.add_instrument(look)
    if forks is not None:
        forks.in_child(end_copy_with_its_step)

    # The child processes and HTTP outlive the pool.
    async with core.processes or nullcontext(), trio.open_nursery() as server:
        try:
            async with trio.open_nursery() as pool:
                for n in range(config.pool.workers):
                    worker = (run_worker, receive.clone(), store, executor)
                    pool.start_soon(failure.watch, *worker, name=f"worker-{n}")
                receive.close()  # the workers hold the clones
                with trio.CancelScope() as opening:
                    # Outlives the pool: to cancel a scope that is over does nothing.
                    scopes = opening, pool.cancel_scope
                    server.start_soon(_watch_signals, stop, ending, *scopes)
                    await server.start(http.run)
                    service_manager.tell_ready()
                await ending.wait()
                log.info("draining", extra={"buffered": admission.buffered})
                admission.close()  # the only send end: POST answers 503, workers drain and end
                pool.cancel_scope.deadline = _grace_ends(stop, config.pool.grace_period)
                drain_seconds = pool.cancel_scope.deadline - trio.current_time()
                service_manager.tell_stopping(
                    seconds=drain_seconds + config.http.graceful_timeout + _HARD_LIMIT_SECONDS
                )
            if not ending.is_set():
                failure.note(RuntimeError("the pool ended by itself"))
        except BaseException as error:  # noqa: ASYNC103 - raised again if it is this task's own
            if trio.current_effective_deadline() == -math.inf:
                raise  # not the pool: the whole server is being cancelled
            failure.note(_unwrapped(error))
        core.waiters.end()  # who still waits for a job gets it as it is
        pool_ended.set()
        unfinished = core.unfinished_jobs()
        if unfinished:
            seconds = max(config.http.graceful_timeout, _REPORT_SECONDS)
            write = partial(report.write, unfinished, logs, seconds=seconds)
            try:
                # With a limiter of its own: handlers may have filled Trio's.
                await trio.to_thread.run_sync(write, limiter=trio.CapacityLimiter(1))
            except RuntimeError:  # no thread to be had; it does not take for ever
                write()
        await http.ended.wait()
        server.cancel_scope.cancel()  # nobody is left who could be asked to stop
    if isinstance(failure.error, BindError):
        raise failure.error  # another process was faster: nothing of ours is broken
    core.report_dropped()
    status = 1 if failure.error is not None or http.failed or unfinished else 0
    return Ended(status=status, peak_buffer_used=admission.peak_buffer_used)


class _Failure:
    """A bug of ours in the pool: a server that accepts must process, so this one stops at once.

    At once is before the pool's nursery is left: that takes until every handler
    has unwound, which may be never.
    """

    def __init__(self, stop: Stop, admission: Admission) -> None:
        self._stop = stop
        self._admission = admission
        self.error: BaseException | None = None

    async def watch(
        self,
        worker: Callable[..., Awaitable[None]],
        jobs: trio.MemoryReceiveChannel[str],
        *args: object,
    ) -> None:
        """Run a worker, and note the error that it ends with, if it does.

        Raises:
            RuntimeError: It has returned, though its channel goes on: the pool would shrink.
        """
        try:
            await worker(jobs, *args)
            check_channel_has_ended(jobs)
        except BaseException as error:
            if trio.current_effective_deadline() != -math.inf:
                self.note(error)
            raise

    def note(self, error: BaseException) -> None:
        """Take no more jobs, arm the hard limit, log the error; for the first one only."""
        if self.error is None:
            self.error = error
            self._admission.close()
            self._stop.arm_after_crash()
            if not isinstance(error, BindError):
                log.critical("pool_failed", exc_info=error)


class _Http:
    """The front door's task, which outlives its own failure: jobs in the pool go on."""

    def __init__(
        self,
        serve_http: Callable[..., Awaitable[None]],
        stop: Stop,
        *,
        ending: trio.Event,
        closing: trio.Event,
    ) -> None:
        self._serve = serve_http
        self._stop = stop
        self._ending = ending
        self._closing = closing
        self.failed = False
        self.ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the pool has ended. A failure is logged, and begins the end."""
        started = False
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._serve)
                started = True
                task_status.started()
            self._check_that_it_was_to_end()
        except Exception as error:
            if not started:
                raise
            self.failed = True
            self._stop.arm_after_crash(draining=not self._closing.is_set())
            log.critical("http_failed", exc_info=_unwrapped(error))
            self._ending.set()
        finally:
            self.ended.set()

    def _check_that_it_was_to_end(self) -> None:
        if not self._closing.is_set():
            raise RuntimeError("HTTP has ended by itself")


async def _watch_signals(
    stop: Stop, ending: trio.Event, opening: trio.CancelScope, pool: trio.CancelScope
) -> None:
    await stop.requested()
    opening.cancel()  # a server that stops while it starts lets nobody in
    ending.set()
    await stop.force_requested()
    pool.cancel()


def _grace_ends(stop: Stop, grace_period: float) -> float:
    """When the grace period is over, by Trio's clock: it began at the signal."""
    began = stop.at if stop.at is not None else time.monotonic()
    return trio.current_time() + grace_period - (time.monotonic() - began)


async def _last_moment(config: Config, stop: Stop, failure: _Failure) -> None:
    """Wait until the answers that clients are still reading must not go on.

    At once if the stop is forced; else when as long is left until the hard limit as without them.
    """
    if stop.at is None or failure.error is not None:
        return
    ends = _grace_ends(stop, config.pool.grace_period) + config.http.graceful_timeout
    with trio.move_on_at(ends):
        await stop.force_requested()


def _unwrapped(error: BaseException) -> BaseException:
    """The error inside the groups that nurseries put around a single one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
