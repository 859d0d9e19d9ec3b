"""The server's signals: taken early, restored when user code takes them, given up in a fork.

Nothing heavy is imported here: until this module has run, a signal ends the process.
"""

import contextlib
import operator
import os
import signal
import time

# `signal.getsignal` makes an enum of each answer, which takes longer than the rest of `taken`; and
# the event loop calls that at every turn.
from _signal import getsignal as _getsignal  # type: ignore[import-not-found]
from _thread import RLock
from collections.abc import Callable
from types import FrameType
from typing import Any

# They begin a stop, and the second and third of them hasten it.
STOPPING = (signal.SIGTERM, signal.SIGINT)

# The server reads its files again. On a terminal the signal says that the terminal has ended, and
# is one of the former (`Signals.stopping`).
RELOADING = signal.SIGHUP

# It ends the process at once.
ENDING = (signal.SIGQUIT,)

# They do nothing. They have a handler for that: programs that a job starts would inherit SIG_IGN.
HARMLESS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)

OURS = (*STOPPING, RELOADING, *ENDING, *HARMLESS)

# Python ignores it from its start. Otherwise a client that disconnects would end the server.
_PIPE = signal.SIGPIPE

# User code may have its own handler for these, but not the default action, which kills.
_MUST_NOT_END = frozenset({*HARMLESS, _PIPE})

# Seconds from a noted signal to `connect`: the configuration has usually been read in one.
_NOTED_SECONDS = 10.0


