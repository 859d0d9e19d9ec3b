"""`DropLog`: logs how many completed jobs the store drops, at most about once an hour."""

import logging
import time
from collections.abc import Callable, Mapping

from trio_jobs.job import Outcome

log = logging.getLogger(__name__)

# A server that has run for a while drops a job with each completion: a line for each would be
# noise.
SECONDS_BETWEEN_LINES = 3600.0

_SUCCEEDED = Outcome.SUCCEEDED  # looked up once, as in the store


class DropLog:
    """Logs the first drop, and then at most one line an hour.

    The first drop of a job that did not succeed is logged at once as well, so that no failure is
    lost unseen at ``level = "warning"``. There is no timer: after an hour, the next drop is logged.

    Args:
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged = dict.fromkeys(Outcome, 0)
        self._due = self._warning_due = float("-inf")

    def note(self, outcome: Outcome, dropped: Mapping[Outcome, int]) -> None:
        """Log ``dropped``, all drops so far, if a line is due."""
        now = self._clock()
        if now >= self._due or (now >= self._warning_due and outcome is not _SUCCEEDED):
            self.report(dropped)

    def report(self, dropped: Mapping[Outcome, int]) -> None:
        """Log the drops since the last line, if there are any."""
        counts = {
            outcome.value: count - self._logged[outcome]
            for outcome, count in dropped.items()
            if count > self._logged[outcome]
        }
        if not counts:
            return
        failures = counts.keys() - {_SUCCEEDED.value}
        self._logged = dict(dropped)
        self._due = self._clock() + SECONDS_BETWEEN_LINES
        if failures:
            self._warning_due = self._due
        log.log(logging.WARNING if failures else logging.INFO, "jobs_dropped", extra=counts)
