"""`DiskTimer`: ends the waits for the disk that take too long, one task for all of them."""

import math

import trio

from trio_jobs.elapsed import elapsed_clock


class DiskTimer:
    """Times waits that all may take equally long.

    A cancel scope for each of them would take a fifth of what the event loop does for the job
    that is submitted. While nobody waits, and while all waits are short, the task sleeps.

    Args:
        seconds: How long a wait may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # The deadlines of the waits, by what they wait for; the earliest first.
        self._waits: dict[trio.Event, float] = {}
        self._first = trio.Event()  # somebody waits, while the task was idle
        self._scope = trio.CancelScope()
        self._now = elapsed_clock()
        self._idle = self._runs = self._closed = False

    async def run(self) -> None:
        """Time the waits, until the timer is closed and nobody waits any more.

        Cancellation:
            Ends the waits at once, as if they took too long.
        """
        self._runs = True
        try:
            with self._scope:
                while True:
                    self._first = trio.Event()
                    deadline = next(iter(self._waits.values()), math.inf)
                    self._idle = deadline == math.inf
                    with trio.move_on_after(max(deadline - self._now(), 0.0)):
                        await self._first.wait()
                    self._end_waits(self._now())
        finally:
            self._runs = False
            self._end_waits(self._now() + self._seconds)

    def close(self) -> None:
        """End `run` when the last wait is over."""
        self._closed = True
        if not self._waits:
            self._scope.cancel()

    async def wait(self, over: trio.Event) -> bool:
        """Wait until the event is set; return whether that took no longer than it may.

        The timer sets an event that takes too long. So nobody else waits for it.
        """
        if not self._runs:
            with trio.CancelScope(relative_deadline=self._seconds):
                await over.wait()
            return over.is_set()
        if self._idle:
            self._idle = False
            self._first.set()
        self._waits[over] = self._now() + self._seconds
        try:
            await over.wait()
        finally:
            in_time = self._waits.pop(over, None) is not None
            if self._closed and not self._waits:
                self._scope.cancel()
        return in_time

    def _end_waits(self, deadline: float) -> None:
        """End those that have this deadline, or an earlier one."""
        for over, latest in list(self._waits.items()):
            if latest > deadline:
                break
            if not over.is_set():  # otherwise it was in time, and its task has yet to run
                del self._waits[over]
                over.set()
