"""`open_jobs`: a pool of workers inside any Trio program."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import trio

from trio_jobs.embedded_jobs import DurableJobs, Jobs
from trio_jobs.handlers.nurseries import GeneratorEnds
from trio_jobs.handlers.places import read_states
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.opened_store import OpenedStore, StoreInMemory
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.unfinished import unfinished_lines
from trio_jobs.pool.wall_clock import wall_clock
from trio_jobs.pool.wiring import make_pool
from trio_jobs.setting_type import ConfigError, build
from trio_jobs.settings import (
    MAX_WORKERS,
    SETTINGS,
    HttpSettings,
    MetricsSettings,
    PoolSettings,
    StoreSettings,
)
from trio_jobs.store_settings import check_store_settings

if TYPE_CHECKING:  # a program whose handlers need no asyncio does not import it
    from trio_jobs.handlers.asyncio_runner import LoopChoice

log = logging.getLogger(__name__)

# The defaults.
_POOL, _STORE, _HTTP = PoolSettings(), StoreSettings(), HttpSettings()


class Options(TypedDict, total=False):
    """The arguments of `open_jobs` beside ``path`` and ``url``, for type checkers."""

    workers: int
    buffer_size: int
    max_waiting: int
    processes: int | None
    async_handlers: Literal["trio", "asyncio"]
    asyncio_loop: "LoopChoice"
    lifespan: Mapping[str, object] | None
    state: Mapping[str, object] | None
    drain: Literal["all", "running"] | None
    listen_url: str | None
    lease: float
    max_open: int
    sync: Literal["full", "normal"]
    timeout: float
    keep_completed: int
    keep_failed: int
    keep_completed_bytes: int
    keep_for: float | None
    max_payload_bytes: int
    max_result_bytes: int
    max_waiters: int
    max_types: int | None


@overload
def open_jobs(
    handlers: Mapping[str, object],
    *,
    path: None = None,
    url: None = None,
    **options: Unpack[Options],
) -> AbstractAsyncContextManager[Jobs]: ...


@overload
def open_jobs(
    handlers: Mapping[str, object],
    *,
    path: str | PathLike[str],
    url: None = None,
    **options: Unpack[Options],
) -> AbstractAsyncContextManager[DurableJobs]: ...


@overload
def open_jobs(
    handlers: Mapping[str, object], *, path: None = None, url: str, **options: Unpack[Options]
) -> AbstractAsyncContextManager[DurableJobs]: ...


@overload
def open_jobs(
    handlers: Mapping[str, object],
    *,
    path: str | PathLike[str] | None = None,
    url: str | None = None,
    **options: Unpack[Options],
) -> AbstractAsyncContextManager[Jobs | DurableJobs]: ...


@asynccontextmanager
async def open_jobs(
    handlers: Mapping[str, object],
    *,
    workers: int = _POOL.workers,
    buffer_size: int = _POOL.buffer_size,
    max_waiting: int = _POOL.max_waiting,
    processes: int | None = None,
    async_handlers: Literal["trio", "asyncio"] = _POOL.async_handlers,
    asyncio_loop: "LoopChoice" = _POOL.asyncio_loop,
    lifespan: Mapping[str, object] | None = None,
    state: Mapping[str, object] | None = None,
    path: str | PathLike[str] | None = None,
    url: str | None = None,
    drain: Literal["all", "running"] | None = None,
    listen_url: str | None = None,
    lease: float = _STORE.lease,
    max_open: int = _STORE.max_open,
    sync: Literal["full", "normal"] = _STORE.sync,
    timeout: float = _STORE.timeout,  # noqa: ASYNC109  (of a disk)
    keep_completed: int = _STORE.keep_completed,
    keep_failed: int = _STORE.keep_failed,
    keep_completed_bytes: int = _STORE.keep_completed_bytes,
    keep_for: float | None = _STORE.keep_for,
    max_payload_bytes: int = _HTTP.max_body_bytes,
    max_result_bytes: int = _STORE.max_result_bytes,
    max_waiters: int = _HTTP.max_waiters,
    max_types: int | None = None,
) -> AsyncIterator[Any]:
    """A pool of workers for the length of an ``async with`` block.

    Leaving the block drains: no more jobs are taken, and those already accepted are completed. A
    job that waits for a later time, or fails and wants another attempt, stays pending; the log
    names it.
    An exception that leaves the block cancels these jobs, and so does the cancellation of a scope
    around the block; the log names the jobs that are unfinished then. For a drain of bounded
    length, set that scope's deadline before leaving.

    With a ``path`` the jobs are in a file, and survive the process: the block gives `DurableJobs`.
    Jobs of earlier processes go on. Leaving the block then waits for the jobs that run, and leaves
    the others in the file. Only one process at a time can open the file.

    With a ``url`` they are in a PostgreSQL database, which as many programs and servers as you like
    share: each runs jobs that any of them has taken in. The block gives `DurableJobs`, too.

    A child process imports the file of its handler. If that is the program's own file, the program
    must start its work below ``if __name__ == "__main__":``.

    Args:
        handlers: A function for each job type, or a `Handler` made with `Handler.of` for more
            choices; ``default`` takes every type that has no entry of its own.
        workers: How many jobs run at the same time.
        buffer_size: How many jobs may wait for a worker.
        max_waiting: How many new jobs may wait for a later time, or for others of a type with a
            ``max_running``. A retry is never refused.
        processes: How many child processes there are at the most, if handlers ask for them;
            None for as many as there are processors.
        async_handlers: Where async functions run that are no `Handler`: ``"trio"`` or
            ``"asyncio"``.
        asyncio_loop: The event loop of handlers on asyncio: ``"asyncio"`` or ``"uvloop"`` starts
            one in a thread, and so does a function that makes one. A loop of the program's own,
            which runs in another thread, is used as it is.
        lifespan: For each place where handlers run (``"trio"``, ``"asyncio"``, ``"thread"``,
            ``"process"``; ``"async"`` is what ``async_handlers`` says) a function without
            parameters that makes a context manager: an async one on Trio and asyncio. It is entered
            before the first job and left after the last one. What it yields is the ``state`` of the
            `JobContext`.
        state: For each of these places but ``"process"`` the ``state`` itself, where the program
            has opened it.
        path: The file for the jobs; its folder must be there. None keeps them in memory.
        url: The database for the jobs, in place of a file: ``postgresql://…``. `trio-jobs migrate`
            has made its tables.
        drain: What the end of the block waits for: ``"all"`` accepted jobs, or those that are
            ``"running"``; the latter is the default with a file, and all there is with a database.
        listen_url: The database without the pooler, if ``url`` goes through one in transaction
            mode.
        lease: After how many seconds the others take over the jobs of a program that is silent, or
            has lost its database.
        max_open: How many unfinished jobs may be in the database. There ``max_waiting`` has no
            effect.
        sync: What jobs in the file survive: ``"full"`` a power cut, too; ``"normal"`` only the end
            of the process.
        timeout: How many seconds a method of `DurableJobs` waits for the disk or the database.
        keep_completed: How many jobs that succeeded are kept; the oldest are dropped.
        keep_failed: How many jobs with another outcome are kept, apart from the former.
        keep_completed_bytes: How many bytes all completed jobs may hold together. Beyond that,
            the oldest are dropped, of those that hold more: the successes or the others.
        keep_for: How many seconds a completed job stays in the file or the database at most; None:
            for ever in a file, a day in a database.
        max_payload_bytes: The largest payload, as JSON, and over HTTP the longest body, in bytes.
        max_result_bytes: The largest result, as JSON; a job with a larger one fails.
        max_waiters: How many tasks may wait for jobs at the same time, with those of HTTP requests.
        max_types: Of how many job types the jobs are counted apart, for
            `trio_jobs.metrics.JobsCollector`, ``GET /pool`` and ``GET /events``. None counts
            nothing, and there is no ``/events``.

    Raises:
        HandlerError: A function cannot be a handler; the text says for which type.
        ValueError: A value is out of its range, which is that of the setting of this name.
        StoreFileError: The file cannot be used.
        StoreDatabaseError: The database cannot be used.
        LifespanError: A lifespan has not opened. If one fails later, its error ends the block.
        LoopStartError: asyncio's loop cannot be started.
        RuntimeError: The caller is no task of Trio.

    Cancellation:
        Cancels the jobs, and waits until handlers on Trio have unwound and processes are killed.
        It waits a bounded time for tasks of asyncio and for lifespans. A thread cannot be
        interrupted: it goes on after the block (``thread_still_running`` in the log).

    Checkpoints:
        At the end of the block; with a file or a database also at its beginning.
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(
            "trio_jobs.open_jobs is for tasks of Trio; an asyncio program has"
            " trio_jobs.asyncio.open_jobs and trio_jobs.JobQueue"
        )
    named_loop = {"asyncio_loop": asyncio_loop} if isinstance(asyncio_loop, str) else {}
    settings = build(
        PoolSettings,
        **named_loop,
        async_handlers=async_handlers,
        workers=workers,
        buffer_size=buffer_size,
        max_waiting=max_waiting,
        processes=processes,
        drain=drain,
    )
    bounds = build(
        StoreSettings,
        path=None if path is None else str(path),
        url=url,
        listen_url=listen_url,
        lease=lease,
        max_open=max_open,
        sync=sync,
        timeout=timeout,
        keep_for=keep_for,
        keep_completed=keep_completed,
        keep_failed=keep_failed,
        keep_completed_bytes=keep_completed_bytes,
        max_result_bytes=max_result_bytes,
    )
    SETTINGS["http.max_body_bytes"].convert(max_payload_bytes, where="max_payload_bytes")
    http = build(HttpSettings, max_body_bytes=max_payload_bytes, max_waiters=max_waiters, ui=False)
    metrics = MetricsSettings(enabled=False)
    if max_types is not None:
        metrics = build(MetricsSettings, enabled=True, max_types=max_types)
    check_store_settings(settings, bounds, http)
    now = wall_clock()
    registry = HandlerRegistry.of(handlers, async_handlers=async_handlers, lifespan=lifespan)
    opened: OpenedStore
    failures = _Failures()
    if url is not None:
        # Imported here: a pool in memory needs none of it.
        try:
            from trio_jobs.store_in_database import StoreInDatabase
        except ImportError as error:
            text = f"url needs the extra `postgres`, which cannot be imported: {error}"
            raise ConfigError(text) from error

        opened = StoreInDatabase(bounds, registry, failed=failures.add)
    elif path is None:
        opened = StoreInMemory(bounds, now=now)
    else:
        from trio_jobs.store_in_file import RecoveredFile

        # With a limiter of its own: other threads of the program may have filled Trio's.
        recovered = await trio.to_thread.run_sync(
            lambda: RecoveredFile(Path(path), registry, bounds, now=now),
            limiter=trio.CapacityLimiter(1),
        )
        opened = recovered.open(failures.add)
    # Room for each slot of `Capacity`, whose number of workers can grow to this maximum: a job that
    # has a slot never meets a full channel.
    send, receive = trio.open_memory_channel[str](buffer_size + MAX_WORKERS)
    pool = make_pool(
        registry,
        send,
        opened.store,
        settings,
        bounds,
        http,
        metrics,
        states=read_states(state, registry, async_handlers=async_handlers),
        asyncio_loop=None if isinstance(asyncio_loop, str) else asyncio_loop,
        **opened.for_pool,
    )
    opened.start(pool)
    jobs = (
        Jobs(pool, opened.store, now=pool.now, max_payload_bytes=max_payload_bytes)
        if isinstance(opened, StoreInMemory)
        else DurableJobs(pool, now=pool.now, max_payload_bytes=max_payload_bytes)
    )
    may_fail = path is not None or url is not None or lifespan
    async with opened.around(pool):
        left_by: BaseException | None = None
        alone = False
        generator_ends = GeneratorEnds()
        trio.lowlevel.add_instrument(generator_ends)
        try:
            # The places where handlers run are entered first: they must outlive the workers.
            async with (
                pool.places.open(failed=failures.add),
                failures.raised() if may_fail else nullcontext(),
                trio.open_nursery() as nursery,
            ):
                pool.worker_tasks.open(nursery)
                for _ in range(workers):
                    pool.worker_tasks.start(receive.clone())
                receive.close()  # the workers hold the clones
                nursery.start_soon(pool.run_schedule, name="schedule")
                left = trio.Event()
                nursery.start_soon(_close_when_left_or_cancelled, pool, left)
                try:
                    yield jobs
                except BaseException as error:
                    left_by = error
                    raise
                left.set()
        except BaseExceptionGroup as group:
            # The nursery has put the block's own exception into a group: raise it without that
            # group, unless a worker has crashed too. Compare the leaves: Trio may have made new
            # groups.
            alone = left_by is not None and _leaves(group) <= _leaves(left_by)
            if not alone:
                raise
        finally:
            trio.lowlevel.remove_instrument(generator_ends)
            for event, fields in unfinished_lines(pool.left_behind()):
                log.warning(event, extra=fields)
            with trio.CancelScope(shield=True):
                await opened.close(pool, seconds=timeout)
        if alone and left_by is not None:
            raise left_by  # here, where it does not get the group as its context


