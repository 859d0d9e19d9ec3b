"""`TaskBlock`: an ``async with`` block that brings items to a loop, and ends what brings them."""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

_T = TypeVar("_T")


class TaskBlock(ABC, Generic[_T]):
    """Items for a loop, while the block is open.

    The items come from tasks of the block: its end cancels them, whatever ends it. Without the
    block, a loop that is left early would leave them behind.

    It is made in a task, since it takes the event loop that runs.
    """

    def __init__(self) -> None:
        self._tasks = anyio.create_task_group()
        self._opened = False
        self._at_end = ExitStack()  # closes what the tasks use, even if one of them never begins

    @abstractmethod
    def _start(self, tasks: TaskGroup) -> None:
        """Start the tasks."""

    @abstractmethod
    async def take(self) -> list[_T]:
        """The next items, as soon as there is one; none at the end."""

    async def __aenter__(self) -> Self:
        if self._opened:
            raise RuntimeError("each block needs a call of its own")
        self._opened = True
        await self._tasks.__aenter__()
        self._start(self._tasks)
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
            self._at_end.close()

    def __aiter__(self) -> Self:
        return self
