"""`Observation`: what a pool counts of its jobs for those who look at it, if it is asked for."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final, Protocol

import trio

from trio_jobs.job import Job, Later, Outcome, Waiting
from trio_jobs.pool.ended_jobs import EndedJobs
from trio_jobs.pool.histogram import Histogram
from trio_jobs.pool.statistics import OTHER, JobStatistics, TypeStatistics
from trio_jobs.pool.store import Moves, Store, StoreError
from trio_jobs.pool.type_counts import TypeCounts

# Seconds of a window of the percentiles; they are those of this window and the one before.
_WINDOW: Final = 300.0

# For how many whole seconds it is known how many jobs ended in each.
_SECONDS: Final = 60

# Characters of a type that is counted apart; longer ones come from no handler of their own.
_MAX_TYPE: Final = 200

_ONE_SECOND: Final = timedelta(seconds=1)

_FAILED: Final = (Outcome.FAILED, Outcome.TIMED_OUT)

# On Python 3.11 looking up an enum's member costs as much as a call.
_SUCCEEDED: Final = Outcome.SUCCEEDED
_CANCELLED: Final = Outcome.CANCELLED


class HasMoves(Protocol):
    """What makes its moves by others, which are replaced while types are paused."""

    @property
    def moves(self) -> Moves:
        """What makes them now."""


class Observation:
    """Counts the jobs of a pool as they move. A pool without one counts nothing.

    The pool calls a method at each move but the end. An end is noted in ``ended``; ends are counted
    500 at a time, and whenever somebody looks.

    A type always has the same counts: types are never forgotten, and those beyond the greatest
    number share one entry for ever.

    Args:
        store: The jobs.
        types: Types that have an entry from the start: those with handlers.
        max_types: How many types have an entry of their own. A client can choose any type if a
            handler takes all.
        now: The wall clock, as an aware UTC time.

    Attributes:
        ended: The jobs that ended last.
        over: Set once the pool has ended.
    """

    def __init__(
        self,
        store: Store,
        types: Iterable[str] = (),
        *,
        max_types: int,
        now: Callable[[], datetime],
    ) -> None:
        self.ended = EndedJobs(self._count)
        self.over = trio.Event()
        self._store = store
        self._max_types = max_types
        self._now = now
        self._clock = trio.lowlevel.current_clock()
        self._counted = 0  # the number of the ended job that was counted last
        self._other = TypeCounts()
        self._types: dict[str, TypeCounts] = {OTHER: self._other}
        for type_ in types:
            self._counts_of(type_)
        self._window_began = self._clock.current_time()
        # By whole second of the wall clock, since 1970: the numbers of successes and of others.
        self._seconds: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        # Unfinished jobs that wait for a time, or have; and whether they count as retrying now.
        self._waited: dict[str, bool] = {}
        # Jobs that wait for a worker alone, in the order in which they began to; the values save
        # the claims of new ones a look-up.
        self._can_begin: dict[str, TypeCounts | None] = {}
        unfinished = store.unfinished()
        for jobs in (unfinished.begun, unfinished.not_begun, unfinished.waiting):
            for job in jobs:  # of an earlier process
                counts = self._counts_of(job.type)
                counts.found += 1
                self._let_wait(counts, job)

    # What the pool calls.

    def admitting(self, add: Callable[[Job], None] | None = None) -> Callable[[Job], None]:
        """A function that calls ``add`` with a job that comes in, and counts the job.

        Functions with what they need, here and in `claiming`: to call a method for the count would
        cost as much as the count.
        """
        types, can_begin, ended = self._types, self._can_begin, self.ended

        def admit(job: Job) -> None:
            if add is not None:
                add(job)
            counts = types.get(job.type) or self._counts_of(job.type)
            counts.submitted += 1
            if job.run_at is None:
                can_begin[job.id] = counts
            else:
                self._waited[job.id] = False
            if ended.changed is not None:
                ended.touch()

        return admit

    def claiming(self, layer: HasMoves) -> Callable[[str], Job | None]:
        """A function that claims a job as ``layer.moves`` does at that time, and counts it."""
        can_begin, waited = self._can_begin, self._waited

        def claim(job_id: str) -> Job | None:
            try:
                job = layer.moves.claim(job_id)
            except StoreError:
                can_begin.pop(job_id, None)
                raise
            if job is not None:
                counts = can_begin.pop(job_id, None) or self._counts_of(job.type)
                counts.claimed += 1
                if waited and waited.get(job_id):
                    waited[job_id] = False
                    counts.retrying -= 1
            return job

        return claim

    def note_passed_over(self, job_id: str) -> None:
        """Note that a job waits for no worker: its type is paused, or the claim was refused."""
        self._can_begin.pop(job_id, None)

    def note_postponed(self, job: Job, later: Later) -> None:
        """Count a job that waits for its next attempt, or has snoozed."""
        counts = self._counts_of(job.type)
        counts.put_back += 1
        self._let_wait(counts, job)
        if not later.snooze:
            counts.attempts_failed += 1
        self.ended.touch()

    def note_released(self, job: Job) -> None:
        """Count a job whose worker was cancelled, and that has not ended by that."""
        self._counts_of(job.type).put_back += 1

    def note_fetched(self, job: Job) -> None:
        """Count a pending job that has come here from a database."""
        self._counts_of(job.type).found += 1
        self._can_begin[job.id] = None
        if job.run_at is not None:
            self._waited[job.id] = False

    def note_submitted(self, job: Job) -> None:
        """Count a job that was submitted here, and is in a database; `note_fetched` may follow."""
        counts = self._counts_of(job.type)
        counts.submitted += 1
        counts.found -= 1
        if self.ended.changed is not None:
            self.ended.touch()

    def note_gone(self, job: Job) -> None:
        """Count a pending job that is a database's again."""
        counts = self._counts_of(job.type)
        counts.found -= 1
        self._can_begin.pop(job.id, None)
        if self._waited.pop(job.id, False):
            counts.retrying -= 1

    def note_lost(self, job: Job) -> None:
        """Count a processing job that another server has meanwhile: its end here does not count."""
        counts = self._counts_of(job.type)
        counts.put_back += 1
        counts.found -= 1
        self._waited.pop(job.id, None)

    def note_recovered(self, returned: Iterable[Job], ended: Iterable[Job]) -> None:
        """Count the attempts that the death of an earlier process has ended, and ends by that.

        Args:
            returned: Jobs that were put back.
            ended: Jobs that the start has ended; those that ran have the time of their claim.
        """
        for job in returned:
            self._counts_of(job.type).interruptions += 1
        for job in ended:
            counts = self._counts_of(job.type)
            counts.interruptions += job.started_at is not None
            counts.found += 1
            counts.claimed += 1
            self.ended.note(job)

    def note_can_begin(self, job_ids: Iterable[str]) -> None:
        """Note that waiting jobs are due: from now on they wait for a worker alone."""
        self._can_begin.update(dict.fromkeys(job_ids))

    def end(self) -> None:
        """Note that the pool has ended. Idempotent."""
        self.over.set()
        self.ended.touch()

    # What others ask.

    def statistics(self, *, types: bool = True) -> JobStatistics:
        """The numbers now; ``types`` is empty if the caller does not want it."""
        self._count()
        return JobStatistics(
            oldest_pending_seconds=self._oldest_pending_seconds(),
            totals=self._totals(),
            ended_per_second=self._ended_per_second(),
            types=self.types() if types else {},
        )

    def types(self) -> dict[str, TypeStatistics]:
        """The numbers by type now."""
        self._count()
        return {
            name: counts.statistics()
            for name, counts in self._types.items()
            if name != OTHER or counts.pending or counts.processing or counts.outcomes()
        }

    def durations(self) -> dict[str, tuple[Histogram, Histogram]]:
        """By type, all times from claim to end, and from admission to claim, so far."""
        self._count()
        return {name: (each.run.all(), each.wait.all()) for name, each in self._types.items()}

    # The counts.

    def _counts_of(self, type_: str) -> TypeCounts:
        counts = self._types.get(type_)
        if counts is None:
            # `OTHER` is one of them.
            if len(self._types) > self._max_types or len(type_) > _MAX_TYPE:
                return self._other
            counts = self._types[type_] = TypeCounts()
        return counts

    def _let_wait(self, counts: TypeCounts, job: Job) -> None:
        """Count a pending job that is not new, if it waits for a time."""
        if job.waiting is not None:
            is_retrying = job.waiting is Waiting.RETRYING
            self._waited[job.id] = is_retrying
            counts.retrying += is_retrying

    def _count(self) -> None:
        """Count the jobs that have ended since the last call."""
        now = self._now()
        self._turn_windows()
        _, jobs = self.ended.since(self._counted)  # none is missed: they are counted often enough
        self._counted = self.ended.last
        for second, some in _by_second(jobs):
            numbers, window = self._seconds[int(second.timestamp())], self._window_of(now - second)
            while some:
                type_ = some[0].type
                others = [job for job in some if job.type != type_]
                if others:
                    some = [job for job in some if job.type == type_]
                unsuccessful = self._count_type(self._counts_of(type_), some, window)
                numbers[0] += len(some) - unsuccessful
                numbers[1] += unsuccessful
                some = others
        if len(self._seconds) > 2 * _SECONDS:
            last = int(now.timestamp())
            for each in self._seconds.keys() - range(last - _SECONDS, last + 1):
                del self._seconds[each]

    def _count_type(self, counts: TypeCounts, jobs: list[Job], window: int) -> int:
        """Count ended jobs of one type; return how many have not succeeded.

        Each step is made for all jobs, without a call for each: that takes a third of the time.
        """
        waited = {job.id for job in jobs if job.id in self._waited} if self._waited else ()
        for job_id in waited:
            del self._waited[job_id]
        unsuccessful = [
            job for job in jobs if (end := job.ending) is not None and end.outcome is not _SUCCEEDED
        ]
        counts.succeeded += len(jobs) - len(unsuccessful)
        if unsuccessful:
            for job in unsuccessful:
                if (outcome := job.outcome) is not None:
                    counts.unsuccessful[outcome] = counts.unsuccessful.get(outcome, 0) + 1
                    counts.attempts_failed += outcome in _FAILED
            jobs = [job for job in jobs if job.outcome is not _CANCELLED]
        runs = [duration for job in jobs if (duration := job.duration) is not None]
        if runs:
            counts.run.windows[window].add(runs)
        if waited:
            jobs = [job for job in jobs if job.id not in waited]
        waits = [
            (began - job.created_at).total_seconds()
            for job in jobs
            if job.attempts == 1 and (began := job.started_at) is not None
        ]
        if waits:
            counts.wait.windows[window].add(waits)
        return len(unsuccessful)

    def _turn_windows(self) -> None:
        turns = int((self._clock.current_time() - self._window_began) / _WINDOW)
        self._window_began += turns * _WINDOW
        for _ in range(min(turns, 2)):
            for counts in self._types.values():
                counts.run.turn()
                counts.wait.turn()

    def _window_of(self, age: timedelta) -> int:
        """The window of a job that ended so long ago; see `RecentDurations`."""
        before = age.total_seconds() - (self._clock.current_time() - self._window_began)
        return 0 if before <= 0 else 1 if before <= _WINDOW else 2

    def _oldest_pending_seconds(self) -> float | None:
        for job_id in self._can_begin:
            job = self._store.find_nowait(job_id)
            since = job.created_at if job.run_at is None else max(job.run_at, job.created_at)
            return round(max((self._now() - since).total_seconds(), 0.0), 3)
        return None

    def _totals(self) -> dict[Outcome, int]:
        totals = dict.fromkeys(Outcome, 0)
        for counts in self._types.values():
            for outcome, number in counts.outcomes().items():
                totals[outcome] += number
        return totals

    def _ended_per_second(self) -> list[tuple[int, int]]:
        last = int(self._now().timestamp())
        numbers = [self._seconds.get(each, (0, 0)) for each in range(last - _SECONDS, last)]
        return [(succeeded, others) for succeeded, others in numbers]


def _by_second(jobs: list[Job]) -> Iterable[tuple[datetime, list[Job]]]:
    """The ended jobs by the whole seconds in which they ended."""
    ends = [end for job in jobs if (end := job.completed_at) is not None]
    if not ends:
        return []
    # They are in order, unless the clock was set back: this is as cheap as to find the least.
    in_order = sorted(ends)
    begins = in_order[0].replace(microsecond=0)
    if in_order[-1] < (over := begins + _ONE_SECOND):  # as most of a busy server
        return [(begins, jobs)]
    groups: dict[datetime, list[Job]] = defaultdict(list)
    group = groups[begins]
    for job, end in zip(jobs, ends, strict=True):
        if not begins <= end < over:
            begins = end.replace(microsecond=0)
            over = begins + _ONE_SECOND
            group = groups[begins]
        group.append(job)
    return groups.items()
