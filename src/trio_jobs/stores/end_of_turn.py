"""`EndOfTurn`: calls functions when the event loop has no task that is ready, and soon anyway."""

from collections.abc import Callable
from typing import Final

import trio

# How many more turns the functions wait while tasks are ready. In the first one the tasks that have
# answered look for the next requests of their clients, in the second one those whose clients needed
# a moment longer. All of that goes into one commit.
_MORE_TURNS: Final = 2


class EndOfTurn(trio.abc.Instrument):
    """Calls functions at the end of a turn of the event loop that it is made in.

    A turn is one step of each task that is ready. The calls come at the end of the first turn after
    which no task is ready for another step, and at the latest two turns after the present one.

    Trio makes the call before it looks at the sockets: no task runs meanwhile, and none has to be
    woken for it.

    Args:
        failed: Called in the event loop with what a function raises.
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._calls: list[Callable[[], None]] = []
        self._more_turns = _MORE_TURNS
        self._token = trio.lowlevel.current_trio_token()

    def open(self) -> None:
        """Make calls from now on, behind the instruments that the event loop has already."""
        trio.lowlevel.add_instrument(self)

    def __call__(self, call: Callable[[], None]) -> None:
        """Call this function, without arguments, at the end of this turn or of one of the next."""
        self._calls.append(call)

    def before_io_wait(self, timeout: float) -> None:
        """Trio calls this at the end of a turn; ``timeout`` is 0 if tasks are ready."""
        if timeout == 0 and self._calls and self._more_turns:
            self._more_turns -= 1
            return
        self._more_turns = _MORE_TURNS
        self._make_calls()

    def close(self) -> None:
        """Make the calls that are left, and no call from now on."""
        self._make_calls()
        trio.lowlevel.remove_instrument(self)

    def _make_calls(self) -> None:
        while self._calls:  # a function may ask for another one
            calls, self._calls = self._calls, []
            for call in calls:
                try:
                    call()
                except Exception as error:  # noqa: BLE001 - Trio would only log it
                    # Wakes the loop, which may be about to wait for long.
                    self._token.run_sync_soon(self._failed, error)
