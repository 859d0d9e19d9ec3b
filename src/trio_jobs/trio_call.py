"""`TrioCall`: one call of an asyncio task in the thread of a Trio run."""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable

import outcome
import trio

Post = Callable[[asyncio.AbstractEventLoop, Callable[[], object]], None]


class TrioCall:
    """A function that an asyncio task has called in the thread of a Trio run.

    The asyncio task makes this object and waits for `ended`. Everything else runs in Trio's thread.

    Args:
        work: The call; made in Trio's thread. If it returns an awaitable, a task of Trio's awaits
            that, in a copy of the caller's context.
        post: Lets an asyncio loop call a function soon; called in Trio's thread.

    Attributes:
        ended: Set on the caller's loop when the work has ended, also if it was cancelled.
        result: What the work has returned or raised; None if it was cancelled, by `cancel` or by
            the end of the run.
    """

    def __init__(self, work: Callable[[], object], *, post: Post) -> None:
        self.ended = asyncio.Event()
        self.result: outcome.Outcome[object] | None = None
        self._work = work
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._scope = trio.CancelScope()

    # Trio's thread calls `begin` and `cancel` by `run_sync_soon`: what these raise ends Trio's run.

    def begin(self, nursery: trio.Nursery) -> None:
        """Make the call; its task runs in the nursery."""
        result = self._context.run(outcome.capture, self._work)
        if isinstance(result, outcome.Value) and inspect.isawaitable(result.value):
            try:
                self._context.run(nursery.start_soon, self._await, result.value)
            except RuntimeError:  # the nursery is closed
                if inspect.iscoroutine(result.value):
                    result.value.close()
                self._end()
        else:
            self.result = result
            self._end()

    def cancel(self) -> None:
        """Cancel the work; `ended` is set when it has unwound. After its end this does nothing."""
        self._scope.cancel()

    async def _await(self, work: Awaitable[object]) -> None:
        try:
            with self._scope:
                self.result = outcome.Value(await work)
        except trio.Cancelled:  # by the end of the run
            raise
        except BaseException as error:  # noqa: BLE001 - the caller's
            self.result = outcome.Error(error)
        finally:
            self._end()

    def _end(self) -> None:
        self._post(self._loop, self.ended.set)
