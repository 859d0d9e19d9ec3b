"""`EndOfTurn`: calls functions when the tasks that were ready have made one step, or two."""

from collections.abc import Callable

import trio


class EndOfTurn(trio.abc.Instrument):
    """Calls functions at the end of a turn of the event loop that it is made in.

    A turn is one step of each task that is ready. If no task is ready for another step, the present
    turn is the one, otherwise the next turn: a client whose request was answered in this turn may
    have sent its next one by then, and both go into one commit.

    Trio makes the call before it looks at the sockets: no task runs meanwhile, and none has to be
    woken for it.

    Args:
        failed: Called in the event loop with what a function raises.
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._calls: list[Callable[[], None]] = []
        self._wait_for_next = True  # unless the functions have waited for a turn
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(self)

    def __call__(self, call: Callable[[], None]) -> None:
        """Call this function, without arguments, at the end of the present turn, or of the next."""
        self._calls.append(call)

    def before_io_wait(self, timeout: float) -> None:
        """Trio calls this at the end of a turn; ``timeout`` is 0 if tasks are ready."""
        if timeout == 0 and self._calls and self._wait_for_next:
            self._wait_for_next = False
            return
        self._wait_for_next = True
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
