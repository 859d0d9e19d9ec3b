"""`AsyncResults`: the results of many jobs, one after another, while their block is open."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from anyio.abc import TaskGroup

from trio_jobs.client.line_source import LineSource
from trio_jobs.client.result import Result
from trio_jobs.client.slices import Slices
from trio_jobs.client.task_block import TaskBlock

if TYPE_CHECKING:
    from trio_jobs.client.pipe_lines import LineAnswer

_T = TypeVar("_T")


class AsyncResults(TaskBlock[Result[_T]], Generic[_T]):
    """Results as the jobs end, or in the order of the payloads, while the block is open.

    The loop stands in the block::

        async with client.map("resize", payloads) as results:
            async for result in results:
                ...

    The requests run in tasks of the block: its end closes the connections, whatever ends it, and
    the jobs that the server has go on. One task at a time may take the results.

    Args:
        slices: Sends the lines.
        source: The lines.
        decode: Makes a result of its JSON; None for plain JSON values.
        ordered: Whether a result waits for those of all lines before it.
    """

    def __init__(
        self,
        slices: Slices,
        source: LineSource[Any],
        *,
        decode: Callable[[bytes], _T] | None,
        ordered: bool,
    ) -> None:
        super().__init__()
        self._slices = slices
        self._source = source
        self._decode = decode
        self._arrived: deque[LineAnswer] = deque()
        self._held: dict[int, LineAnswer] | None = {} if ordered else None  # by number
        self._count = 0  # results taken
        self._unreleased = 0  # of these, those that the caller may still be at

    def _start(self, tasks: TaskGroup) -> None:
        tasks.start_soon(self._slices.run_source, self._source)

    async def __anext__(self) -> Result[_T]:
        """The next result.

        Raises:
            RefusedError: The server refuses the requests: 401, 403; 404 if it has no pipe.
            ServerGoneError: See there.
            ValueError: A payload has no form in JSON, or its key is not 1 to 255 visible ASCII
                characters.
            BaseException: What the iteration over the payloads has raised.

        Checkpoints:
            Only if it waits.
        """
        for result in await self._take(1):
            return result
        raise StopAsyncIteration

    async def take(self) -> list[Result[_T]]:
        """The next results, a few at the most, as soon as there is one; none at the end.

        Raises:
            Exception: As a loop does.
        """
        # The caller is done with them when it asks for more: meanwhile the others are under way.
        return await self._take(max(1, self._slices.in_flight // 8))

    async def _take(self, limit: int) -> list[Result[_T]]:
        if not self._opened:
            raise RuntimeError("open it: async with … as results: async for result in results")
        self._slices.release(self._unreleased)
        self._unreleased = 0
        while not (found := self._next(limit)):
            answers = await self._slices.take()
            if not answers:
                return []
            if self._held is None:
                self._arrived.extend(answers)
            else:
                self._held.update((answer.number, answer) for answer in answers)
        self._unreleased = len(found)
        return found

    def _next(self, limit: int) -> list[Result[_T]]:
        found: list[Result[_T]] = []
        while len(found) < limit:
            if self._held is not None:
                answer = self._held.pop(self._count + 1, None)
            else:
                answer = self._arrived.popleft() if self._arrived else None
            if answer is None:
                break
            self._count += 1
            found.append(answer.result.typed(self._decode))
        return found
