"""`Patience`: pauses before a request is repeated, and when there is no further try."""

import random
import time
from collections.abc import Callable
from typing import Final

from trio_jobs.commands.complaints import complain
from trio_jobs.commands.server_calls import GoneError, RefusedError

# Seconds without progress after which a server that was there counts as gone; the longest restart
# that a command outlasts.
PATIENCE_SECONDS: Final = 60.0

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class Patience:
    """Pauses between the tries of one piece of work, and their end.

    Args:
        tell: Called with a line at the first failure since the last progress.
    """

    def __init__(self, tell: Callable[[str], object] = complain) -> None:
        self._tell = tell
        self._pause = _FIRST_PAUSE
        self._end: float | None = None

    def note_progress(self) -> None:
        """The work has got on: a later failure is the first one."""
        self._pause = _FIRST_PAUSE
        self._end = None

    def pause(self, error: GoneError | RefusedError, *, most: float = _LONGEST_PAUSE) -> None:
        """Wait before the next try: as long as the server asks for, but at most five seconds.

        Args:
            error: Why the last try was in vain.
            most: Seconds that the caller has left.

        Raises:
            CommandError: The same, since the time is over.
        """
        now = time.monotonic()
        if self._end is None:
            self._end = now + PATIENCE_SECONDS
            self._tell(f"{error}; trying again for {PATIENCE_SECONDS:g} s")
        if now >= self._end:
            raise error
        seconds = error.retry_after if isinstance(error, RefusedError) else None
        if seconds is None:
            # Clients that a restart has cut off come back at different times.
            seconds = self._pause * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        wait_as_asked(min(seconds, most))


def wait_as_asked(retry_after: float | None) -> None:
    """Wait as long as a server asks for, but at most five seconds; one if it does not say."""
    time.sleep(min(1.0 if retry_after is None else retry_after, _LONGEST_PAUSE))
