"""`Numbers`: a copy of what a pool and its server have counted, made in the event loop."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from trio_jobs.pool.histogram import Histogram
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.statistics import JobStatistics, PoolStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerNumbers:
    """What only the server of the command counts.

    Attributes:
        requests: How many requests have ended, by route, method and status.
        refusals: How many were refused, by reason.
        connections: The open ones.
        event_streams: The open streams of events.
        event_loop_lag_seconds: The longest step of the event loop since the last copy.
    """

    requests: Mapping[tuple[str, str, int | None], int]
    refusals: Mapping[str, int]
    connections: int
    event_streams: int
    event_loop_lag_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What there is to tell of a pool, at one moment.

    Attributes:
        pool: Its state.
        started_at: When it was made (UTC).
        jobs: What it has counted of its jobs; None if it does not count them.
        held: By type, the held jobs that are not between two attempts.
        durations: By type, the times from claim to end, and from admission to claim.
        has_disk: Whether its jobs are in a file or in a database.
        has_database: Whether they are in a database.
        waiters: The tasks that wait for a job.
        processes: The child processes; None if no handler runs in one.
        server: What its server counts; None without one.
    """

    pool: PoolStatistics
    started_at: datetime
    jobs: JobStatistics | None
    held: Mapping[str, int]
    durations: Mapping[str, tuple[Histogram, Histogram]]
    has_disk: bool
    has_database: bool
    waiters: int
    processes: int | None
    server: ServerNumbers | None


def copy_numbers(pool: Pool, *, server: ServerNumbers | None = None) -> Numbers:
    """Copy the numbers of a pool, in its event loop.

    Args:
        pool: The pool.
        server: What its server counts.
    """
    processes, counts = pool.places.processes, pool.observation
    return Numbers(
        pool=pool.statistics(),
        started_at=pool.started_at,
        jobs=None if counts is None else counts.statistics(),
        held=dict(pool.schedule.held_types),
        durations={} if counts is None else counts.durations(),
        has_disk=pool.store.disk is not None,
        has_database=pool.sharing is not None,
        waiters=pool.waiters.count,
        processes=None if processes is None else processes.number,
        server=server,
    )
