"""`AsyncArrivals`: what several requests bring at the same time, one item after another."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio
from anyio.abc import ObjectSendStream, TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from trio_jobs.client.task_block import TaskBlock

_T = TypeVar("_T")


class AsyncArrivals(TaskBlock[_T]):
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
        super().__init__()
        self._bring = bring
        self._items: MemoryObjectReceiveStream[_T] | None = None  # set while and after it is open
        self._error: Exception | None = None

    def _start(self, tasks: TaskGroup) -> None:
        send, self._items = anyio.create_memory_object_stream[_T](0)
        self._at_end.enter_context(send)
        self._at_end.enter_context(self._items)
        tasks.start_soon(self._run, send)

    async def _run(self, send: MemoryObjectSendStream[_T]) -> None:
        with send:
            try:
                await self._bring(send)
            except Exception as error:  # noqa: BLE001 - the loop raises it
                self._error = alone(error)

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
