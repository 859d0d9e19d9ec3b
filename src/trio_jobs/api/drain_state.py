"""`DrainState`: what a stop of the server still finishes, for those who watch it."""

from collections.abc import Callable
from dataclasses import dataclass

from trio_jobs.pool.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainState:
    """How the command stops.

    Attributes:
        keeps_pending: Whether jobs that have not begun stay in the file for the next start.
        grace_left: The seconds until the stop interrupts what still runs; negative after that.
    """

    keeps_pending: bool
    grace_left: Callable[[], float]

    def members(self, pool: Pool) -> dict[str, object]:
        """What the state of the pool has in a stop, for JSON; nothing before it."""
        if not pool.admission.closed:
            return {}
        statistics = pool.statistics()
        left = statistics.busy
        if not self.keeps_pending:  # jobs of a paused type stay where they are, in any case
            left += statistics.buffered + statistics.held - pool.paused.count
        seconds = round(max(0.0, self.grace_left()), 3)
        return {"stop": {"jobs_left": left, "grace_seconds_left": seconds}}
