"""`StopSignals`: Ctrl-C once, twice and three times; SIGTERM and SIGHUP.

The first one asks the run to take no more lines and to wait for what is under way, the second
Ctrl-C to cancel that, and the third one ends the process at once.
"""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

# What asks for an end. A signal that the process ignores from its start (`nohup`) stays ignored.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# A wrapper (a shell, npm or make in a terminal's process group) forwards a Ctrl-C that the process
# has got already: one within this time is such a copy. A person takes longer to press it twice.
_REPEAT_WINDOW_SECONDS = 0.2


class StopSignals:
    """Counts the signals that ask the process to end.

    Args:
        leave: Ends the process with a status, at the third Ctrl-C.
        clock: In seconds.

    Attributes:
        level: 0; 1 once the run is to end; 2 once what is under way is to be cancelled.
        status: The exit status of a process that the first signal has ended: 130 for Ctrl-C.
    """

    def __init__(
        self,
        *,
        leave: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.level = 0
        self.status = 0
        self._leave = leave
        self._clock = clock
        self._last = float("-inf")
        self._changed: Callable[[], object] = lambda: None
        self._handler = self._on_signal  # one object, recognised by its identity

    def take(self) -> None:
        """Take the signals, again if user code has taken them since. In the main thread."""
        for signum in _SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._handler)

    def connect(self, changed: Callable[[], object]) -> None:
        """Call ``changed`` when the level has risen, at once if it has by now.

        Args:
            changed: Called in a signal handler.
        """
        self._changed = changed
        if self.level:
            changed()

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if signum != signal.SIGINT:
            # Systemd and a terminal that closes send them more than once: they hasten nothing.
            self._rise(signum, 1)
            return
        now = self._clock()
        if now - self._last < _REPEAT_WINDOW_SECONDS:
            return
        self._last = now
        if self.level >= 2:
            self._leave(self.status)
        self._rise(signum, self.level + 1)

    def _rise(self, signum: int, level: int) -> None:
        self.status = self.status or 128 + signum
        if level > self.level:
            self.level = level
            self._changed()
