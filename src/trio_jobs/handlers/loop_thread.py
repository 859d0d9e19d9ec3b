"""`LoopThread`: asyncio's loop, or uvloop's, in a daemon thread of its own."""

import asyncio
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Literal, Self

import outcome
import trio

from trio_jobs.handlers.daemon_executor import DaemonExecutor
from trio_jobs.handlers.handler import FORKS
from trio_jobs.handlers.opening_errors import LoopStartError

log = logging.getLogger(__name__)

# Seconds that the remaining tasks and async generators get to end, once the block is left.
_CLOSING_TIME = 0.2

MakeLoop = Callable[[], asyncio.AbstractEventLoop]


def loop_maker(choice: Literal["asyncio", "uvloop"] | MakeLoop) -> MakeLoop:
    """The function that makes the chosen loop.

    Raises:
        LoopStartError: The choice is uvloop, which is not installed.
    """
    if choice == "asyncio":
        return asyncio.SelectorEventLoop
    if choice == "uvloop":
        try:
            make: MakeLoop = import_module("uvloop").new_event_loop
        except ImportError as error:
            raise LoopStartError(f"uvloop cannot be imported: {error}") from error
        return make
    return choice


class LoopThread:
    """Runs a loop of asyncio for the length of an ``async with`` block.

    Leaving the block cancels the remaining tasks. It takes bounded time and cannot be cancelled. A
    loop that does not end in that time is left behind (``asyncio_still_running`` in the log).

    Args:
        make: Makes the loop; called in the new thread.

    Attributes:
        loop: The loop; before the block is entered there is none.
        left_behind: Whether the thread has not ended in time.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, make: MakeLoop) -> None:
        self._make = make
        self._ends = False  # written by Trio's thread, and read by the loop's
        self._started = trio.Event()
        self._ended = trio.Event()
        self._error: BaseException | None = None
        self.left_behind = False

    async def __aenter__(self) -> Self:
        self._token = trio.lowlevel.current_trio_token()
        try:
            threading.Thread(target=self._run, name="asyncio", daemon=True).start()
        except RuntimeError as error:
            raise LoopStartError(f"asyncio's thread cannot be started: {error}") from error
        with trio.CancelScope(shield=True):  # making a loop takes bounded time
            await self._started.wait()
        if self._error is not None:
            text = f"asyncio's loop cannot be made: {self._error or type(self._error).__name__}"
            raise LoopStartError(text) from self._error
        os.register_at_fork(after_in_child=partial(_stop_copy, weakref.ref(self)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ends = True
        with suppress(RuntimeError):  # user code has closed the loop
            self.loop.call_soon_threadsafe(self.loop.stop)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSING_TIME):
            await self._ended.wait()
        if not self._ended.is_set():
            self.left_behind = True
            log.warning("asyncio_still_running")

    def _run(self) -> None:
        made = outcome.capture(self._make)
        if isinstance(made, outcome.Error):
            self._error = made.error
            self._tell(self._started)
            return
        self.loop = loop = made.value
        self._identity = threading.get_ident()
        self._forks = FORKS.count
        loop.set_default_executor(DaemonExecutor())
        self._tell(self._started)
        while not self._ends and not loop.is_closed():
            self._run_until_stopped()
        for end in (self._end_tasks, loop.shutdown_asyncgens):
            with suppress(BaseException):
                loop.run_until_complete(end())
        loop.close()
        self._tell(self._ended)

    def _run_until_stopped(self) -> None:
        error = None
        try:
            self.loop.run_forever()
        except BaseException as raised:  # noqa: ASYNC103, BLE001 - a task's SystemExit leaves the loop
            error = raised  # noqa: ASYNC104 - this runs outside of Trio
        if self._forks != FORKS.count:
            os._exit(0)
        if error is not None:
            log.critical("asyncio_exit_raised", exc_info=error)

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tell(self, event: trio.Event) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(event.set)

    def stop_copy(self) -> None:
        """End a forked copy of the loop with the present step. Called in the forked child.

        The copy shares the epoll descriptor with the server, and would go on with all its tasks.
        """
        if threading.get_ident() == self._identity and not self._ended.is_set():
            self.loop.stop()
            # The steps that are due in this turn. uvloop does not show its own.
            getattr(self.loop, "_ready", deque()).clear()


def _stop_copy(thread: "weakref.ref[LoopThread]") -> None:
    found = thread()
    if found is not None:
        found.stop_copy()
