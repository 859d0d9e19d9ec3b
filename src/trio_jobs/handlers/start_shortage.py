"""`StartShortage`: jobs that cannot begin, for the server's sake, wait in their workers.

A process or a thread cannot be started while descriptors, memory or threads are used up. That
passes, and is no job's fault: the job has not begun, so it does not fail.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import trio

log = logging.getLogger(__name__)

# Seconds between two attempts, doubled from the one to the other. What ends inside this process
# wakes a job earlier: the pause is only for what no event tells, as another process's end.
_SHORTEST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0

# Seconds without a job that waits, until a shortage has passed: while there is just enough for some
# of the jobs, others begin to wait many times a second.
_CALM = 5.0

# Causes that are told of one shortage; some hold texts that are never the same.
_MAX_TOLD = 20

_T = TypeVar("_T")


class ShortageError(Exception):
    """A job cannot begin now, and nothing of it has begun; the text says why."""


class StartShortage:
    """Which of a pool's jobs cannot begin, and why. Every method but `outlast` is a plain `def`."""

    def __init__(self) -> None:
        self._waiting = 0
        self._cause: str | None = None
        # Of this shortage: the causes that the log has, and since when no job waits.
        self._told: set[str] = set()
        self._calm_since = 0.0
        # Made when a job begins to wait: what ends while none does costs nothing for it.
        self._change: trio.Event | None = None

    @property
    def cause(self) -> str | None:
        """Why jobs cannot begin, as the last attempt found it; None while none has to wait."""
        return self._cause

    def note_change(self) -> None:
        """Wake the jobs that wait: a job or a connection has ended."""
        if self._change is not None:
            self._change.set()
            self._change = None
        self._tell_if_passed()

    @contextlib.contextmanager
    def waiting(self, cause: str) -> Iterator[None]:
        """Show that a job waits, as long as the block takes."""
        self._tell_if_passed()
        self._waiting += 1
        self._tell(cause)
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._cause = None
                self._calm_since = trio.current_time()

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
            cause = str(error)
        with self.waiting(cause):
            return await self._try_again(attempt)

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
                self._tell(str(error))

    def _tell(self, cause: str) -> None:
        self._cause = cause
        if cause not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(cause)
            log.warning("jobs_blocked", extra={"cause": cause})

    def _tell_if_passed(self) -> None:
        if not self._told or self._waiting:
            return
        if trio.current_time() >= self._calm_since + _CALM:
            self._told.clear()
            log.info("jobs_unblocked")
