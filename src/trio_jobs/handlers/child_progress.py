"""`ChildProgress`: sends what a job reports to the server; in the child process."""

import contextlib
import math
import threading
import time
from collections.abc import Callable

from trio_jobs.handlers.progress_report import ProgressReport

# Seconds. A function may report a million times a second, and the server reads each frame.
_BETWEEN_FRAMES = 0.1


class ChildProgress:
    """Sends the reports of one job: the first one at once, and then at most ten in a second.

    A report that comes too early waits, and a later one takes its place. The last one is sent even
    if the function reports nothing more: a thread sends it, because the function goes on computing.

    Args:
        send: Called with each report that is due.
    """

    def __init__(self, send: Callable[[ProgressReport], None]) -> None:
        self._send = send
        # Reentrant: a signal handler may report, too.
        self._lock = threading.RLock()
        self._waiting: ProgressReport | None = None
        self._timer: threading.Timer | None = None
        self._next = -math.inf
        self._ended = False

    def report(self, report: ProgressReport) -> None:
        """Send a report, or let it wait. Does nothing once the job has ended."""
        with self._lock:
            if self._ended:
                return
            left = self._next - time.monotonic()
            if self._timer is None and left <= 0:
                self._waiting = None
                self._send_now(report)
                return
            self._waiting = report
            if self._timer is None:
                timer = threading.Timer(left, self._send_waiting)
                timer.daemon = True
                with contextlib.suppress(RuntimeError):  # no thread can be started
                    timer.start()
                    self._timer = timer

    def end(self, *, send: bool) -> None:
        """Send nothing more, but for the report that waits, if ``send``."""
        with self._lock:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            if send and self._waiting is not None:
                self._send(self._waiting)

    def _send_waiting(self) -> None:
        with self._lock:
            self._timer = None
            report, self._waiting = self._waiting, None
            if report is not None and not self._ended:
                self._send_now(report)

    def _send_now(self, report: ProgressReport) -> None:
        self._next = time.monotonic() + _BETWEEN_FRAMES
        self._send(report)
