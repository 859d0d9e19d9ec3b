"""`LineSource`: pulls lines from an iterable or an async iterable."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Generic, TypeVar

from trio_jobs.client.pipe_lines import Line

_Item = TypeVar("_Item")


class LineSource(Generic[_Item]):
    """The lines of a caller's items, made one at a time, as they are pulled.

    Args:
        items: The caller's.
        make_line: Makes the line of an item. It is called in the order of the items.
    """

    def __init__(
        self,
        items: Iterable[_Item] | AsyncIterable[_Item],
        make_line: Callable[[_Item], Line],
    ) -> None:
        self._make_line = make_line
        self._items = aiter(items) if isinstance(items, AsyncIterable) else _ReadyItems(iter(items))

    async def pull(self) -> Line | None:
        """The next line; None after the last one.

        Raises:
            BaseException: What the caller's items, or ``make_line``, raise.

        Checkpoints:
            Only if the items are async, and theirs.
        """
        try:
            item = await anext(self._items)
        except StopAsyncIteration:
            return None
        return self._make_line(item)

    async def aclose(self) -> None:
        """Close the items if they are an async generator: nobody else may be able to.

        Must be called by the task that has pulled: a generator may hold a cancel scope.
        """
        if isinstance(self._items, AsyncGenerator):
            await self._items.aclose()


class _ReadyItems(AsyncIterator[_Item]):
    """An iterator as an async one, without checkpoints."""

    def __init__(self, items: Iterable[_Item]) -> None:
        self._items = iter(items)

    async def __anext__(self) -> _Item:
        for item in self._items:
            return item
        raise StopAsyncIteration
