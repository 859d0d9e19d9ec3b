"""`TrioThread`: keeps a block of Trio's open in a thread, for an asyncio program."""

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

import outcome
import trio

from trio_jobs.trio_call import TrioCall

log = logging.getLogger(__name__)

_Value = TypeVar("_Value")

# Seconds. How long calls may go on after the end of Trio's block.
_ANSWERING = 1.0
# Seconds. How long the program waits for a cancelled call or block to end.
_UNWINDING = 2.0


class _LocalValue:
    """A value of the program's thread. Python drops it when that thread ends."""


class TrioThread(Generic[_Value]):
    """A thread that runs Trio for the length of an ``async with`` block of an asyncio program.

    The thread enters a block of Trio's, and leaves it when the program leaves its own. If Trio's
    block ends by itself, the program's block is cancelled, and raises the error of Trio's block.
    An exception that leaves the program's block cancels Trio's block. So does a cancellation of the
    program while it waits for the end of Trio's block.

    If the program's thread ends, or the program closes its loop, nobody can leave the program's
    block any more. Then Trio's thread leaves its block by itself.

    Args:
        block: Makes Trio's block; called in the thread.
        grace_period: How many seconds the end of Trio's block may take before it is cancelled.

    Attributes:
        left_behind: Whether the thread had not ended when the program left its block.
    """

    def __init__(
        self, block: Callable[[], AbstractAsyncContextManager[_Value]], *, grace_period: float
    ) -> None:
        self._block = block
        self._grace_period = grace_period
        self.left_behind = False
        # Used in the program's thread alone.
        self._in_block = False
        self._has_cancelled = False  # the task of the program's block
        self._of_host = threading.local()
        # Used in Trio's thread alone.
        self._scope = trio.CancelScope()
        self._leaving = trio.Event()
        self._calls: trio.Nursery

    async def __aenter__(self) -> _Value:
        """Start the thread, and wait until it has entered its block.

        Returns:
            The value of Trio's block.

        Raises:
            BaseException: The error of the block's start, or of the thread's.

        Cancellation:
            Cancels Trio's block, and waits for the end of the thread for 2 s at most.
        """
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._token: asyncio.Future[trio.lowlevel.TrioToken] = self._loop.create_future()
        self._entered: asyncio.Future[_Value] = self._loop.create_future()
        self._ended: asyncio.Future[outcome.Outcome[None]] = self._loop.create_future()
        # A daemon thread: a handler that blocks Trio does not hold up the end of the process.
        trio.lowlevel.start_thread_soon(self._run, self._deliver_end, "trio_jobs")
        try:
            started: list[asyncio.Future[Any]] = [self._entered, self._ended]
            await asyncio.wait(started, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._end(0)  # noqa: ASYNC102 - asyncio's cancellation comes once
            raise
        if self._ended.done():
            self._ended.result().unwrap()
        self._in_block = True
        self._host_end = self._watch_host()
        return self._entered.result()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave Trio's block, and wait for the end of the thread.

        Raises:
            BaseException: The error of Trio's block.

        Cancellation:
            Cancels Trio's block, and waits for the end of the thread for 2 s at most.
        """
        self._in_block = False
        self._host_end.detach()
        if self._has_cancelled and self._task is not None:
            self._task.uncancel()
        else:
            seconds = 0 if error is not None else self._grace_period
            await self._end(seconds)  # noqa: ASYNC102 - asyncio's cancellation comes once
        if self._ended.done():
            self._ended.result().unwrap()

    async def call(self, function: Callable[..., object], *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        """Call a function in Trio's thread, and await what it returns if that can be awaited.

        The task of an awaited call has a copy of the caller's context. The caller may run on any
        loop of asyncio's.

        Raises:
            trio.RunFinishedError: Trio's block has ended, and with it the call.
            BaseException: The error of the function.

        Cancellation:
            Cancels the call, and waits until it has unwound, for 2 s at most: something may block
            Trio. It is unknown whether the call has had its effect. An error of its unwinding is
            raised.
        """
        call = TrioCall(partial(function, *args, **kwargs), post=self._post)
        token = self._token.result()
        token.run_sync_soon(self._begin, call)
        try:
            await call.ended.wait()
        except asyncio.CancelledError:  # noqa: ASYNC103 - raised, or an error in its place
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(call.cancel)
            await _wait_unwound(call.ended)  # noqa: ASYNC102 - bounded
            if not isinstance(call.result, outcome.Error):
                raise
        if call.result is None:
            raise trio.RunFinishedError("the block has ended")
        return call.result.unwrap()

    async def _end(self, seconds: float) -> None:
        """Leave Trio's block within so many seconds, and wait for the end of the thread."""
        self._token.add_done_callback(lambda _: self._leave_soon(seconds))
        try:
            await asyncio.wait([self._ended], timeout=seconds + _UNWINDING)
        except asyncio.CancelledError:
            if seconds:
                await self._end(0)  # noqa: ASYNC102 - asyncio's cancellation comes once
            raise
        if not self._ended.done():
            self.left_behind = True
            log.error("pool_still_running", extra={"seconds": seconds + _UNWINDING})

    def _watch_host(self) -> "weakref.finalize[[float], _LocalValue]":
        """Let the end of the program's thread leave Trio's block; called in that thread."""
        self._of_host.value = _LocalValue()
        end = weakref.finalize(self._of_host.value, self._leave_soon, self._grace_period)
        end.atexit = False
        return end

    def _note_end(self, result: outcome.Outcome[None]) -> None:
        self._ended.set_result(result)
        if self._in_block and self._task is not None:
            self._has_cancelled = self._task.cancel()

    def _leave_soon(self, seconds: float) -> None:
        """Leave Trio's block within so many seconds; for any thread."""
        with suppress(trio.RunFinishedError):
            self._token.result().run_sync_soon(self._leave, seconds)

    # Everything below runs in Trio's thread.

    def _run(self) -> None:
        trio.run(self._main)

    async def _main(self) -> None:
        self._post(self._loop, partial(self._token.set_result, trio.lowlevel.current_trio_token()))
        async with trio.open_nursery() as self._calls:
            result = await outcome.acapture(self._hold_block)
            # Calls go on after the block: one that has waited for the block's end gets its answer.
            # After a failure of the block, a call might wait for ever.
            seconds = _ANSWERING if isinstance(result, outcome.Value) else 0
            self._calls.cancel_scope.deadline = trio.current_time() + seconds
        result.unwrap()

    async def _hold_block(self) -> None:
        with self._scope:
            async with self._block() as value:
                self._post(self._loop, partial(self._entered.set_result, value))
                await self._leaving.wait()

    def _leave(self, seconds: float) -> None:
        if not seconds:
            self._scope.cancel()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + seconds)
        self._leaving.set()

    def _begin(self, call: TrioCall) -> None:
        call.begin(self._calls)

    def _post(self, loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed
            if loop is self._loop:
                self._leave(self._grace_period)

    def _deliver_end(self, result: outcome.Outcome[None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._note_end, result)


async def _wait_unwound(ended: asyncio.Event) -> None:
    """Wait for the end of a cancelled call for a bounded time; a second cancel changes nothing."""
    deadline = asyncio.get_running_loop().time() + _UNWINDING
    with suppress(TimeoutError):
        while not ended.is_set():
            with suppress(asyncio.CancelledError):
                async with asyncio.timeout_at(deadline):
                    await ended.wait()
