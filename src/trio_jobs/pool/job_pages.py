"""`read_page`: a page of the jobs that a query wants, in its order; it is read in strides."""

import sys
from collections.abc import Iterable
from heapq import nsmallest

import trio

from trio_jobs.job import Job
from trio_jobs.pool.job_query import JobQuery, Order
from trio_jobs.pool.store import Store

# Jobs to look at between two checkpoints: about a millisecond's work.
STRIDE = 500


async def read_page(
    store: Store, query: JobQuery, *, after: str | None = None, limit: int
) -> tuple[list[Job], bool]:
    """The jobs of one page, and whether more jobs come after the page.

    Args:
        store: The jobs.
        query: Which jobs.
        after: A position in the order; None for the first page.
        limit: The most jobs.

    Checkpoints:
        With filters, and in the order of next times, after each `STRIDE` of examined jobs; else
        none, with the store in memory.
    """
    walk, found = query.walk, Page(query, after=after, limit=limit)
    while True:
        jobs = await store.page(walk, after=found.position, limit=found.stride)
        if found.add(jobs):
            return found.jobs, found.more
        await trio.lowlevel.checkpoint()


class Page:
    """A page while it is read.

    Args:
        query: Which jobs.
        after: A position in the order; None for the first page.
        limit: The most jobs.

    Attributes:
        stride: How many jobs to read at a time.
        position: Where to read on, in the order of `JobQuery.walk`.
    """

    def __init__(self, query: JobQuery, *, after: str | None, limit: int) -> None:
        self._query = query
        self._after = after
        self._limit = limit
        # No store has an order of next times: all waiting jobs are looked at, and sorted.
        self._sorts = query.order is Order.NEXT
        self._found: list[Job] = []
        self.position = None if self._sorts else after
        # Without filters one read is enough; the job beyond the limit shows that there are more.
        self.stride = STRIDE
        if query.wants_all and not self._sorts:
            self.stride = min(limit + 1, sys.maxsize)

    @property
    def jobs(self) -> list[Job]:
        """The jobs so far."""
        return self._found[: self._limit]

    @property
    def more(self) -> bool:
        """Whether more jobs come after the page."""
        return len(self._found) > self._limit

    def add(self, jobs: list[Job]) -> bool:
        """Add what was read; return whether the page is ready."""
        wanted = self._query.select(jobs)
        self._found = self._first([*self._found, *wanted]) if self._sorts else self._found + wanted
        if jobs:
            self.position = self._query.walk.position(jobs[-1])
        return len(jobs) < self.stride or (self.more and not self._sorts)

    def _first(self, jobs: Iterable[Job]) -> list[Job]:
        """The first ones behind ``after``, and one more."""
        position = self._query.position
        behind = [job for job in jobs if self._after is None or position(job) > self._after]
        return nsmallest(self._limit + 1, behind, key=position)
