"""The server's signals: taken as early as can be, held against user code, given up in a child.

Nothing heavy is imported here: until this module has run, a signal ends the process.
"""

import contextlib
import operator
import signal
import time

# `signal.getsignal` makes an enum of each answer. That takes longer than all the rest of a look,
# and there is one at every turn of the event loop.
from _signal import getsignal as _getsignal  # type: ignore[import-not-found]
from _thread import RLock
from collections.abc import Callable
from types import FrameType
from typing import Any

# They begin a stop, and the second and third of them hasten it.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# It ends the process at once.
ENDING = (signal.SIGQUIT,)

# They do nothing. By a handler and not by SIG_IGN, which programs started by a job would inherit.
HARMLESS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)

OURS = (*STOPPING, *ENDING, *HARMLESS)

# Python ignores it from its start: a client that hangs up would end the server.
_PIPE = signal.SIGPIPE

# Of these only the default action is a danger: user code may have handlers of its own.
_MUST_NOT_END = frozenset({*HARMLESS, _PIPE})

# For a start to get from its first lines to its configuration; it takes a second.
_NOTED_SECONDS = 10.0


class Signals:
    """What is to happen at each of the server's signals, from the start of the process.

    Signals are noted until `connect` says what to do with them. One that was ignored when the
    process started (``nohup``) stays ignored.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[int, float]] = []
        self._handle: Callable[[int, float], None] = self._note
        self._handler = self._on_signal  # one object, to be told by its identity
        # What each signal's handler is to be: ours, or one of user code that does no harm.
        self._held: dict[int, Any] = {}
        self._wakeup = -1
        self._read: Callable[[], bytes] | None = None
        # Two threads may handle signals, and a handler interrupts itself.
        self._handling = RLock()

    def take(self) -> None:
        """Take the signals over, for the rest of the process's life. In the main thread."""
        # The mask is inherited as well; one that blocks a signal is nobody's wish.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)
        for signum in OURS:
            if not _is(_getsignal(signum), signal.SIG_IGN):
                signal.signal(signum, self._handler)
            self._held[signum] = _getsignal(signum)
        self._held[_PIPE] = _getsignal(_PIPE)

    def connect(self, handle: Callable[[int, float], None]) -> None:
        """Call ``handle`` with each signal, those noted so far first.

        Args:
            handle: Given the signal's number, and when it came by ``time.monotonic()``. Called in
                a signal handler.
        """
        # In this order no signal is lost that comes in between.
        self._handle = handle
        noted, self._noted = self._noted, []
        for signum, at in noted:
            handle(signum, at)

    def release(self) -> None:
        """Give all of them back to Python, and those noted so far as well."""
        noted, self._noted = self._noted, []
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.give_up()
        for signum, _ in noted:
            signal.raise_signal(signum)

    def let_go(self, signum: signal.Signals) -> None:
        """Hold this one no longer: another part has it from now on. Safe in a signal handler."""
        # A new one: the handler may interrupt a loop over the other.
        self._held = {each: handler for each, handler in self._held.items() if each != signum}

    def taken(self) -> list[str]:
        """The names of the signals whose handlers are not what they must be."""
        held = self._held
        if all(map(operator.is_, map(_getsignal, held), held.values())):
            return []
        taken: list[str] = []
        for signum, must_be in list(held.items()):
            handler = _getsignal(signum)
            if handler is must_be or signum not in self._held:
                continue
            if signum in _MUST_NOT_END and not _is(handler, signal.SIG_DFL):
                held[signum] = handler  # whatever it does, the process does not end by it
            else:
                taken.append(signal.Signals(signum).name)
        return taken

    def put_back(self) -> None:
        """Set every handler to what it must be."""
        for signum, handler in self._held.items():
            if _getsignal(signum) is not handler:
                signal.signal(signum, handler)

    def hold_wakeup(self, descriptor: int, read: Callable[[], bytes] | None = None) -> None:
        """Have the number of each signal written to a descriptor, from now on.

        Args:
            descriptor: Never blocks; at its other end is who wakes the event loop.
            read: Returns what has been written since the last call; None if nobody but the loop
                reads it.
        """
        self._read = read
        self._wakeup = descriptor
        self.has_wakeup()

    def handle_written(self) -> bytes:
        """Handle the signals whose numbers have been written, and return these.

        In any thread. Each number is read once, so each signal is handled once. It counts from
        now: since it came, C code may have held the interpreter lock for longer than a limit.
        """
        with self._handling:
            numbers = b"" if self._read is None else self._read()
            for signum in numbers:
                if _getsignal(signum) is self._handler:  # else it is user code's
                    self._handle(signum, time.monotonic())
        return numbers

    def has_wakeup(self) -> bool:
        """Whether that descriptor is still in use; it is again, at any rate.

        Python tells it in no other way. Without it the loop may begin to wait in the very moment
        in which a signal comes, and not learn of it.
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
        """Leave Python's own handlers behind, in a child that has been forked."""
        # Once: a child of this child may find handlers of that one's own.
        held, self._held = self._held, {}
        if not held:
            return
        signal.set_wakeup_fd(-1)  # at its other end is the server's event loop
        for signum in held:
            if _getsignal(signum) is self._handler:
                signal.signal(
                    signum,
                    signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL,
                )

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if signum not in self.handle_written() and not self._is_written():
            self._handle(signum, time.monotonic())

    def _is_written(self) -> bool:
        """Whether numbers go to who reads them: then the other thread has read this one."""
        if self._read is None:
            return False
        now = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        if now == self._wakeup:
            return True
        with contextlib.suppress(OSError, ValueError):  # it has been closed
            signal.set_wakeup_fd(now, warn_on_full_buffer=False)
        return False

    def _note(self, signum: int, at: float) -> None:
        self._noted.append((signum, at))
        if signum not in HARMLESS:
            # The limits of a stop are not known yet, and a configuration may be where no read ends.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, _NOTED_SECONDS)


def _is(handler: object, action: signal.Handlers) -> bool:
    # Not of the same type, and nothing is asked of a handler of user code.
    return isinstance(handler, int) and handler == action
