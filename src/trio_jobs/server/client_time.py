"""The clock of the time limits for clients: it stands still while the event loop is blocked.

While a handler blocks the loop, a thread holds the interpreter lock, or the process is frozen, the
server sees nothing of its clients. By Trio's clock it would cut off some whose bytes are there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

import trio

# One turn of the loop counts as at most so many seconds. The turns of a busy server take some
# milliseconds, and each of them looks at every client: these count in full.
_LONGEST_TURN = 0.1


class ClientTime(trio.abc.Instrument):
    """A clock that counts each turn of the loop as at most 0.1 s. It costs two calls a turn.

    Trio's deadlines go by Trio's clock, which runs ahead of this one. So after a wait has timed
    out, ask ``passed`` whether the deadline has passed by this clock too; if not, wait again.

    Attributes:
        lag: Seconds by which this clock is behind Trio's.
    """

    def __init__(self) -> None:
        self.lag = 0.0
        self._charged_until = inf  # outside of ``running``, no turn counts as too long
        self._trio_time = trio.current_time  # later the clock's method, which costs less

    @contextmanager
    def running(self) -> Iterator[None]:
        """Notice, within the block, when the loop is blocked."""
        self._trio_time = trio.lowlevel.current_clock().current_time
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)
            self._charged_until = inf

    def now(self) -> float:
        """The time in seconds; right also in the middle of a turn that takes too long."""
        return min(self._trio_time(), self._charged_until) - self.lag

    def passed(self, deadline: float) -> bool:
        """Whether this clock has reached ``deadline``."""
        return self.now() >= deadline

    def scope(self, deadline: float) -> trio.CancelScope:
        """A scope that is cancelled at ``deadline``, earlier if the loop is blocked meanwhile."""
        return trio.CancelScope(deadline=deadline + self.lag)

    def before_io_wait(self, timeout: float) -> None:
        """Trio calls this when a turn ends and it will wait for at most ``timeout``."""
        now = self._trio_time()
        self._charge_until(now)
        self._charged_until = now + timeout + _LONGEST_TURN

    def after_io_wait(self, _timeout: float) -> None:
        """Trio calls this when a turn begins."""
        now = self._trio_time()
        self._charge_until(now)
        self._charged_until = now + _LONGEST_TURN

    def _charge_until(self, now: float) -> None:
        if now > self._charged_until:
            self.lag += now - self._charged_until
