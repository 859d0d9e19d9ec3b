"""`EndOfTurn`: calls functions when all tasks that were ready have made their step."""

from collections.abc import Callable

import trio


class EndOfTurn(trio.abc.Instrument):
    """Calls functions at the end of each turn of the event loop that it is made in.

    A turn is one step of each task that is ready. Trio makes the call before it looks at the
    sockets: no task runs meanwhile, and none has to be woken for it.

    Args:
        failed: Called in the event loop with what a function raises.
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._calls: list[Callable[[], None]] = []
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(self)

    def __call__(self, call: Callable[[], None]) -> None:
        """Call this function, without arguments, at the end of the present turn."""
        self._calls.append(call)

    def before_io_wait(self, _timeout: float) -> None:
        """Trio calls this at the end of a turn."""
        while self._calls:  # a function may ask for another one
            calls, self._calls = self._calls, []
            for call in calls:
                try:
                    call()
                except Exception as error:  # noqa: BLE001 - Trio would only log it
                    # Wakes the loop, which may be about to wait for long.
                    self._token.run_sync_soon(self._failed, error)

    def close(self) -> None:
        """Make the calls that are left, and no call from now on."""
        self.before_io_wait(0.0)
        trio.lowlevel.remove_instrument(self)