# The clean-up of a cancelled block may wait for room or for a job. If the admission closed only
# when the block is left, the clean-up would wait forever. Protected from Ctrl-C, as a worker is.
@trio.lowlevel.enable_ki_protection
async def _close_when_left_or_cancelled(pool: Pool, left: trio.Event) -> None:
    """Close the admission as soon as the pool is cancelled, also while its handlers unwind."""
    try:
        await left.wait()
    finally:
        pool.admission.close()  # the only send end: the workers drain and end


class _Failures:
    """The failure of a journal or a lifespan, which ends the pool."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._error: BaseException | None = None

    def add(self, error: BaseException) -> None:
        """Note the failure; a second one has no effect."""
        if self._error is None:
            self._error = error
            self._event.set()

    @asynccontextmanager
    async def raised(self) -> AsyncIterator[None]:
        """A block that is cancelled when there is a failure, which is then raised."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._raise)
            yield
            nursery.cancel_scope.cancel()

    async def _raise(self) -> None:
        await self._event.wait()
        assert self._error is not None  # noqa: S101  (for the type checker)
        raise self._error


def _leaves(error: BaseException) -> set[int]:
    """The identities of the exceptions in a group, or of a single exception."""
    if isinstance(error, BaseExceptionGroup):
        return {leaf for inner in error.exceptions for leaf in _leaves(inner)}
    return {id(error)}
