"""`PoolSource`: what the streams of ``GET /events`` show of a pool."""

from collections.abc import Mapping

from trio_jobs.api.drain_state import DrainState
from trio_jobs.api.feed import Feed, Summary
from trio_jobs.api.pool_route import pool_state
from trio_jobs.pool.observation import Observation
from trio_jobs.pool.pool import Pool


class PoolSource:
    """The source of a `Feed`: an observed pool.

    Args:
        pool: The pool.
        observation: What it has counted.
        drain: What a stop still finishes; None if this is not known.
    """

    def __init__(self, pool: Pool, observation: Observation, drain: DrainState | None) -> None:
        ended = observation.ended
        self.boot = pool.boot
        self.over = observation.over
        self.since = ended.since
        self.next_change = ended.next_change
        self.touch = ended.touch
        self._ended = ended
        self._observation = observation
        self._pool = pool
        self._drain = drain

    @property
    def last(self) -> int:
        """The number of the last ended job."""
        return self._ended.last

    def state(self, *, withheld: bool) -> Mapping[str, object]:
        """The state of the pool now, without `summary`; see `pool_state`."""
        return pool_state(self._pool, whole=False, withheld=withheld, drain=self._drain)

    def summary(self) -> Summary:
        """The rest of the state."""
        statistics = self._observation.statistics()
        return {"ended_per_second": statistics.ended_per_second, "types": statistics.types}


def feed_of(pool: Pool, drain: DrainState | None = None) -> Feed | None:
    """What ``GET /events`` sends of a pool; None if the pool is not observed."""
    observation = pool.observation
    return None if observation is None else Feed(PoolSource(pool, observation, drain))