class Signals:
    """Handles the server's signals, from the start of the process.

    `connect` says what a signal does; signals that come before are noted until then. A signal that
    was ignored when the process started (``nohup``) stays ignored.

    Python runs a signal's handler in the main thread, once that thread returns from C code: never,
    if it waits there for something that does not come. But Python writes the signal's number to a
    pipe at once, in whichever thread the signal comes. A thread of this class reads the pipe, and
    so does the handler: the one that reads a number handles that signal, so each is handled once.

    Attributes:
        stopping: The signals that begin a stop of this process.
    """

    def __init__(self) -> None:
        self.stopping = (*STOPPING, RELOADING) if os.isatty(0) else STOPPING
        self._noted: list[tuple[int, float]] = []
        self._handle: Callable[[int, float], None] = self._note
        self._handled: Callable[[], object] = lambda: None
        self._handler = self._on_signal  # one object, recognised by its identity
        # The handler that each signal must have: the server's, or a harmless one of user code.
        self._held: dict[int, Any] = {}
        self._reader = self._writer = -1  # the pipe's ends
        self._wakeup = -1  # where Python writes numbers: nowhere, or to the pipe
        self._wake: Callable[[], object] = lambda: None
        # Two threads handle signals, and a handler may interrupt itself.
        self._handling = RLock()

    def take(self) -> None:
        """Take the signals over, for the rest of the process's life. In the main thread."""
        # A process inherits its mask of blocked signals; blocking these is hardly ever meant.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)
        for signum in OURS:
            if not _is(_getsignal(signum), signal.SIG_IGN):
                signal.signal(signum, self._handler)
            self._held[signum] = _getsignal(signum)
        self._held[_PIPE] = _getsignal(_PIPE)

    def connect(
        self, handle: Callable[[int, float], None], *, handled: Callable[[], object]
    ) -> None:
        """Call ``handle`` with each signal, the noted ones first.

        Args:
            handle: Given the signal's number, and its time by ``time.monotonic()``. Called in a
                signal handler, or in another thread.
            handled: Called in the main thread after each signal.
        """
        import threading  # not at the top, as it delays the taking of the signals

        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        # First the handler, then the noted signals: one that comes in between is not lost.
        self._handle, self._handled = handle, handled
        noted, self._noted = self._noted, []
        for signum, at in noted:
            handle(signum, at)

    def release(self) -> None:
        """Give the signals back to Python's own handlers, and raise the noted ones again."""
        noted, self._noted = self._noted, []
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.give_up()
        for signum, _ in noted:
            signal.raise_signal(signum)

    def let_go(self, signum: signal.Signals) -> None:
        """Stop putting back the handler of this signal. Safe in a signal handler."""
        # A new dict: the handler may interrupt a loop over the old one.
        self._held = {each: handler for each, handler in self._held.items() if each != signum}

    def taken(self) -> list[str]:
        """The names of the signals whose handlers user code has replaced."""
        held = self._held
        if all(map(operator.is_, map(_getsignal, held), held.values())):
            return []
        taken: list[str] = []
        for signum, must_be in list(held.items()):
            handler = _getsignal(signum)
            if handler is must_be or signum not in self._held:
                continue
            if signum in _MUST_NOT_END and not _is(handler, signal.SIG_DFL):
                held[signum] = handler  # it may stay: the signal does not kill
            else:
                taken.append(signal.Signals(signum).name)
        return taken

    def put_back(self) -> None:
        """Give each signal the handler that it must have."""
        for signum, handler in self._held.items():
            if _getsignal(signum) is not handler:
                signal.signal(signum, handler)

    def hold_wakeup(self, wake: Callable[[], object]) -> None:
        """Have Python write the number of each signal to the pipe, from now on.

        Args:
            wake: Wakes the event loop, whose own descriptor for this is replaced. Called in
                another thread after each signal.
        """
        self._wake = wake
        self._wakeup = self._writer
        self.has_wakeup()

    def has_wakeup(self) -> bool:
        """Whether Python still wrote to the pipe; from now on it does in any case.

        Without it, a loop that begins to wait as a signal comes would not learn of the signal.
        """
        before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        return before == self._wakeup

    def is_unblocked(self) -> bool:
        """Whether the calling thread, the main one, lets all of the signals in."""
        return signal.pthread_sigmask(signal.SIG_BLOCK, ()).isdisjoint(OURS)

    def unblock(self) -> None:
        """Let all of the signals in."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)

    def give_up(self) -> None:
        """Restore Python's own handlers, in a forked child."""
        # Once: the child's own child may find handlers that the child has set.
        held, self._held = self._held, {}
        if not held:
            return
        signal.set_wakeup_fd(-1)
        if self._reader >= 0:
            os.close(self._reader)
            os.close(self._writer)
        for signum in held:
            if _getsignal(signum) is self._handler:
                signal.signal(
                    signum,
                    signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL,
                )

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if signum not in self._handle_written() and not self._is_written():
            self._handle(signum, time.monotonic())
        self._handled()

    def _watch(self) -> None:
        import select

        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while all(event & select.POLLIN for _, event in poll.poll()):
            self._handle_written()
            self._wake()

    def _handle_written(self) -> bytes:
        """Handle the signals whose numbers are in the pipe, and return these numbers.

        The time of each is now, not when it came: C code may have held the interpreter lock since
        then, for longer than a limit, and the limit would end the process at once.
        """
        with self._handling:
            numbers = b""
            with contextlib.suppress(OSError):  # empty, or closed by user code
                numbers = os.read(self._reader, 4096)
            for signum in numbers:
                if _getsignal(signum) is self._handler:  # else the handler is user code's
                    self._handle(signum, time.monotonic())
        return numbers

    def _is_written(self) -> bool:
        """Whether Python writes numbers to the pipe: then the thread has read this signal's."""
        if self._wakeup < 0:
            return False
        now = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if now == self._writer:
            return True
        # User code's descriptor goes back: `Takeovers.check` then warns of it, and sets the pipe.
        with contextlib.suppress(OSError, ValueError):  # it has been closed
            signal.set_wakeup_fd(now, warn_on_full_buffer=False)
        return False

    def _note(self, signum: int, at: float) -> None:
        self._noted.append((signum, at))
        if signum in (*self.stopping, *ENDING):
            # The hard limit needs the configuration, and reading that may never end: until then the
            # kernel's timer ends the process.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, _NOTED_SECONDS)


def _is(handler: object, action: signal.Handlers) -> bool:
    # The type comes first: a handler of user code may have any __eq__.
    return isinstance(handler, int) and handler == action
