"""`StartShortage`: jobs that cannot begin for lack of a resource wait in their workers.

Without descriptors, memory or threads no process or thread can be started. That passes, and is no
job's fault: the job has not begun, so it does not fail.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import trio

log = logging.getLogger(__name__)

# Seconds between two attempts, doubled each time. The end of a job or a connection wakes the
# waiting jobs earlier; the pause is for events that this process does not see, such as the end of
# another program.
_SHORTEST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0

# Seconds without a waiting job until the shortage counts as over. If a resource is enough for only
# some jobs, others begin to wait many times a second: the log must not say so each time.
_CALM = 5.0

# How many causes of one shortage are logged at most; some causes have a new text each time.
_MAX_TOLD = 20

_T = TypeVar("_T")


class ShortageError(Exception):
    """A job cannot begin now, and has not begun; the text says why."""


class StartShortage:
    """The jobs of a pool that cannot begin, and the cause. Only `outlast` waits."""

    def __init__(self) -> None:
        self._waiting = 0
        self._cause: str | None = None
        self._told: set[str] = set()  # the causes of this shortage that were logged
        self._calm_since = 0.0
        # Made before an attempt: what comes free during it may have come too late for it.
        self._change: trio.Event | None = None

    @property
    def cause(self) -> str | None:
        """Why jobs cannot begin, according to the last attempt; None while no job waits."""
        return self._cause

    def note_change(self) -> None:
        """Wake the waiting jobs: a job or a connection has ended."""
        if self._change is not None:
            self._change.set()
            self._change = None
        if self._told:
            self._end_if_calm()

    @contextlib.contextmanager
    def waiting(self, cause: str) -> Iterator[None]:
        """Count one more waiting job, and show ``cause``, for the length of the block."""
        self._end_if_calm()
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
        """Call ``attempt`` until it does not raise `ShortageError`.

        Returns:
            The value that ``attempt`` returned.

        Checkpoints:
            While a shortage lasts; otherwise as ``attempt``.
        """
        change = self._next_change()
        try:
            return await attempt()
        except ShortageError as error:
            cause = str(error)
        pause = _SHORTEST_PAUSE
        with self.waiting(cause):
            while True:
                with trio.move_on_after(pause):
                    await change.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)
                change = self._next_change()
                try:
                    return await attempt()
                except ShortageError as error:
                    self._tell(str(error))

    def _next_change(self) -> trio.Event:
        if self._change is None:
            self._change = trio.Event()
        return self._change

    def _tell(self, cause: str) -> None:
        # Clients are sent it as UTF-8; the name of a file may be no valid Unicode.
        cause = cause.encode(errors="backslashreplace").decode()
        self._cause = cause
        if cause not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(cause)
            log.warning("jobs_blocked", extra={"reason": cause})

    def _end_if_calm(self) -> None:
        if self._told and not self._waiting and trio.current_time() >= self._calm_since + _CALM:
            self._told.clear()
            log.info("jobs_unblocked")
