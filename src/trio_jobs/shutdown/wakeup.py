"""What wakes the event loop at a signal, and handles the signal where the main thread cannot.

Python runs a signal's handler in the main thread, once that is back from C: never, where it waits
there for something that does not come. But the signal's number is written to a descriptor at once,
in whatever thread it comes. Whoever reads the number handles the signal.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable

from trio_jobs.shutdown.signals import Signals

# The main thread comes in far less, unless it is in C.
GRACE_SECONDS = 0.1


class Wakeup:
    """A pipe for the numbers of signals, and a thread that waits for them.

    The thread needs the interpreter lock, so it does nothing while C code holds that.
    """

    def __init__(self, signals: Signals, wake: Callable[[], object]) -> None:
        """``wake`` makes the main thread look for signals; it is called in another thread."""
        self._signals = signals
        self._wake = wake
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def start(self) -> None:
        """Start. In the main thread, with the event loop running."""
        try:
            threading.Thread(target=self._watch, name="signals", daemon=True).start()
        except RuntimeError:  # no thread to be had: the event loop's own descriptor wakes it
            self._signals.hold_wakeup(signal.set_wakeup_fd(-1))
        else:
            self._signals.hold_wakeup(self._writer, self._read)

    def give_up(self) -> None:
        """Close the pipe, in a child that has been forked: the thread is not copied."""
        os.close(self._reader)
        os.close(self._writer)

    def _read(self) -> bytes:
        with contextlib.suppress(OSError):  # empty, or closed by user code
            return os.read(self._reader, 4096)
        return b""

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while all(event & select.POLLIN for _, event in poll.poll()):
            self._wake()
            time.sleep(GRACE_SECONDS)
            self._signals.handle_written()
