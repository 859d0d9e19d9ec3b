"""The end of the process, in order or by the hard limit.

Once armed, the limit is never disarmed. It has three clocks, each for the case that the one before
it fails:

- A thread reports what keeps the process from ending, and exits with status 70. It cannot run while
  a call into C holds the interpreter lock.
- faulthandler's thread needs no such lock. It writes the stacks and exits with status 1. It fails
  if its write blocks, or if user code has stopped it.
- The kernel's timer kills the process by SIGALRM. Until the main thread, which alone can do so, has
  given SIGALRM its default action, this clock does nothing.
"""

import atexit
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
from typing import NoReturn

from trio_jobs.bounded_write import file_of, open_for_writing, write_each
from trio_jobs.shutdown.diagnostics import Block

HARD_LIMIT_STATUS = 70

# For the whole report. A log that is read takes it in milliseconds; an unread pipe must not delay
# the end.
REPORT_SECONDS = 0.5

# The thread wakes this long before the limit: it may wait as long for the GIL beside a busy loop.
HEAD_START_SECONDS = 0.5

# After the limit. Each leaves the clock before it time to finish. With the default limit of 28 s
# both are before an orchestrator's usual 30 s.
FAULTHANDLER_AFTER_SECONDS = 1.0
SIGALRM_AFTER_SECONDS = 1.5

# A kernel's timer that differs by less than this counts as the server's own. This is less than the
# time between two clocks, and more than passes while the server reads the clock and the timer.
_SLACK_SECONDS = 0.4


class HardLimit:
    """Ends the process at the earliest of the limits that it was armed with.

    Before ``start``, arming does nothing.
    """

    def __init__(
        self,
        *,
        diagnose: Callable[[], Iterable[Block]],
        render: Callable[[str, str, Mapping[str, object]], bytes],
        last: Callable[[], Iterable[Block]] = tuple,
        status: int = HARD_LIMIT_STATUS,
    ) -> None:
        """Prepare a limit.

        Args:
            diagnose: Returns what keeps the process from ending. Called in the limit's own thread
                once the limit is reached.
            render: Turns a block of the report into bytes for the log.
            last: Returns the end of each report, which is written even if the report's time is
                over. Called in the thread that ends the process.
            status: The exit status.
        """
        self._diagnose = diagnose
        self._render = render
        self._last = last
        self._status = status
        self._started = False
        self._is_deadly = False  # SIGALRM has its default action
        self._log = -1
        self._file: tuple[int, int] | None = None
        self._since = 0.0
        self._due = math.inf
        # Wakes the thread to read _due again. put() is reentrant, Event.set() and Thread.start()
        # are not: a signal handler may interrupt the main thread while it holds one of their locks.
        self._armed: queue.SimpleQueue[None] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the thread, which sleeps until the limit is armed."""
        self._log = open_for_writing(2)
        self._file = file_of(2)
        self._started = True
        threading.Thread(target=self._watch, name="hard limit", daemon=True).start()

    def move_log(self, fd: int) -> None:
        """Have standard error and the report lead to the file of ``fd``, a regular one.

        A descriptor that user code has closed or redirected stays as it is.
        """
        for each in (2, self._log):
            if file_of(each) == self._file:
                os.dup2(fd, each, inheritable=each == 2)
        self._file = file_of(fd)

    def arm(self, *, since: float, seconds: float) -> None:
        """End the process ``seconds`` after ``since`` (``time.monotonic()``), or earlier.

        Safe in a signal handler, and in any thread.
        """
        due = since + seconds
        if not self._started or self._due <= due:
            return
        # No call between the check and these lines, so no other signal handler runs between them.
        if self._due == math.inf:
            self._since = since
        self._due = due
        self._armed.put(None)
        self.set_alarm()

    def is_armed(self) -> bool:
        """Whether the kernel's timer is set for the armed limit, if one is. In the main thread."""
        if self._due == math.inf or not self._started:
            return True
        left = self._due - time.monotonic()
        if left <= 0:
            return True  # the thread is ending the process
        if not self._is_deadly:
            self.set_alarm()  # another thread has armed the limit
        ends = signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
        # A process has one such timer: user code may have set it to an earlier or a later time.
        off = signal.getitimer(signal.ITIMER_REAL)[0] - left - SIGALRM_AFTER_SECONDS
        return ends and abs(off) < _SLACK_SECONDS

    def set_alarm(self) -> None:
        """Set the clocks that are no thread of Python's, also if user code has changed them."""
        left = max(self._due - time.monotonic(), 0)
        with contextlib.suppress(RuntimeError):  # no thread can be started: SIGALRM still kills
            faulthandler.dump_traceback_later(
                left + FAULTHANDLER_AFTER_SECONDS, exit=True, file=self._log
            )
        self._is_deadly = threading.current_thread() is threading.main_thread()
        if self._is_deadly:  # Python refuses it in other threads
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, left + SIGALRM_AFTER_SECONDS)

    def give_up(self) -> None:
        """Stop working, in a forked child. Threads and timers are not copied."""
        if self._started:
            self._started = False
            os.close(self._log)

    def end_process(self, line: str, blocks: Iterable[Block]) -> None:
        """Write ``line``, as many blocks as the log takes in half a second, and the end; then exit.

        Before ``start`` it does nothing. Safe in a signal handler.
        """
        if not self._started:
            return
        try:
            all_blocks = itertools.chain([(line, "", {})], blocks)
            lines = itertools.starmap(self._render, all_blocks)
            write_each(self._log, lines, REPORT_SECONDS, last=self._last_lines)
        finally:
            # Not sys.exit(): the interpreter would wait for every thread that is not a daemon.
            os._exit(self._status)

    def _last_lines(self) -> Iterable[bytes]:
        return itertools.starmap(self._render, self._last())

    def _watch(self) -> None:
        while True:
            wait = max(self._due - HEAD_START_SECONDS - time.monotonic(), 0)
            try:
                self._armed.get(timeout=None if wait == math.inf else wait)
            except queue.Empty:
                break
        # A loop of short system calls releases the GIL too briefly for another thread to take it.
        # A thread that has waited for this interval (by default 5 ms) gets the GIL at once.
        sys.setswitchinterval(1e-5)
        time.sleep(max(self._due - time.monotonic(), 0))
        self.end_process(
            f"hard limit reached after {time.monotonic() - self._since:.1f} s:"
            f" the process ends with status {self._status}",
            self._diagnose(),
        )


def end_interpreter(status: int, *, last_words: Callable[[], object] = lambda: None) -> NoReturn:
    """Do what the interpreter does at its end, then say the last words, and exit with ``status``.

    The interpreter itself would wait after the last words, perhaps beyond the hard limit: for
    threads that are no daemons, ``atexit`` callbacks, finalizers, and a flush of standard output,
    whose failure has a status of its own (120). Finalizers of modules do not run; Python does not
    promise them either.
    """
    # multiprocessing ends its children with these two calls; neither has a public name.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # None, closed, a full disk, or user code's own
            stream.flush()
    last_words()
    os._exit(status)
