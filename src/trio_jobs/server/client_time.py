"""Time as clients are charged for it: it stands still while the event loop is blocked.

While a handler blocks the loop, a thread holds the interpreter lock, or the process is frozen, the
server sees nothing of what its clients do. Limits by the wall clock would then end connections that
nobody has looked at. Every limit of the front door goes by this clock instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

import trio

# Seconds that one turn of the loop is charged at most. A busy server has turns of some
# milliseconds, and looks at every client in each of them: that is time like any other.
_LONGEST_TURN = 0.1


class ClientTime(trio.abc.Instrument):
    """A clock that counts a turn of the loop as 0.1 s at the most; it costs two calls a turn.

    Trio's deadlines go by the other clock. So a deadline that has passed is
    believed only if ``passed`` agrees; if not, the wait goes on.

    Attributes:
        lag: How many seconds this clock is behind Trio's.
    """

    def __init__(self) -> None:
        self.lag = 0.0
        self._charged_until = inf  # without an instrument, this is Trio's clock

    @contextmanager
    def running(self) -> Iterator[None]:
        """Notice, within the block, when the loop is blocked."""
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)
            self._charged_until = inf

    def now(self) -> float:
        """The time, also in the middle of a turn that has become too long."""
        return min(trio.current_time(), self._charged_until) - self.lag

    def passed(self, deadline: float) -> bool:
        """Whether ``deadline``, a time of this clock, is over."""
        return self.now() >= deadline

    def scope(self, deadline: float) -> trio.CancelScope:
        """A scope that is cancelled at ``deadline``, or before it if the loop is blocked."""
        return trio.CancelScope(deadline=deadline + self.lag)

    def before_io_wait(self, timeout: float) -> None:
        """Called by Trio when a turn is over, and it waits for at most ``timeout``."""
        now = trio.current_time()
        self._charge_until(now)
        self._charged_until = now + timeout + _LONGEST_TURN

    def after_io_wait(self, _timeout: float) -> None:
        """Called by Trio when a turn begins."""
        now = trio.current_time()
        self._charge_until(now)
        self._charged_until = now + _LONGEST_TURN

    def _charge_until(self, now: float) -> None:
        if now > self._charged_until:
            self.lag += now - self._charged_until
