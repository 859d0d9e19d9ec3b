"""`open_jobs`: a pool of workers inside any asyncio program; the pool has a Trio thread."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Unpack, cast

import trio

from trio_jobs import embed
from trio_jobs.awaited_jobs import AwaitedJobs, call_on_trio
from trio_jobs.base_jobs import ApiOptions
from trio_jobs.carried_app import CarriedApp
from trio_jobs.closed_app import ClosedApp
from trio_jobs.embed import Options
from trio_jobs.embedded_jobs import DurableJobs, Jobs
from trio_jobs.mounted_api import App
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.pool.unfinished import unfinished_lines
from trio_jobs.setting_type import build
from trio_jobs.settings import PoolSettings
from trio_jobs.trio_thread import TrioThread

if TYPE_CHECKING:
    from trio_jobs.server.access_middleware import AccessMiddleware

log = logging.getLogger(__name__)

# The defaults.
_POOL = PoolSettings()


@asynccontextmanager
async def open_jobs(
    handlers: Mapping[str, object],
    *,
    grace_period: float = _POOL.grace_period,
    path: str | PathLike[str] | None = None,
    url: str | None = None,
    **options: Unpack[Options],
) -> AsyncIterator["AsyncioJobs"]:
    """A pool of workers for the length of an ``async with`` block of an asyncio program.

    The pool is that of `trio_jobs.open_jobs`, in a thread that runs Trio. Handlers with
    ``run="asyncio"`` and the lifespan for asyncio run on the program's own loop; those for Trio,
    which is the default of async handlers, in that thread.

    Leaving the block drains, for ``grace_period`` at the most; then jobs that have not completed
    are cancelled, and the log names them. An exception that leaves the block cancels them at once,
    and so does a cancellation while the block drains. If a bug or a broken file ends the pool, the
    task of the block is cancelled, and the block raises the pool's error.

    Args:
        handlers: See `trio_jobs.open_jobs`.
        grace_period: How many seconds the drain may take.
        path: The file for the jobs. None keeps them in memory, unless there is a ``url``.
        url: The database for the jobs.
        options: The other arguments of `trio_jobs.open_jobs`. ``asyncio_loop`` is the program's own
            loop by default.

    Raises:
        HandlerError: See `trio_jobs.open_jobs`, whose other errors this raises too.
        RuntimeError: The caller is a task of Trio.

    Cancellation:
        Cancels the jobs, and waits for their end for 2 s at most. If they have not ended by then,
        the program goes on without the thread. The log has ``pool_still_running``, and names them.
    """
    if trio.lowlevel.in_trio_task():
        raise RuntimeError(
            "trio_jobs.asyncio.open_jobs is for asyncio; Trio has trio_jobs.open_jobs"
        )
    build(PoolSettings, grace_period=grace_period)
    options.setdefault("asyncio_loop", asyncio.get_running_loop())
    open_pool = partial(embed.open_jobs, handlers, path=path, url=url, **options)
    thread = TrioThread[Jobs | DurableJobs](open_pool, grace_period=grace_period)
    jobs = None
    try:
        async with thread as jobs:
            yield AsyncioJobs(jobs, thread)
    finally:
        if thread.left_behind and jobs is not None:
            for event, fields in unfinished_lines(jobs._pool.left_behind()):
                log.warning(event, extra=fields)


class AsyncioJobs(AwaitedJobs):
    """A running pool in a Trio thread; made by `open_jobs`."""

    def __init__(self, jobs: Jobs | DurableJobs, thread: TrioThread[Any]) -> None:
        self._jobs = jobs
        self._thread = thread

    def unfinished(self) -> tuple[list[str], list[str]]:
        """The ids of the jobs that have not completed: those begun, and those that wait."""
        return self._jobs.unfinished()

    def asgi(self, **options: Unpack[ApiOptions]) -> App:
        """The HTTP API as an ASGI application for servers on asyncio; see `Jobs.asgi`.

        It checks access, and calls ``role``, on the loop of the server. After the block it answers
        503 to each request that has access.
        """
        retry_after = options.get("shutdown_retry_after", _POOL.retry_after)
        closed = ClosedApp(retry_after=retry_after)
        app = cast("AccessMiddleware", self._jobs.asgi(**options))
        return app.around(partial(CarriedApp, thread=self._thread, closed=closed))

    async def _call(self, method: str, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        if trio.lowlevel.in_trio_task():  # in a handler on Trio
            return await call_on_trio(self._jobs, method, *args, **kwargs)
        try:
            return await self._thread.call(getattr(self._jobs, method), *args, **kwargs)
        except trio.RunFinishedError:
            raise ShuttingDownError from None
