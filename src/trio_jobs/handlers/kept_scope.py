"""`KeptScope`: one cancel scope for many jobs of a worker, until a job has used it up.

To enter and leave a scope costs half as much as all else that the pool does for a short job.
"""

import math
from types import TracebackType
from typing import Self

import trio

from trio_jobs.handlers.nurseries import abandon_nurseries, innermost_nursery


class KeptScope:
    """A cancel scope around each of the blocks that one task runs, one after the other.

    A block that raises, is cancelled, or leaves another scope open inside has used the scope up.
    Then Trio leaves the scope at the end of that block, and the next block gets a new one. So each
    block ends as if it had a scope of its own. A deadline ends with its block, and a nursery that
    the block leaves open is abandoned.

    The task makes this object, enters every block within the same other scopes and nurseries, and
    calls `close` there after the last block.

    To see that a block has left a scope or a nursery open inside, this class reads two private
    names of Trio. If Trio does not have them, each block gets a scope of its own.
    """

    def __init__(self) -> None:
        names = ("_cancel_status", "_child_nurseries")
        self._can_be_kept = all(hasattr(trio.lowlevel.Task, name) for name in names)
        self._task = trio.lowlevel.current_task()
        self._nursery = innermost_nursery()
        self._nurseries = len(self._task.child_nurseries)
        self._scope: trio.CancelScope | None = None
        self._innermost: object = None  # the task's status within the scope, if none is open inside
        self._touched = False  # whether the block was cancelled, or had a deadline

    @property
    def deadline(self) -> float:
        """When the block is cancelled, by Trio's clock."""
        return math.inf if self._scope is None else self._scope.deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        if self._scope is not None:
            self._touched = True
            self._scope.deadline = deadline

    def cancel(self) -> None:
        """Cancel the block."""
        if self._scope is not None:
            self._touched = True
            self._scope.cancel()

    def __enter__(self) -> Self:
        """Begin a block."""
        if self._scope is None:
            self._touched = False
            self._scope = trio.CancelScope().__enter__()
            if self._can_be_kept:
                self._innermost = self._task._cancel_status
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End a block, as `trio.CancelScope` does."""
        scope = self._scope
        assert scope is not None  # noqa: S101  (for the type checker: the block has begun)
        if (
            error is None
            and self._can_be_kept
            and self._task._cancel_status is self._innermost
            and len(self._task._child_nurseries) == self._nurseries
            and not (self._touched and scope.cancel_called)
        ):
            if self._touched:
                self._touched = False
                scope.deadline = math.inf
            return False
        self._scope = None
        try:
            return scope.__exit__(kind, error, traceback)
        finally:
            abandon_nurseries(above=self._nursery)

    def close(self) -> None:
        """Leave the scope that the last block has kept."""
        if self._scope is not None:
            self._scope.__exit__(None, None, None)
            self._scope = None
