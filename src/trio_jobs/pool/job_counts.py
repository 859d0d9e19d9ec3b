"""`count_jobs`: how many jobs there are, by status, outcome, kind of waiting and type."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import trio

from trio_jobs.job import Job, JobStatus, Outcome, Waiting
from trio_jobs.pool.job_query import JobQuery, why_waiting
from trio_jobs.pool.store import KeepingStore, Store

# Jobs to look at between two checkpoints: about a millisecond's work.
_STRIDE = 500

# As many types as an answer names. A client can choose any type if a handler takes all.
MAX_TYPES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCounts:
    """The numbers of the jobs that the store keeps, and that a query wants.

    Attributes:
        total: All of them.
        status: By status.
        waiting: The pending ones that wait outside the buffer, by the reason.
        outcome: The completed ones by outcome.
        type: By type, the most frequent ones first; at most `MAX_TYPES`.
        other_types: How many jobs have a type that ``type`` does not name.
    """

    total: int = 0
    status: Mapping[JobStatus, int] = field(default_factory=dict)
    waiting: Mapping[Waiting, int] = field(default_factory=dict)
    outcome: Mapping[Outcome, int] = field(default_factory=dict)
    type: Mapping[str, int] = field(default_factory=dict)
    other_types: int = 0


async def count_jobs(store: Store, query: JobQuery) -> JobCounts:
    """Count the jobs that a query wants.

    Over a file or a database they are counted as they are at one moment. In memory jobs come and
    go meanwhile: each that stays is counted once, as it is when it is looked at.

    Checkpoints:
        At least one, and one after each millisecond's work.
    """
    tally = _Tally(query)
    if isinstance(store, KeepingStore):
        ended, unfinished = await store.count(query.walk)
        for (type_, outcome), number in ended.items():
            if not query.types or type_ in query.types:
                tally.add_ended(type_, outcome, number)
        for first in range(0, len(unfinished), _STRIDE):
            some = store.now_of(unfinished[first : first + _STRIDE])
            tally.add(some)
            await trio.lowlevel.checkpoint()
        return tally.counts()
    walk, after = query.walk, None
    while True:
        jobs = await store.page(walk, after=after, limit=_STRIDE)
        tally.add(jobs)
        await trio.lowlevel.checkpoint()
        if len(jobs) < _STRIDE:
            return tally.counts()
        after = walk.position(jobs[-1])


class _Tally:
    """The counts so far."""

    def __init__(self, query: JobQuery) -> None:
        self._query = query
        self._statuses = dict.fromkeys(JobStatus, 0)
        self._waiting = dict.fromkeys(Waiting, 0)
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._types: Counter[str] = Counter()

    def add(self, jobs: Iterable[Job]) -> None:
        holds = self._query.holds
        for job in self._query.select(jobs):
            self._types[job.type] += 1
            self._statuses[job.status] += 1
            if (outcome := job.outcome) is not None:
                self._outcomes[outcome] += 1
            elif (waiting := why_waiting(job, holds)) is not None:
                self._waiting[waiting] += 1

    def add_ended(self, type: str, outcome: Outcome, number: int) -> None:  # noqa: A002
        self._types[type] += number
        self._statuses[JobStatus.COMPLETED] += number
        self._outcomes[outcome] += number

    def counts(self) -> JobCounts:
        total = self._types.total()
        types = dict(self._types.most_common(MAX_TYPES))
        return JobCounts(
            total=total,
            status=self._statuses,
            waiting=self._waiting,
            outcome=self._outcomes,
            type=types,
            other_types=total - sum(types.values()),
        )
