"""`AccessChanges`: tells those who answer for long when a client has lost its access."""

import time
from collections.abc import Callable
from math import inf

import trio

from trio_jobs.access import Access
from trio_jobs.tokens import TokenTable


class AccessChanges:
    """Knows when the tokens change, and when a session ends.

    Args:
        tokens: Returns the present table; None, if clients need no token.
        clock: In seconds, as for `Access.expires`.
    """

    def __init__(
        self,
        tokens: Callable[[], TokenTable | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._clock = clock
        self._changed = trio.Event()  # replaced at each change

    def note(self) -> None:
        """Note that another table holds from now on. In the event loop."""
        self._changed.set()
        self._changed = trio.Event()

    def is_lost(self, access: Access) -> bool:
        """Whether this access is gone now; see `wait_lost`."""
        return self._seconds_left(access) <= 0

    async def wait_lost(self, access: Access) -> None:
        """Wait until this access is gone.

        Its token is in the table no more, or has another role, or its session is over. Without
        tokens it waits for ever.

        Args:
            access: Of a request that was admitted.

        Cancellation:
            Changes nothing.
        """
        while (left := self._seconds_left(access)) > 0:
            with trio.move_on_after(left):
                await self._changed.wait()

    def _seconds_left(self, access: Access) -> float:
        tokens = self._tokens()
        if tokens is None:
            return inf
        entry = tokens.find_fingerprint(access.fingerprint)
        if entry is None or entry.role != access.role:
            return 0
        return inf if access.expires is None else access.expires - self._clock()
