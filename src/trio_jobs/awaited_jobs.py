"""`AwaitedJobs`: the methods of `Jobs`, all awaited, for a pool that may run in another thread."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import trio

from trio_jobs.embedded_jobs import DurableJobs, Jobs
from trio_jobs.pool.statistics import PoolStatistics

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _awaited(
    method: Callable[Concatenate[DurableJobs, _P], Awaitable[_R]],
) -> Callable[Concatenate["AwaitedJobs", _P], Coroutine[Any, Any, _R]]:
    """The method of the same name, parameters and text, which calls that of the pool's jobs."""

    @functools.wraps(method)
    async def call(self: "AwaitedJobs", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        result: _R = await self._call(method.__name__, *args, **kwargs)
        return result

    return call


class AwaitedJobs(ABC):
    """A running pool, for a program on asyncio or on Trio.

    It has the methods of `Jobs` but for ``asgi``, and all but ``unfinished`` are awaited. If the
    pool has a file, they are those of `DurableJobs`: a job that `submit` has returned is on the
    disk.

    If the task that awaits a method is cancelled, it is unknown whether the call has had its
    effect; submit a job again with the same key. Once the pool has ended, each awaited method
    raises ShuttingDownError.
    """

    submit = _awaited(DurableJobs.submit)
    submit_all = _awaited(DurableJobs.submit_all)
    submit_when_possible = _awaited(DurableJobs.submit_when_possible)
    get = _awaited(DurableJobs.get)
    wait = _awaited(DurableJobs.wait)
    result = _awaited(DurableJobs.result)
    cancel = _awaited(DurableJobs.cancel)
    cancel_all = _awaited(DurableJobs.cancel_all)
    counts = _awaited(DurableJobs.counts)
    run_now = _awaited(DurableJobs.run_now)
    rerun = _awaited(DurableJobs.rerun)
    rerun_all = _awaited(DurableJobs.rerun_all)
    delete = _awaited(DurableJobs.delete)
    page = _awaited(DurableJobs.page)
    drain = _awaited(DurableJobs.drain)

    async def statistics(self) -> PoolStatistics:
        """The state of the pool now."""
        statistics: PoolStatistics = await self._call("statistics")
        return statistics

    @abstractmethod
    def unfinished(self) -> tuple[list[str], list[str]]:
        """The ids of the jobs that have not completed: those begun, and those that wait."""

    @abstractmethod
    async def _call(self, method: str, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        """Call this method of `Jobs` or `DurableJobs` in Trio, and await its result."""


async def call_on_trio(
    jobs: Jobs | DurableJobs,
    method: str,
    *args: object,
    **kwargs: object,
) -> Any:  # noqa: ANN401
    """Call this method in a task of the pool's own Trio run, and await its result."""
    result = getattr(jobs, method)(*args, **kwargs)
    if inspect.isawaitable(result):
        return await result
    await trio.lowlevel.checkpoint()
    return result
