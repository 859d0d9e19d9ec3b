"""`JobQueue`: a pool in an application of any ASGI framework, on Trio or on asyncio."""

import importlib
import inspect
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any, Unpack

import trio

from trio_jobs.access import RoleFunction
from trio_jobs.awaited_jobs import AwaitedJobs, call_on_trio
from trio_jobs.base_jobs import ApiOptions
from trio_jobs.closed_app import ClosedApp
from trio_jobs.embed import Options, open_jobs
from trio_jobs.embedded_jobs import DurableJobs, Jobs
from trio_jobs.error_groups import without_groups
from trio_jobs.mounted_api import API, App, MountedApi
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.pool.store import StoreUnusableError
from trio_jobs.setting_type import build
from trio_jobs.settings import HttpSettings, Payloads, PoolSettings
from trio_jobs.tokens import TokenTable

if TYPE_CHECKING:
    from trio_jobs.asyncio import AsyncioJobs

log = logging.getLogger(__name__)

# The defaults.
_POOL, _HTTP = PoolSettings(), HttpSettings()


class JobQueue(AwaitedJobs):
    """A pool for an application of FastAPI, Starlette, Quart or another ASGI framework.

    Make it when the module of the application is imported; nothing runs yet. The application's
    lifespan opens it: pass ``lifespan=queue.lifespan`` to the application, or enter
    ``queue.lifespan()`` in a lifespan of your own. It may be opened again after its end, but not
    twice at once. Its methods are those of `Jobs` but for ``asgi``, and all but ``unfinished`` are
    awaited. While it is closed, they raise ShuttingDownError.

    The queue is an ASGI application as well, with the HTTP API: mount it, as in
    ``app.mount("/queue", queue)``. While it is closed, it answers 503. A server that has the queue
    as its only application opens it by ASGI's lifespan events, and so does a framework that passes
    these events on to mounted applications.

    On Trio the pool runs in the tasks of the lifespan. On asyncio it has a thread that runs Trio;
    see `trio_jobs.asyncio.open_jobs`.

    Args:
        handlers: See `trio_jobs.open_jobs`.
        grace_period: How many seconds the end of the lifespan waits for accepted jobs; then the
            jobs that have not completed are cancelled.
        path: The file for the jobs. None keeps them in memory, unless there is a ``url``.
        url: The database for the jobs.
        token: The bearer token of HTTP requests, or several, as for `Jobs.asgi`.
        payloads: See `Jobs.asgi`.
        allowed_hosts: See `Jobs.asgi`.
        max_wait_seconds: See `Jobs.asgi`.
        stream_idle_timeout: See `Jobs.asgi`.
        max_event_streams: See `Jobs.asgi`.
        max_pipes: See `Jobs.asgi`.
        ui: See `Jobs.asgi`.
        role: See `Jobs.asgi`.
        options: The other arguments of `trio_jobs.open_jobs`.

    Raises:
        ValueError: ``grace_period`` is out of range; and as `Jobs.asgi`. What is wrong with the
            other arguments, the lifespan raises.
        TypeError: `trio_jobs.open_jobs` has no such argument; and as `Jobs.asgi`.
    """

    def __init__(
        self,
        handlers: Mapping[str, object],
        *,
        grace_period: float = _POOL.grace_period,
        path: str | PathLike[str] | None = None,
        url: str | None = None,
        token: str | TokenTable | None = None,
        payloads: Payloads = _HTTP.payloads,
        allowed_hosts: Iterable[str] = (),
        max_wait_seconds: float = _HTTP.max_wait_seconds,
        stream_idle_timeout: float = _HTTP.stream_idle_timeout,
        max_event_streams: int = _HTTP.max_event_streams,
        max_pipes: int = _HTTP.max_pipes,
        ui: bool = False,
        role: RoleFunction | None = None,
        **options: Unpack[Options],
    ) -> None:
        inspect.signature(open_jobs).bind(handlers, path=path, url=url, **options)
        retry_after = build(PoolSettings, grace_period=grace_period).retry_after
        self._handlers = handlers
        self._grace_period = grace_period
        self._path = path
        self._url = url
        self._options = options
        self._api_options = ApiOptions(
            token=token,
            payloads=payloads,
            allowed_hosts=tuple(allowed_hosts),
            max_wait_seconds=max_wait_seconds,
            stream_idle_timeout=stream_idle_timeout,
            max_event_streams=max_event_streams,
            max_pipes=max_pipes,
            shutdown_retry_after=retry_after,
            ui=ui,
            role=role,
        )
        MountedApi(**self._api_options)  # checks them
        self._closed = ClosedApp(retry_after=retry_after)
        self._is_open = False
        self._jobs: JobsOnTrio | AsyncioJobs | None = None
        self._app: App | None = None  # made at the first request

    @asynccontextmanager
    async def lifespan(
        self,
        app: object = None,  # noqa: ARG002
        *,
        state: Mapping[str, object] | None = None,
    ) -> AsyncIterator[None]:
        """Run the pool for the length of an ``async with`` block.

        Args:
            app: The application, which frameworks pass; not used.
            state: For each place where handlers run the ``state`` of their contexts, as for
                `trio_jobs.open_jobs`. It replaces the ``state`` that the constructor was given.

        Raises:
            RuntimeError: The queue is open already.
            BaseException: An error of `trio_jobs.open_jobs`.

        Cancellation:
            Cancels the jobs; see `trio_jobs.open_jobs` and `trio_jobs.asyncio.open_jobs`.
        """
        if self._is_open:
            raise RuntimeError("the queue is open already")
        self._is_open = True
        options = self._options if state is None else Options(**{**self._options, "state": state})
        opened = False
        left_by: BaseException | None = None
        try:
            async with self._open(options) as self._jobs:
                opened = True
                try:
                    yield
                except BaseException as error:
                    self._jobs = None  # the end may take long; a pool that has failed runs no job
                    left_by = error
                    raise
        except Exception as error:
            if not opened and isinstance(error, StoreUnusableError):
                # Without the frames of the pool's thread: servers print them all.
                raise error.with_traceback(None) from None
            if opened and error is not left_by:
                log.critical("pool_failed", exc_info=without_groups(error))
            raise
        finally:
            self._jobs = self._app = None
            self._is_open = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        """Answer a request by the HTTP API; or run the pool for the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        else:
            if self._jobs is not None and self._app is None:
                await _import_api()
            await self._current_app()(scope, receive, send)

    def unfinished(self) -> tuple[list[str], list[str]]:
        """The ids of the jobs that have not completed: those begun, and those that wait.

        Raises:
            ShuttingDownError: The queue is closed.
        """
        return self._opened().unfinished()

    async def _call(self, method: str, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        return await self._opened()._call(method, *args, **kwargs)

    def _current_app(self) -> App:
        if self._jobs is None:
            return self._closed
        if self._app is None:
            self._app = self._jobs.asgi(**self._api_options)
        return self._app

    def _opened(self) -> "JobsOnTrio | AsyncioJobs":
        if self._jobs is None:
            raise ShuttingDownError("the queue is closed: the application's lifespan opens it")
        return self._jobs

    def _open(self, options: Options) -> "AbstractAsyncContextManager[JobsOnTrio | AsyncioJobs]":
        if trio.lowlevel.in_trio_task():
            return self._open_on_trio(options)
        # Imported here: a program on Trio does not need asyncio.
        from trio_jobs.asyncio import open_jobs as open_in_thread

        return open_in_thread(
            self._handlers,
            grace_period=self._grace_period,
            path=self._path,
            url=self._url,
            **options,
        )

    @asynccontextmanager
    async def _open_on_trio(self, options: Options) -> "AsyncIterator[JobsOnTrio]":
        with trio.CancelScope() as scope:
            async with open_jobs(self._handlers, path=self._path, url=self._url, **options) as jobs:
                yield JobsOnTrio(jobs)
                scope.deadline = trio.current_time() + self._grace_period

    async def _run_lifespan(self, receive: Any, send: Any) -> None:  # noqa: ANN401
        phase = "startup"
        await receive()
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as error:
            message = {"type": f"lifespan.{phase}.failed", "message": str(error)}
            await send(message)  # noqa: ASYNC120 - a server that cancels this wants no message
            raise
        await send({"type": "lifespan.shutdown.complete"})


async def _import_api() -> None:
    """Import the HTTP API in a thread: that takes 0.2 s, and the application's loop goes on.

    The thread is its own: the program may have given all others to calls that take long.
    """
    if trio.lowlevel.in_trio_task():
        limiter = trio.CapacityLimiter(1)
        await trio.to_thread.run_sync(importlib.import_module, API, limiter=limiter)
    else:
        # A program on Trio does not need these.
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        executor = ThreadPoolExecutor(1)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(executor, importlib.import_module, API)
        finally:
            executor.shutdown(wait=False)


class JobsOnTrio(AwaitedJobs):
    """A running pool in the Trio run of its callers."""

    def __init__(self, jobs: Jobs | DurableJobs) -> None:
        self._jobs = jobs

    def unfinished(self) -> tuple[list[str], list[str]]:
        """The ids of the jobs that have not completed: those begun, and those that wait."""
        return self._jobs.unfinished()

    def asgi(self, **options: Unpack[ApiOptions]) -> App:
        """The HTTP API as an ASGI application; see `Jobs.asgi`."""
        return self._jobs.asgi(**options)

    async def _call(self, method: str, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        return await call_on_trio(self._jobs, method, *args, **kwargs)
