"""`AsyncArrivals`: what several requests bring at the same time, one item after another."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio
from anyio.abc import ObjectSendStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

_T = TypeVar("_T")


class AsyncArrivals(Generic[_T]):
    """Items in the order of their arrival, while the block is open.

    The loop stands in the block::

        async with client.as_completed(jobs) as arrivals:
            async for job in arrivals:
                ...

    The requests run in tasks of the block: its end cancels them, whatever ends it. Without the
    block, a loop that is left early would leave them behind. None of the tasks gets further ahead
    than one item.

    It is made in a task, since it takes the event loop that runs.

    Args:
        bring: Sends each item, from as many tasks as it likes, and returns after the last one. The
            loop raises what it raises.
    """

    def __init__(self, bring: Callable[[ObjectSendStream[_T]], Awaitable[None]]) -> None:
        self._bring = bring
        self._tasks = anyio.create_task_group()
        self._streams = ExitStack()  # closes them, even if the task never begins
        self._items: MemoryObjectReceiveStream[_T] | None = None  # set while and after it is open
        self._error: Exception | None = None

    async def __aenter__(self) -> Self:
        if self._items is not None:
            raise RuntimeError("each block needs a call of its own")
        send, self._items = anyio.create_memory_object_stream[_T](0)
        self._streams.enter_context(send)
        self._streams.enter_context(self._items)
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._run, send)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(kind, error, traceback)  # noqa: ASYNC102 - cancelled
        except BaseExceptionGroup as group:
            if group.exceptions == (error,):
                return False  # the caller's own error, as it was
            raise
        finally:
            self._streams.close()

    async def _run(self, send: MemoryObjectSendStream[_T]) -> None:
        with send:
            try:
                await self._bring(send)
            except Exception as error:  # noqa: BLE001 - the loop raises it
                self._error = alone(error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        if self._items is None:
            raise RuntimeError("open it: async with … as arrivals: async for each in arrivals")
        with suppress(anyio.EndOfStream):
            return await self._items.receive()
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def take(self) -> list[_T]:
        """The next item; none at the end."""
        async for item in self:
            return [item]
        return []


def alone(error: Exception) -> Exception:
    """The first error of a group: all failing tasks meet the same server."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
