"""`Arrivals`: what several requests bring, for a loop in a thread that waits."""

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import anyio

from trio_jobs.client.async_client import AsyncClient
from trio_jobs.client.client_loop import ClientLoop, Running

_T = TypeVar("_T")
_Item_co = TypeVar("_Item_co", covariant=True)


class Arriving(Protocol[_Item_co]):
    """A block that brings items while it is open, such as `AsyncArrivals`."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...

    async def take(self) -> Sequence[_Item_co]:
        """The next items, as soon as there is one; none at the end."""


class Arrivals(Generic[_T]):
    """Items in the order of their arrival.

    They are for a loop::

        for job in client.as_completed(jobs):
            ...

    The requests begin with the loop, and run in the client's thread. They end with the last item,
    or with a ``with`` block around the loop, or once nothing refers to this object any more.
    """

    def __init__(self, loop: ClientLoop, bring: Callable[[AsyncClient], Arriving[_T]]) -> None:
        self._loop = loop
        self._bring = bring
        self._block: _Block[_T] | None = None
        self._over = False
        self._taken: deque[_T] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        if self._block is None and not self._over:
            self._block = _Block(self._loop.started(), self._bring)
            # It has no reference to this object, whose end cancels it.
            weakref.finalize(self, self._block.cancel)
        if not self._taken and self._block is not None:
            self._taken.extend(self._block.take())
        if not self._taken:
            self.close()
            raise StopIteration
        return self._taken.popleft()

    def close(self) -> None:
        """Cancel the requests, and wait for their end. The loop gets nothing more."""
        self._over = True
        self._taken.clear()
        block, self._block = self._block, None
        if block is not None:
            block.close()


class _Block(Generic[_T]):
    """An open block, such as `AsyncArrivals`, in a task of the client's loop.

    Args:
        running: The thread of the loop.
        bring: Makes the block.
    """

    def __init__(self, running: Running, bring: Callable[[AsyncClient], Arriving[_T]]) -> None:
        opened: Future[asyncio.Task[None] | None] = Future()

        async def keep_open(_client: AsyncClient) -> None:
            async with self._arriving:
                if opened.set_running_or_notify_cancel():
                    opened.set_result(asyncio.current_task())
                    await anyio.sleep_forever()

        async def make(client: AsyncClient) -> Arriving[_T]:
            return bring(client)

        self._running = running
        self._arriving = running.call(make)
        future: Future[None] = Future()
        future.add_done_callback(lambda _: opened.cancel())  # does nothing to one that is done
        self.cancel = future.cancel
        try:
            running.start(keep_open, future)
            self._task = running.wait(opened)
        except BaseException:
            future.cancel()
            raise

    def take(self) -> Sequence[_T]:
        """The next items; none at the end."""
        items, error = self._running.call(lambda _: take(self._arriving))
        if error is not None:
            raise error
        return items

    def close(self) -> None:
        """Cancel the task, and wait for its end."""
        # If the client is closed, that has ended the task. In a forked process there is none.
        with suppress(RuntimeError):
            self._running.call(lambda _: cancel_and_wait(self._task))


async def take(arriving: Arriving[_T]) -> tuple[Sequence[_T], BaseException | None]:
    """The next items; or what the caller's payloads raise, if it would end a loop of asyncio."""
    try:
        return await arriving.take(), None
    except (KeyboardInterrupt, SystemExit) as error:
        return (), error


async def cancel_and_wait(task: "asyncio.Task[None] | None") -> None:
    """Cancel a task, and wait for its end."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
