"""`AsyncioTask`: a coroutine that runs on asyncio's loop in another thread, as Trio sees it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

import outcome
import trio

_T = TypeVar("_T")

# Seconds that a cancelled task gets to unwind.
_UNWINDING_TIME = 0.4


class AsyncioTask(Generic[_T]):
    """Starts a task on the loop, in the context variables of the Trio task that makes this object.

    Make and use this object in Trio's thread. If Trio's run ends before the task, the task goes on,
    and nobody gets its result.

    Args:
        loop: The loop, which runs in another thread.
        function: Called in the loop's thread; the task awaits what it returns.
        args: The function's arguments.
        name: The task's name.
        when_done: Called in Trio's thread when the task has ended.

    Attributes:
        cancel_called: Whether `cancel` was called.
        done: Set when the task has ended. If the loop is closed before that, it is never set.
        result: What the task has returned or raised; `asyncio.CancelledError` if it was cancelled.

    Raises:
        RuntimeError: The loop is closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[..., Awaitable[_T]],
        *args: object,
        name: str,
        when_done: Callable[[], object] = lambda: None,
    ) -> None:
        self._loop = loop
        self._token = trio.lowlevel.current_trio_token()
        self._task: asyncio.Task[outcome.Outcome[_T]] | None = None  # the loop's thread uses it
        self._when_done = when_done
        self.cancel_called = False
        self.done = trio.Event()
        self.result: outcome.Outcome[_T] = outcome.Error(RuntimeError("the task has not ended"))
        loop.call_soon_threadsafe(self._start, function, args, name)

    def cancel(self) -> None:
        """Cancel the task, as `asyncio.Task.cancel` does. A second call cancels it once more."""
        self.cancel_called = True
        with suppress(RuntimeError):  # the loop is closed, and the task will never go on
            self._loop.call_soon_threadsafe(self._cancel)

    async def unwind(self, *, seconds: float = _UNWINDING_TIME) -> None:
        """Cancel the task unless it has ended, and wait for its end, but not longer than this.

        Cancellation:
            Does not shorten the wait.
        """
        if not self.done.is_set():
            self.cancel()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds):
                await self.done.wait()

    def _start(
        self, function: Callable[..., Awaitable[_T]], args: tuple[object, ...], name: str
    ) -> None:
        # The task returns an outcome, and raises nothing: asyncio would log an exception that is
        # never retrieved, and a SystemExit would end the loop's run.
        self._task = self._loop.create_task(outcome.acapture(function, *args), name=name)
        self._task.add_done_callback(self._deliver)

    def _cancel(self) -> None:
        if self._task is not None:  # the loop runs `_start` before any `_cancel`
            self._task.cancel()

    def _deliver(self, task: asyncio.Task[outcome.Outcome[_T]]) -> None:
        # A task that is cancelled before its first step has no outcome.
        result = outcome.Error(asyncio.CancelledError()) if task.cancelled() else task.result()
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._note_end, result)

    def _note_end(self, result: outcome.Outcome[_T]) -> None:
        self.result = result
        self.done.set()
        self._when_done()
