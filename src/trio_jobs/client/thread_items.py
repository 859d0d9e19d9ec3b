"""`ThreadItems`: pulls a caller's items in a thread of their own, since they may block."""

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TypeVar

from trio_jobs.client.bell import Bell
from trio_jobs.client.line_source import Batches

_Item = TypeVar("_Item")


class ThreadItems(Batches[_Item]):
    """Items for a loop of asyncio, which they do not hold up.

    The thread pulls no more than what is asked for. It starts with the first batch, and ends with
    the items; after `aclose`, with the item that it waits for.

    Args:
        items: They are pulled with the context variables of the caller.
    """

    def __init__(self, items: Iterable[_Item]) -> None:
        self._items = items
        self._context = contextvars.copy_context()
        self._loop: asyncio.AbstractEventLoop | None = None  # once the thread has started
        self._asked = 0  # items that the thread may pull, or has pulled, and that were not taken
        self._wanted = threading.Semaphore(0)
        self._closed = False
        # The thread sets these, and the loop looks at them.
        self._found: deque[_Item] = deque()
        self._error: BaseException | None = None
        self._ended = False
        # Set by the loop before it looks: a thread that finds it unset has been seen.
        self._waiting = False
        self._changed = Bell()

    async def take(self, limit: int) -> list[_Item]:
        """The next items, at most ``limit``, as soon as there is one; none at the end.

        Raises:
            BaseException: What the items raise.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            # A daemon: a program can end while an item is waited for.
            threading.Thread(target=self._run, name="trio_jobs.payloads", daemon=True).start()
        if limit > self._asked:
            self._wanted.release(limit - self._asked)
            self._asked = limit
        self._waiting = True
        while not self._found and not self._ended:
            await self._changed.wait()
        self._waiting = False
        # The thread may append meanwhile.
        items = [self._found.popleft() for _ in range(min(limit, len(self._found)))]
        self._asked -= len(items)
        if not items and self._error is not None:
            raise self._error
        return items

    async def aclose(self) -> None:
        """Let the thread end; does not wait for that."""
        self._closed = True
        self._wanted.release()

    def _run(self) -> None:
        try:
            self._context.run(self._pull)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - `take` raises it
            self._error = error
        finally:
            self._ended = True
            self._wake()

    def _pull(self) -> None:
        items = iter(self._items)
        while True:
            self._wanted.acquire()
            if self._closed:
                return
            try:
                item = next(items)
            except StopIteration:
                return
            self._found.append(item)
            self._wake()

    def _wake(self) -> None:
        if self._waiting and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._changed.ring)
