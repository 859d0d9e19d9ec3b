"""A warning that repeats itself at most every few seconds, and counts what it left out."""

import logging
from math import inf

import trio

log = logging.getLogger("trio_jobs.server")

_SECONDS = 5.0


class RateLimitedWarning:
    """One kind of trouble that can come a thousand times a second."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._last = -inf
        self._left_out = 0

    def warn(self, **fields: object) -> None:
        """Log the event, or only count it if the last line is too recent."""
        now = trio.current_time()
        if now - self._last < _SECONDS:
            self._left_out += 1
            return
        log.warning(self._event, extra={**fields, "left_out": self._left_out})
        self._last = now
        self._left_out = 0
