"""The hard limit: once armed it is never disarmed, and nothing in the process can outlast it.

Three clocks, each for the case that the one before it cannot run: a thread, which says what was
in the way and exits with status 70; faulthandler's thread, which needs no GIL, for code that
holds it in one C call (status 1); the kernel's timer, for when faulthandler's own output blocks
(killed by SIGALRM).
"""

import contextlib
import faulthandler
import itertools
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

from trio_jobs.bounded_write import open_for_writing, write_within

HARD_LIMIT_STATUS = 70

# For the whole report. A reader that is alive takes milliseconds; a pipe that nobody reads must
# not hold up the end.
REPORT_SECONDS = 0.5

# After the limit. Both leave the one before them time to finish, and together with the default
# limit of 28 s stay under an orchestrator's usual 30 s.
FAULTHANDLER_AFTER_SECONDS = 1.0
SIGALRM_AFTER_SECONDS = 1.5

# A line for the log, and what stands below it: a stack, or nothing.
Block = tuple[str, str]


class HardLimit:
    """Ends the process when the earliest of the limits it was armed with has passed.

    Without ``start`` it has no power over the process: arming it does nothing.
    """

    def __init__(
        self,
        *,
        in_the_way: Callable[[], Iterable[Block]],
        render: Callable[[str, str], bytes],
    ) -> None:
        """``in_the_way`` is called in the limit's own thread, when the limit has been reached."""
        self._in_the_way = in_the_way
        self._render = render
        self._started = False
        self._log = -1
        self._since = 0.0
        self._due: float | None = None
        # From the signal handler to the thread. put() is reentrant, which Event.set() and
        # Thread.start() are not: a handler that interrupts the main thread inside threading's
        # own lock would wait for that lock for ever.
        self._dues: queue.SimpleQueue[float] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the thread, which sleeps until the limit is armed."""
        self._log = open_for_writing(2)
        threading.Thread(target=self._watch, name="hard limit", daemon=True).start()
        self._started = True

    def arm(self, *, since: float, seconds: float) -> None:
        """End the process ``seconds`` after ``since`` (``time.monotonic()``), or earlier.

        Safe in a signal handler. In the main thread only.
        """
        due = since + seconds
        if not self._started or (self._due is not None and self._due <= due):
            return
        if self._due is None:
            self._since = since
        self._due = due
        self._dues.put(due)
        left = max(due - time.monotonic(), 0)
        with contextlib.suppress(RuntimeError):  # no thread to be had: SIGALRM is left
            faulthandler.dump_traceback_later(
                left + FAULTHANDLER_AFTER_SECONDS, exit=True, file=self._log
            )
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, left + SIGALRM_AFTER_SECONDS)

    def end_process(self, line: str, blocks: Iterable[Block]) -> NoReturn:
        """Write ``line`` and the blocks, as far as the log takes them, and exit with status 70."""
        end = time.monotonic() + REPORT_SECONDS
        try:
            for block in itertools.chain([(line, "")], blocks):
                data = self._render(*block)
                if write_within(self._log, data, end - time.monotonic()) < len(data):
                    break
        finally:
            # Not sys.exit(): the interpreter would first wait for every thread that is no daemon.
            os._exit(HARD_LIMIT_STATUS)

    def _watch(self) -> None:
        due: float | None = None
        while True:
            try:
                due = self._dues.get(
                    timeout=None if due is None else max(due - time.monotonic(), 0)
                )
            except queue.Empty:
                after = time.monotonic() - self._since
                self.end_process(
                    f"hard limit reached after {after:.1f} s:"
                    f" the process ends with status {HARD_LIMIT_STATUS}",
                    self._in_the_way(),
                )
