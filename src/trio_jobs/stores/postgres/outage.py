"""`Outage`: the log of something that does not work until it works again, with each reason once."""

import logging
from typing import Final

import trio

from trio_jobs.stores.postgres.failures import one_line

# Of an outage: a reason may have a number in it.
_MOST_REASONS: Final = 20


class Outage:
    """What has failed since it last worked, and why.

    Args:
        log: Where it is told, at the level warning.
        begins: The event of the first ``reason``.
        ends: The event of the end, after so many ``seconds``.
        goes_on: The event of each other ``reason``; as ``begins`` if there is no name for it.
    """

    def __init__(
        self, log: logging.Logger, begins: str, ends: str, goes_on: str | None = None
    ) -> None:
        self._log = log
        self._begins = begins
        self._ends = ends
        self._goes_on = goes_on or begins
        self._since = 0.0  # by Trio's clock
        self._failing: set[str] = set()
        self._reasons: set[str] = set()

    def fails(self, error: Exception, part: str = "") -> None:
        """It has failed, or this part of it, perhaps again."""
        if not self._failing:
            self._since = trio.current_time()
        self._failing.add(part)
        reason = one_line(error)
        if reason in self._reasons or len(self._reasons) == _MOST_REASONS:
            return
        self._log.warning(
            self._goes_on if self._reasons else self._begins, extra={"reason": reason}
        )
        self._reasons.add(reason)

    def works(self, part: str = "") -> None:
        """It works, or this part of it; the outage ends with that of the last part."""
        if part not in self._failing:
            return
        self._failing.remove(part)
        if not self._failing:
            self._reasons.clear()
            seconds = trio.current_time() - self._since
            self._log.warning(self._ends, extra={"seconds": round(seconds, 3)})
