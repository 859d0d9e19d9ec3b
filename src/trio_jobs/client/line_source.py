"""`LineSource`: pulls lines from what a caller passes."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Generic, TypeVar

from trio_jobs.client.pipe_lines import Line

_Item = TypeVar("_Item")


class Batches(AsyncIterator[_Item], ABC):
    """A caller's items, a few at a time."""

    @abstractmethod
    async def take(self, limit: int) -> list[_Item]:
        """The next items, at most ``limit``, as soon as there is one; none at the end."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of the items."""

    async def __anext__(self) -> _Item:
        for item in await self.take(1):
            return item
        raise StopAsyncIteration


class LineSource(Generic[_Item]):
    """The lines of a caller's items, each made when it is pulled.

    Args:
        items: The caller's; an iterable must not block the event loop.
        make_line: Makes the line of an item. It is called in the order of the items.
    """

    def __init__(
        self,
        items: Iterable[_Item] | AsyncIterable[_Item],
        make_line: Callable[[_Item], Line],
    ) -> None:
        self._batches: Batches[_Item]
        if isinstance(items, Batches):
            self._batches = items
        elif isinstance(items, AsyncIterable):
            self._batches = _AsyncItems(items)
        else:
            self._batches = _ReadyItems(items)
        self._make_line = make_line

    async def pull(self, limit: int) -> list[Line]:
        """The next lines, at most ``limit``, as soon as there is one; none at the end.

        Raises:
            BaseException: What the caller's items, or ``make_line``, raise.

        Checkpoints:
            Only those of the items.
        """
        return list(map(self._make_line, await self._batches.take(limit)))

    async def aclose(self) -> None:
        """Let go of the items; closes an async generator, which nobody else may be able to close.

        Must be called by the task that has pulled: a generator may hold a cancel scope.
        """
        await self._batches.aclose()


class _ReadyItems(Batches[_Item]):
    def __init__(self, items: Iterable[_Item]) -> None:
        self._items = iter(items)

    async def take(self, limit: int) -> list[_Item]:
        return list(itertools.islice(self._items, limit))

    async def aclose(self) -> None:
        pass


class _AsyncItems(Batches[_Item]):
    def __init__(self, items: AsyncIterable[_Item]) -> None:
        self._items: AsyncIterator[_Item] = aiter(items)

    async def take(self, limit: int) -> list[_Item]:  # noqa: ARG002 - one at a time
        try:
            return [await anext(self._items)]
        except StopAsyncIteration:
            return []

    async def aclose(self) -> None:
        if isinstance(self._items, AsyncGenerator):
            await self._items.aclose()
