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
        if self._over:
            raise StopIteration
        if self._block is None:
            self._block = _Block(self._loop.started(), self._bring)
            # It has no reference to this object, whose end cancels it.
            weakref.finalize(self, self._block.cancel)
            try:
                self._block.open()
            except BaseException:
                self.close()
                raise
        if not self._taken:
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
        self._running = running
        self._bring = bring
        self._arriving: Arriving[_T]
        self._future: Future[None] = Future()
        self._task: asyncio.Task[None] | None = None  # of the block; for the loop alone

    def open(self) -> None:
        """Open it. After an error it is to be closed."""
        opened: Future[None] = Future()
        self._future.add_done_callback(lambda _: opened.cancel())  # nothing to one that is done

        async def make(client: AsyncClient) -> Arriving[_T]:
            return self._bring(client)

        async def keep_open(_client: AsyncClient) -> None:
            self._task = asyncio.current_task()
            async with self._arriving:
                if opened.set_running_or_notify_cancel():
                    opened.set_result(None)
                    await anyio.sleep_forever()

        self._arriving = self._running.call(make)
        self._running.start(keep_open, self._future)
        self._running.wait(opened)

    def take(self) -> Sequence[_T]:
        """The next items; none at the end."""
        items, error = self._running.call(lambda _: take(self._arriving))
        if error is not None:
            raise error
        return items

    def cancel(self) -> None:
        """Cancel the task, without waiting for its end."""
        self._future.cancel()

    def close(self) -> None:
        """Cancel the task, and wait for its end."""
        self.cancel()
        # If the client is closed, that has ended the task. In a forked process there is none.
        with suppress(RuntimeError):
            self._running.call(self._wait_closed)

    async def _wait_closed(self, _client: AsyncClient) -> None:
        # A task that has not begun before this one was cancelled before it could.
        if self._task is not None:
            await asyncio.wait([self._task])


async def take(arriving: Arriving[_T]) -> tuple[Sequence[_T], BaseException | None]:
    """The next items; or what the caller's payloads raise, if it would end a loop of asyncio."""
    try:
        return await arriving.take(), None
    except (KeyboardInterrupt, SystemExit) as error:
        return (), error
