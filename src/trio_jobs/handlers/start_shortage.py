"""`StartShortage`: jobs that cannot begin, for the server's sake, wait in their workers.

A process or a thread cannot be started while descriptors, memory or threads are used up. That
passes, and is no job's fault: the job has not begun, so it does not fail.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

log = logging.getLogger(__name__)

# Seconds between two attempts, doubled from the one to the other. What ends inside this process
# wakes a job earlier: the pause is only for what no event tells, as another process's end.
_SHORTEST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0

_T = TypeVar("_T")


class ShortageError(Exception):
    """A job cannot begin now, and nothing of it has begun; the text says why."""


class StartShortage:
    """Which of a pool's jobs cannot begin, and why. Every method but `outlast` is a plain `def`."""

    def __init__(self) -> None:
        self._waiting = 0
        self._cause: str | None = None
        # Made when a job begins to wait: what ends while none does costs nothing for it.
        self._change: trio.Event | None = None

    @property
    def cause(self) -> str | None:
        """Why jobs cannot begin, as the last attempt found it; None while none has to wait."""
        return self._cause

    def note_change(self) -> None:
        """Wake the jobs that wait: a child, a thread's job or a descriptor has come free."""
        if self._change is not None:
            self._change.set()
            self._change = None

    async def outlast(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Call ``attempt`` until it finds what it needs.

        Args:
            attempt: Raises `ShortageError` if it does not.

        Returns:
            What ``attempt`` returned.

        Cancellation:
            Ends the waiting; ``attempt`` sees to itself.

        Checkpoints:
            If it has to wait; otherwise as ``attempt``.
        """
        try:
            return await attempt()
        except ShortageError as error:
            self._block(str(error))
        began = False
        try:
            result = await self._try_again(attempt)
            began = True
        finally:
            self._unblock(began=began)
        return result

    async def _try_again(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        pause = _SHORTEST_PAUSE
        while True:
            if self._change is None:
                self._change = trio.Event()
            with trio.move_on_after(pause):
                await self._change.wait()
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                return await attempt()
            except ShortageError as error:
                self._cause = str(error)

    def _block(self, cause: str) -> None:
        self._waiting += 1
        self._cause = cause
        if self._waiting == 1:
            log.warning("jobs_blocked", extra={"cause": cause})

    def _unblock(self, *, began: bool) -> None:
        self._waiting -= 1
        if self._waiting == 0:
            self._cause = None
            if began:  # or else it was cancelled, and nobody knows
                log.info("jobs_unblocked")
