"""`MemoryStore`: every job in memory. Its plain methods are atomic between tasks."""

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from itertools import islice

from trio_jobs.job import Ending, Job, Later, Outcome
from trio_jobs.pool.job_query import ALL_JOBS, BEHIND_ALL, JobQuery, Order
from trio_jobs.pool.store import (
    DuplicateJobError,
    InvalidTransitionError,
    JobNotFoundError,
    StoreStatistics,
    UnfinishedJobs,
)
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.drop_log import DropLog
from trio_jobs.stores.history import Histories
from trio_jobs.stores.sorted_ids import SortedIds
from trio_jobs.stores.transitions import (
    COMPLETED,
    PENDING,
    PROCESSING,
    cancel_requested,
    claimed,
    completed,
    made_due,
    postponed,
    refuse,
    released,
    rerun,
)


class MemoryStore:
    """All jobs, in memory; `trio_jobs.pool.store.Store` says what each method does.

    Completed jobs beyond ``keep_completed``, ``keep_failed`` and ``keep_completed_bytes`` are
    dropped, oldest completion first (`Histories`). A pending or a processing job is never dropped.

    Each move and each look-up costs the same, however many jobs are kept or were dropped. So does
    a page: bisection finds where it begins.

    The awaited methods have plain twins, ``<name>_nowait``. This store holds no job back: `claim`
    never returns None. ``now`` is the wall clock, as an aware UTC time.
    """

    disk = None

    def __init__(self, settings: StoreSettings, *, now: Callable[[], datetime]) -> None:
        self._now = now
        self._jobs: dict[str, Job] = {}
        self._order = SortedIds()
        self._processing = 0  # how many jobs are
        self._completed = Histories(settings)
        self._dropped = dict.fromkeys(Outcome, 0)
        self._drop_log = DropLog()
        self._released: set[str] = set()
        # Ids by idempotency key; an entry is removed together with its job.
        self._keys: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    # The moves.

    def add(self, job: Job) -> None:
        if job.id in self._jobs:
            raise DuplicateJobError(f"job {job.id!r} is in the store already")
        if job.key is not None and job.key.text in self._keys:
            raise DuplicateJobError(f"a job with the key {job.key.text!r} is in the store already")
        if job.status is not PENDING:
            raise InvalidTransitionError(
                f"job {job.id!r} is {job.status}; only a pending job can be added"
            )
        if job.rerun_of is not None:
            self._jobs[job.rerun_of] = rerun(self.find_nowait(job.rerun_of), job.id)
        self._jobs[job.id] = job
        self._order.add(job.id)
        if job.key is not None:
            self._keys[job.key.text] = job.id

    def claim(self, job_id: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None or job.status is not PENDING:
            refuse(self.find_nowait(job_id), PENDING, PROCESSING)
        if job_id in self._released:
            raise InvalidTransitionError(f"job {job_id!r} was released; it is not handed out again")
        job = claimed(job, self._now())
        self._jobs[job_id] = job
        self._processing += 1
        return job

    def complete(
        self,
        job_id: str,
        ending: Ending,
        *,
        duration: float | None = None,
        show: Callable[[Job], None] | None = None,
    ) -> Job:
        job = self._jobs.get(job_id)
        if job is None or job.status is not PROCESSING:
            refuse(self.find_nowait(job_id), PROCESSING, COMPLETED)
        job = completed(job, ending, self._now(), duration)
        self._jobs[job_id] = job
        self._processing -= 1
        for dropped in self._completed.add(job, ending.outcome):
            outcome = self._forget(dropped)
            self._dropped[outcome] += 1
            self._drop_log.note(outcome, self._dropped)
        if show is not None:
            show(job)
        return job

    def postpone(self, job_id: str, later: Later) -> Job:
        job = postponed(self._find_processing(job_id), later, self._now())
        self._jobs[job_id] = job
        self._processing -= 1
        return job

    def release(self, job_id: str) -> None:
        self._jobs[job_id] = released(self._find_processing(job_id))
        self._processing -= 1
        self._released.add(job_id)

    # What clients ask for.

    def find_nowait(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFoundError(f"no job {job_id!r}") from None

    def find_key_nowait(self, text: str) -> Job | None:
        job_id = self._keys.get(text)
        return None if job_id is None else self._jobs[job_id]

    def page_nowait(
        self, query: JobQuery = ALL_JOBS, *, after: str | None = None, limit: int
    ) -> list[Job]:
        if query.order is Order.OLDEST:
            ids = self._order.after(after or "")
        elif query.order is Order.NEWEST:
            ids = self._order.before(after or BEHIND_ALL)
        else:
            ids = self._completed.ended_before(after or BEHIND_ALL)
        return [self._jobs[job_id] for job_id in islice(ids, limit)]

    def request_cancel_nowait(self, job_id: str) -> Job:
        job = cancel_requested(self.find_nowait(job_id), self._now())
        self._jobs[job_id] = job
        return job

    def delete_nowait(self, job_id: str) -> None:
        job = self.find_nowait(job_id)
        if job.status is not COMPLETED:
            raise InvalidTransitionError(
                f"job {job_id!r} is {job.status}; only a completed job can be deleted"
            )
        self._completed.remove(job_id)
        self._forget(job_id)

    async def find(self, job_id: str) -> Job:
        return self.find_nowait(job_id)

    async def find_many(self, job_ids: Collection[str]) -> list[Job]:
        return [self._jobs[job_id] for job_id in job_ids if job_id in self._jobs]

    async def find_keys(self, texts: Iterable[str]) -> dict[str, Job]:
        return {text: self._jobs[self._keys[text]] for text in texts if text in self._keys}

    async def page(
        self, query: JobQuery = ALL_JOBS, *, after: str | None = None, limit: int
    ) -> list[Job]:
        return self.page_nowait(query, after=after, limit=limit)

    async def request_cancel(
        self, job_id: str, *, noted: Callable[[str], None] | None = None
    ) -> Job:
        job = self.request_cancel_nowait(job_id)
        if noted is not None:
            noted(job_id)
        return job

    async def make_due(self, job_id: str, *, noted: Callable[[str], None]) -> Job:
        self._jobs[job_id] = job = made_due(self.find_nowait(job_id), self._now())
        noted(job_id)
        return job

    async def delete(self, job_id: str) -> None:
        self.delete_nowait(job_id)

    # Counts.

    def unfinished(self) -> UnfinishedJobs:
        # Copied in one call: no other thread can change the dict within it.
        jobs = [job for job in list(self._jobs.values()) if job.status is not COMPLETED]
        return UnfinishedJobs.of(jobs, released=self._released)

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            pending=len(self._jobs) - self._processing - len(self._completed),
            processing=self._processing,
            completed=len(self._completed),
            completed_bytes=self._completed.bytes,
            dropped=self._dropped.copy(),
        )

    def report_dropped(self) -> None:
        """Log the drops since the last line about drops."""
        self._drop_log.report(self._dropped)

    def _forget(self, job_id: str) -> Outcome:
        """Forget a completed job; return its outcome."""
        self._order.remove(job_id)
        job = self._jobs.pop(job_id)
        if job.key is not None:
            del self._keys[job.key.text]
        assert job.ending is not None  # noqa: S101  (for the type checker: it has completed)
        return job.ending.outcome

    def _find_processing(self, job_id: str) -> Job:
        job = self.find_nowait(job_id)
        if job.status is not PROCESSING:
            refuse(job, PROCESSING, PENDING)
        return job
