"""`main`: opens the channel and both nurseries, starts the workers, serves, and stops in order."""

import logging
import math

import trio

from trio_jobs.error_groups import without_groups
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.http_service import make_http_service
from trio_jobs.instruments import add_instruments
from trio_jobs.lifecycle import Ended, Lifecycle
from trio_jobs.opened_store import stop_after_failure
from trio_jobs.pool.wiring import make_pool
from trio_jobs.resources import Resources
from trio_jobs.server.sockets import BindError
from trio_jobs.settings import MAX_WORKERS, Config
from trio_jobs.unfinished_report import UnfinishedReport

log = logging.getLogger(__name__)


async def main(config: Config, handlers: HandlerRegistry, resources: Resources) -> Ended:
    """Serve until a signal asks to stop, or a part of the server fails.

    When this returns, the workers, the places where handlers run, and HTTP have ended.

    Args:
        config: The settings.
        handlers: The users' functions.
        resources: What belongs to the process; the caller closes it.

    Raises:
        BindError: Another process was the first to listen on one of the addresses.
        StoreDatabaseError: See `OpenedStore.around`.
        LifespanError, LoopStartError, StartStoppedError: See `Places.open`.

    Cancellation:
        The workers and HTTP end at once, those places within bounded time. The running
        jobs are released.
    """
    stop, http, folder = resources.stop, config.http, resources.folder
    seconds = http.graceful_timeout
    # Room for each slot of `Capacity`, whose number of workers can grow to this maximum: a job that
    # has a slot never meets a full channel.
    send, receive = trio.open_memory_channel[str](config.pool.buffer_size + MAX_WORKERS)
    opened = resources.open_store(lambda error: stop_after_failure(lifecycle, error))
    sections = (config.pool, config.store, http, config.metrics, resources.tracing)
    pool = make_pool(handlers, send, opened.store, *sections, folder=folder, **opened.for_pool)
    admission = pool.admission
    lifecycle = Lifecycle(refuse_jobs=admission.close, arm_hard_limit=stop.arm_after_crash)
    monitor = add_instruments(pool.executor, config, resources.takeovers, resources.logs)
    # Behind the other instruments: it may wake a thread, and they would share the interpreter.
    opened.start(pool)
    serve_http = make_http_service(config, pool, opened, resources, lifecycle, monitor)
    left, unwritten = resources.leftovers, opened.unwritten_lines
    report = UnfinishedReport(pool.left_behind, left, unwritten=unwritten)
    stop.connect(drain=lifecycle.drain, cancel=lifecycle.cancel, report=report)

    watch = lifecycle.watch_worker
    async with opened.around(pool, lifecycle.draining):
        # The places where handlers run, and HTTP, outlive the pool.
        events = (lifecycle.opening, lifecycle.closed, lifecycle.drain_after_failure)
        async with pool.places.open(*events, seconds=seconds), trio.open_nursery() as server:
            try:
                with lifecycle.pool:
                    async with trio.open_nursery() as workers:
                        pool.worker_tasks.open(workers, watch)
                        for _ in range(config.pool.workers):
                            pool.worker_tasks.start(receive.clone())
                        receive.close()  # the workers hold the clones
                        workers.start_soon(watch, pool.run_schedule, name="schedule")
                        with lifecycle.starting:
                            await server.start(lifecycle.watch_http, serve_http)
                            resources.service_manager.tell_ready()
                        await lifecycle.draining.wait()  # a signal, or HTTP has failed
                        log.info("draining", extra={"buffered": admission.buffered})
                        admission.close()  # the only send end: POST answers 503, workers drain
                        lifecycle.pool.deadline = trio.current_time() + stop.grace_left()
                        resources.service_manager.tell_stopping(seconds=stop.seconds_left())
                if not lifecycle.draining.is_set():
                    lifecycle.fail(RuntimeError("the pool ended by itself"))
            except BaseException as error:  # noqa: ASYNC103 - raised again if this task is cancelled
                if trio.current_effective_deadline() == -math.inf:
                    raise  # the whole server is being cancelled, not the pool
                lifecycle.fail(error, quietly=isinstance(without_groups(error), BindError))
            lifecycle.close()
            closed_at = trio.current_time() + seconds
            if unfinished := pool.left_behind():  # HTTP closes meanwhile
                await report.write_in_thread(unfinished, resources.logs, seconds=seconds)
        if isinstance(lifecycle.error, BindError):
            raise lifecycle.error  # another process was faster: nothing of the server is broken
        written = await opened.close(pool, seconds=max(closed_at - trio.current_time(), 0.3))
        status = 1 if lifecycle.failed or pool.places.faulty or unfinished or not written else 0
        return Ended(status=status, peak_buffered=admission.peak_buffered)
