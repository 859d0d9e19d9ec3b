"""The hard limit: once armed it is never disarmed, and nothing in the process can outlast it.

Three clocks, each for the case that the one before it cannot run: a thread, which says what was
in the way and exits with status 70; faulthandler's thread, which needs no GIL, for code that
holds it in one C call (status 1); the kernel's timer, for when faulthandler's own output blocks
(killed by SIGALRM).
"""

import contextlib
import faulthandler
import itertools
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from trio_jobs.bounded_write import open_for_writing, write_within

HARD_LIMIT_STATUS = 70

# For the whole report. A reader that is alive takes milliseconds; a pipe that nobody reads must
# not hold up the end.
REPORT_SECONDS = 0.5

# Before the limit: to get hold of the GIL took up to this long where a loop was spinning.
HEAD_START_SECONDS = 0.5

# After the limit. Both leave the one before them time to finish, and together with the default
# limit of 28 s stay under an orchestrator's usual 30 s.
FAULTHANDLER_AFTER_SECONDS = 1.0
SIGALRM_AFTER_SECONDS = 1.5

# By how much the kernel's timer may be off: it stays behind the other clocks, and no two of the
# server's own steps are that far apart.
_SLACK_SECONDS = 0.4

# A line for the log, and what stands below it: a stack, or nothing.
Block = tuple[str, str, Mapping[str, object]]


class HardLimit:
    """Ends the process when the earliest of the limits it was armed with has passed.

    Without ``start`` it has no power over the process: arming it does nothing.
    """

    def __init__(
        self,
        *,
        in_the_way: Callable[[], Iterable[Block]],
        render: Callable[[str, str, Mapping[str, object]], bytes],
        status: int = HARD_LIMIT_STATUS,
    ) -> None:
        """``in_the_way`` is called in the limit's own thread, when the limit has been reached."""
        self._in_the_way = in_the_way
        self._render = render
        self._status = status
        self._started = False
        self._is_deadly = False
        self._log = -1
        self._since = 0.0
        self._due = math.inf
        # Wakes the thread, to look at _due again. put() is reentrant, which Event.set() and
        # Thread.start() are not: a signal handler that interrupts the main thread while it holds
        # a lock of threading's would wait for that lock for ever.
        self._armed: queue.SimpleQueue[None] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the thread, which sleeps until the limit is armed."""
        self._log = open_for_writing(2)
        self._started = True
        threading.Thread(target=self._watch, name="hard limit", daemon=True).start()

    def arm(self, *, since: float, seconds: float) -> None:
        """End the process ``seconds`` after ``since`` (``time.monotonic()``), or earlier.

        Safe in a signal handler. In the main thread, unless that is in C.
        """
        due = since + seconds
        if not self._started or self._due <= due:
            return
        # No call between the look and these lines: a signal's handler, which may run inside this
        # call, comes before the look or after them.
        if self._due == math.inf:
            self._since = since
        self._due = due
        self._armed.put(None)
        self._set_alarms()

    def is_armed(self) -> bool:
        """Whether the kernel's timer ends the process at its time, if the limit has been armed.

        What user code does to faulthandler's thread cannot be seen. Behind that is this timer.
        """
        if self._due == math.inf or not self._started:
            return True
        left = self._due - time.monotonic()
        if left <= 0:
            return True  # the thread is ending the process
        if not self._is_deadly:
            self._set_alarms()  # another thread has armed it
        ends = signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
        # There is but one timer: one that runs may be user code's own, and come earlier or later.
        off = signal.getitimer(signal.ITIMER_REAL)[0] - left - SIGALRM_AFTER_SECONDS
        return ends and abs(off) < _SLACK_SECONDS

    def arm_again(self) -> None:
        """Set the clocks that user code may have stopped."""
        self._set_alarms()

    def give_up(self) -> None:
        """Have no power over this process any more: it is a child that has been forked.

        Threads and timers are not copied.
        """
        if self._started:
            self._started = False
            os.close(self._log)

    def _set_alarms(self) -> None:
        left = max(self._due - time.monotonic(), 0)
        with contextlib.suppress(RuntimeError):  # no thread to be had: SIGALRM is left
            faulthandler.dump_traceback_later(
                left + FAULTHANDLER_AFTER_SECONDS, exit=True, file=self._log
            )
        self._is_deadly = threading.current_thread() is threading.main_thread()
        if self._is_deadly:  # else Python refuses, and the main thread may be in C for ever
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, left + SIGALRM_AFTER_SECONDS)

    def end_process(self, line: str, blocks: Iterable[Block]) -> None:
        """Write ``line`` and the blocks, as far as the log takes them, and exit with the status.

        Safe in a signal handler.
        """
        if not self._started:
            return
        end = time.monotonic() + REPORT_SECONDS
        try:
            for block in itertools.chain([(line, "", {})], blocks):
                data = self._render(*block)
                left = end - time.monotonic()  # also when the log takes everything at once
                if left <= 0 or write_within(self._log, data, left) < len(data):
                    break
        finally:
            # Not sys.exit(): the interpreter would wait for every thread that is not a daemon.
            os._exit(self._status)

    def _watch(self) -> None:
        while True:
            wait = max(self._due - HEAD_START_SECONDS - time.monotonic(), 0)
            try:
                self._armed.get(timeout=None if wait == math.inf else wait)
            except queue.Empty:
                break
        # A loop that spins through short system calls lets go of the GIL for too short a time to
        # get hold of it. Who has waited for this long (by default 5 ms) gets it at once.
        sys.setswitchinterval(1e-5)
        time.sleep(max(self._due - time.monotonic(), 0))
        self.end_process(
            f"hard limit reached after {time.monotonic() - self._since:.1f} s:"
            f" the process ends with status {self._status}",
            self._in_the_way(),
        )
