"""The store: every job, every change of its status, the counts. Every method is a plain `def`.

A method without an await is atomic between tasks: that is why the project
needs no locks, and why a worker that is being cancelled can still record what
happened to its job.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from operator import attrgetter

from msgspec.structs import replace

from trio_jobs.job import TRANSITIONS, Ending, Job, JobStatus, Outcome
from trio_jobs.pool.store import (
    DuplicateJobError,
    InvalidTransitionError,
    JobNotFoundError,
    StoreStatistics,
    UnfinishedJobs,
)
from trio_jobs.stores.sorted_ids import SortedIds

# Looked up once. On Python 3.11 a member of an enum costs more than all that a
# move does with it.
_PENDING, _PROCESSING, _COMPLETED = JobStatus


def _ignore_claim() -> None:
    pass


def _ignore_completion(job: Job) -> None:
    pass


def _ignore_drop(outcome: Outcome, dropped: Mapping[Outcome, int]) -> None:
    pass


class MemoryStore:
    """All jobs, in memory; the single source of truth about them.

    Finished jobs are dropped, oldest completion first, while there are more
    than ``keep_completed`` of them or they hold more than
    ``keep_completed_bytes``. A pending or a processing job is never dropped.

    Adding, claiming, completing, releasing and looking up cost the same
    whatever the number of jobs, kept or dropped; so does a page, whose
    position is found by bisection.

    Args:
        now: The wall clock, as an aware UTC time.
        keep_completed: How many finished jobs are kept at the most.
        keep_completed_bytes: How many bytes (`Job.size`) finished jobs may
            hold together. One that is larger by itself is not kept at all.
        claimed: Called after each claim. Admission wakes those who wait for
            room with it.
        completed: Called after each completion with the job, which may have
            been dropped by then. Those who wait for the job get it so.
        dropped: Called after each drop, with the job's outcome and the counts
            of all drops so far.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        keep_completed: int,
        keep_completed_bytes: int,
        claimed: Callable[[], None] = _ignore_claim,
        completed: Callable[[Job], None] = _ignore_completion,
        dropped: Callable[[Outcome, Mapping[Outcome, int]], None] = _ignore_drop,
    ) -> None:
        self._now = now
        self._keep_completed = keep_completed
        self._keep_completed_bytes = keep_completed_bytes
        self._claim_noted = claimed
        self._completion_noted = completed
        self._drop_noted = dropped
        self._jobs: dict[str, Job] = {}
        # The ids in order. A dict remembers its order too, but cannot start in
        # the middle, and walks over the gaps that dropped entries leave.
        self._order = SortedIds()
        self._processing: set[str] = set()
        # Oldest completion first; an OrderedDict, because taking the first key
        # of a dict again and again walks over all that were taken before.
        self._completed: OrderedDict[str, int] = OrderedDict()
        self._completed_bytes = 0
        self._dropped = dict.fromkeys(Outcome, 0)
        self._released: set[str] = set()
        # Ids by idempotency key; an entry goes with its job.
        self._keys: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> Job:
        """The job as it is now.

        Raises:
            JobNotFoundError: There is no such job, or no longer.
        """
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFoundError(f"no job {job_id!r}") from None

    def add(self, job: Job) -> None:
        """Take in a new, pending job.

        Raises:
            DuplicateJobError: A job with this id, or with this idempotency
                key, is here already.
            InvalidTransitionError: The job is not pending.
        """
        if job.id in self._jobs:
            raise DuplicateJobError(f"job {job.id!r} is in the store already")
        if job.key is not None and job.key.text in self._keys:
            raise DuplicateJobError(f"a job with the key {job.key.text!r} is in the store already")
        if job.status is not _PENDING:
            raise InvalidTransitionError(
                f"job {job.id!r} is {job.status}; only a pending job can be added"
            )
        self._jobs[job.id] = job
        self._order.add(job.id)
        if job.key is not None:
            self._keys[job.key.text] = job.id

    def claim(self, job_id: str) -> Job:
        """Compare and set, pending → processing; the caller processes the job.

        Raises:
            JobNotFoundError: There is no such job, or no longer.
            InvalidTransitionError: It is not pending, or has been released: a
                released job is never handed out again.
        """
        job = self._get(job_id, expected=_PENDING, wanted=_PROCESSING)
        if job_id in self._released:
            raise InvalidTransitionError(f"job {job_id!r} was released; it is not handed out again")
        # The wall clock may have been set back since.
        started_at = max(self._now(), job.created_at)
        job = replace(job, status=_PROCESSING, started_at=started_at)
        self._jobs[job_id] = job
        self._processing.add(job_id)
        self._claim_noted()
        return job

    def complete(self, job_id: str, ending: Ending, *, duration: float | None = None) -> Job:
        """Record how a job ended, processing → completed; drops what is beyond the bounds.

        Args:
            job_id: Whose end it is.
            ending: How it ended.
            duration: Seconds since its claim, by a clock that nobody sets.

        Raises:
            JobNotFoundError: There is no such job, or no longer.
            InvalidTransitionError: It is not processing.
        """
        job = self._get(job_id, expected=_PROCESSING, wanted=_COMPLETED)
        job = replace(
            job,
            status=_COMPLETED,
            completed_at=max(self._now(), job.started_at or job.created_at),
            duration=duration,
            ending=ending,
        )
        self._jobs[job_id] = job
        self._processing.remove(job_id)
        self._completed[job_id] = size = job.size
        self._completed_bytes += size
        while (
            len(self._completed) > self._keep_completed
            or self._completed_bytes > self._keep_completed_bytes
        ):
            self._drop(next(iter(self._completed)))
        self._completion_noted(job)
        return job

    def release(self, job_id: str) -> Job:
        """Put back a job whose worker is cut off as the pool ends, processing → pending.

        Raises:
            JobNotFoundError: There is no such job, or no longer.
            InvalidTransitionError: It is not processing.
        """
        job = self._get(job_id, expected=_PROCESSING, wanted=_PENDING)
        job = replace(job, status=_PENDING, started_at=None)
        self._jobs[job_id] = job
        self._processing.remove(job_id)
        self._released.add(job_id)
        return job

    def request_cancel(self, job_id: str) -> Job:
        """Note that a client wants the job cancelled; its status stays as it is.

        A pending job keeps its place: the worker that claims it completes it
        without running it.

        Raises:
            JobNotFoundError: There is no such job, or no longer.
            InvalidTransitionError: It is completed.
        """
        job = self.get(job_id)
        if job.status is _COMPLETED:
            raise InvalidTransitionError(f"job {job_id!r} is completed; it can not be cancelled")
        job = replace(job, cancel_requested=True)
        self._jobs[job_id] = job
        return job

    def delete(self, job_id: str) -> None:
        """Forget a completed job.

        Raises:
            JobNotFoundError: There is no such job, or no longer.
            InvalidTransitionError: It is not completed.
        """
        job = self.get(job_id)
        if job.status is not _COMPLETED:
            raise InvalidTransitionError(
                f"job {job_id!r} is {job.status}; only a completed job can be deleted"
            )
        self._forget(job_id)

    def find_key(self, text: str) -> Job | None:
        """The job that was submitted under this idempotency key, as it is now; None if none was."""
        job_id = self._keys.get(text)
        return None if job_id is None else self._jobs[job_id]

    def page(self, *, after: str | None = None, limit: int) -> list[Job]:
        """Up to ``limit`` jobs in order, from the first one whose id is greater than ``after``.

        The job ``after`` need not be in the store (any more).
        """
        ids = self._order.after(after or "")
        return [self._jobs[job_id] for job_id in islice(ids, limit)]

    def unfinished(self) -> tuple[list[str], list[str]]:
        """The ids of all jobs that have not completed: those begun, those not begun."""
        jobs = self.unfinished_jobs()
        return [job.id for job in jobs.begun], [job.id for job in jobs.not_begun]

    def unfinished_jobs(self) -> UnfinishedJobs:
        """All jobs that have not completed.

        May be called in another thread while the jobs go on.
        """
        # Copied in one call, which no other thread can come into.
        jobs = [job for job in list(self._jobs.values()) if job.status is not _COMPLETED]
        jobs.sort(key=attrgetter("id"))
        was_begun = [job.id in self._processing or job.id in self._released for job in jobs]
        return UnfinishedJobs(
            begun=[job for job, begun in zip(jobs, was_begun, strict=True) if begun],
            not_begun=[job for job, begun in zip(jobs, was_begun, strict=True) if not begun],
        )

    def statistics(self) -> StoreStatistics:
        """How many jobs are where, now."""
        return StoreStatistics(
            pending=len(self._jobs) - len(self._processing) - len(self._completed),
            processing=len(self._processing),
            completed=len(self._completed),
            completed_bytes=self._completed_bytes,
            dropped=self._dropped.copy(),
        )

    def _drop(self, job_id: str) -> None:
        outcome = self._forget(job_id).outcome
        assert outcome is not None  # noqa: S101  (for the type checker: it has completed)
        self._dropped[outcome] += 1
        self._drop_noted(outcome, self._dropped)

    def _forget(self, job_id: str) -> Job:
        self._completed_bytes -= self._completed.pop(job_id)
        self._order.remove(job_id)
        job = self._jobs.pop(job_id)
        if job.key is not None:
            del self._keys[job.key.text]
        return job

    def _get(self, job_id: str, *, expected: JobStatus, wanted: JobStatus) -> Job:
        """The job, if it is where it has to be for a move that there is."""
        job = self._jobs.get(job_id) or self.get(job_id)
        if job.status is not expected or wanted not in TRANSITIONS[expected]:
            raise InvalidTransitionError(
                f"job {job_id!r} is {job.status}; only a {expected} job can become {wanted}"
            )
        return job
