"""`JobsCollector`: the numbers of an embedded pool, for the registry of its program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_jobs.metrics.families import families
from trio_jobs.metrics.numbers import Numbers, copy_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from trio_jobs.asyncio import AsyncioJobs
    from trio_jobs.embedded_jobs import DurableJobs, Jobs
    from trio_jobs.job_queue import JobQueue


class JobsCollector:
    """Tells a registry of ``prometheus_client`` the numbers of a pool.

        registry.register(JobsCollector(jobs))

    These are the metrics of the server's ``GET /metrics``, without those of HTTP and of the event
    loop, which are the program's. Those of the jobs by type are there if the pool was opened with
    ``max_types``. Before the pool is open, and after its end, there is none.

    Args:
        jobs: The pool.
    """

    def __init__(self, jobs: Jobs | DurableJobs | AsyncioJobs | JobQueue) -> None:
        self._jobs: Any = jobs

    def describe(self) -> Iterable[Metric]:
        """No metric: a registry must not ask for the numbers when this is registered."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The metrics now.

        Any thread may call this. Other threads than the pool's wait until the event loop of the
        pool has copied the numbers, between two of its steps.
        """
        numbers = self._copy()
        return [] if numbers is None else families(numbers)

    def _copy(self) -> Numbers | None:
        jobs = self._jobs
        while (inner := getattr(jobs, "_jobs", jobs)) is not jobs:
            jobs = inner  # a queue has the pool that is open now, which may be on asyncio
        if jobs is None:
            return None
        pool, token = jobs._pool, jobs._token
        if _runs_here(token):
            return copy_numbers(pool)
        try:
            return trio.from_thread.run_sync(copy_numbers, pool, trio_token=token)
        except trio.RunFinishedError:
            return None


def _runs_here(token: trio.lowlevel.TrioToken) -> bool:
    try:
        return trio.lowlevel.current_trio_token() is token
    except RuntimeError:  # this thread runs no Trio
        return False
