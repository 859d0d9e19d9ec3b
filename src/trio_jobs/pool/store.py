"""The store's port: the methods that the pool calls, the errors they raise, and the counts."""

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Protocol, Self, runtime_checkable

from trio_jobs.job import Ending, Job, JobStatus, Later, Left, Outcome
from trio_jobs.pool.job_query import ALL_JOBS, JobQuery


class StoreError(Exception):
    """The store refuses a request; nothing has changed."""


class JobNotFoundError(StoreError):
    """No such job: it was never admitted, or it has been dropped since."""


class DuplicateJobError(StoreError):
    """The store has a job with this id, or with this idempotency key, already."""


class InvalidTransitionError(StoreError):
    """The job's status does not allow the move."""


class StoreUnusableError(Exception):
    """The jobs cannot be kept where they should be. The text is one line."""


class StoreFileError(StoreUnusableError):
    """The file cannot be used, and nothing in it has changed."""


class StoreDatabaseError(StoreUnusableError):
    """The database cannot be used: it is away, or its schema or a setting does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatistics:
    """How many jobs have each status.

    Attributes:
        pending: Admitted, not yet claimed.
        processing: Claimed by a worker.
        completed: Ended, and still kept.
        completed_bytes: The bytes of the completed jobs (`Job.size`).
        dropped: By outcome, the completed jobs that made room for others. Jobs that a client
            has deleted are not among them.
    """

    pending: int
    processing: int
    completed: int
    completed_bytes: int
    dropped: Mapping[Outcome, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedJobs:
    """The jobs that have not completed, in the order of admission.

    Attributes:
        begun: Jobs that may have done a part of their work.
        not_begun: Jobs that have not.
        waiting: Jobs that are delayed, or between two attempts.
        held: Jobs of paused types that a worker has come to.
    """

    begun: Sequence[Job]
    not_begun: Sequence[Job]
    waiting: Sequence[Job] = ()
    held: Sequence[Job] = ()

    @classmethod
    def of(cls, jobs: Iterable[Job], *, released: Container[str]) -> Self:
        """Tell the jobs apart; a released one has begun."""
        begun: list[Job] = []
        not_begun: list[Job] = []
        waiting: list[Job] = []
        for job in sorted(jobs, key=attrgetter("id")):
            if job.status is JobStatus.PROCESSING or job.id in released:
                begun.append(job)
            else:
                (waiting if job.waiting else not_begun).append(job)
        return cls(begun=begun, not_begun=not_begun, waiting=waiting)

    def __bool__(self) -> bool:
        return bool(self.begun or self.not_begun or self.waiting or self.held)

    @property
    def count(self) -> int:
        """The number of jobs."""
        return len(self.begun) + len(self.not_begun) + len(self.waiting) + len(self.held)

    @property
    def ids(self) -> tuple[list[str], list[str]]:
        """The ids of the jobs that have begun, and of all others, each in order."""
        others = sorted(job.id for job in (*self.not_begun, *self.waiting, *self.held))
        return [job.id for job in self.begun], others


def check_rerun(job: Job) -> None:
    """Check that a job can be re-run.

    Raises:
        InvalidTransitionError: It has not completed, has succeeded, or was re-run already.
    """
    if job.ending is None:
        raise InvalidTransitionError(
            f"job {job.id!r} is {job.status}; only a completed job can be re-run"
        )
    if job.outcome is Outcome.SUCCEEDED:
        raise InvalidTransitionError(f"job {job.id!r} has succeeded; it can not be re-run")
    if job.rerun_as is not None:
        raise InvalidTransitionError(f"job {job.id!r} was re-run already, as {job.rerun_as!r}")


def check_waits(job: Job) -> datetime:
    """Check that a job waits for a time, or has waited and not begun since; return the time.

    Raises:
        InvalidTransitionError: It has begun, or was to begin as soon as it can.
    """
    if job.run_at is None:
        raise InvalidTransitionError(f"job {job.id!r} is {job.status}, and waits for no time")
    return job.run_at


class Disk(Protocol):
    """What a worker waits for, beside a job, if the jobs are in a file; and its state."""

    @property
    def unwritten(self) -> int:
        """How many records are on their way to the disk."""

    @property
    def failing_seconds(self) -> float | None:
        """For how long nothing could be written; None if the last attempt succeeded."""

    @property
    def is_behind(self) -> bool:
        """Whether too many ends are still to be written: then a worker waits after an end."""

    def begins_later(self, job: Job) -> bool:
        """Whether a claimed job's handler may begin only once the claim is on the disk.

        For most jobs it may begin at once. The claim must be on the disk first if a crash would
        otherwise hide it although it counts: the handler may not run twice, or the job comes from
        the file of an earlier process.
        """

    async def begun(self, job: Job) -> Job:
        """Wait, after the claim, until the job's handler may begin: see `begins_later`.

        Returns:
            The job as it is now.

        Cancellation:
            Acted on while waiting; the caller releases the job.
        """

    async def caught_up(self) -> None:
        """Wait, after an end, while `is_behind`."""

    async def settled(self) -> None:
        """Wait, after the last job, until all moves so far are on the disk."""


class Moves(Protocol):
    """The moves of a job that its worker makes; a move that raises has changed nothing.

    They are plain functions: no other task runs in between, so no lock is needed, and a worker
    that is being cancelled can still record what happened to its job.

    Each raises JobNotFoundError if there is no such job, and InvalidTransitionError if its
    status does not allow the move.
    """

    @property
    def disk(self) -> Disk | None:
        """None in memory, where a worker waits for nothing: two awaits would cost 1 % of a job."""

    def claim(self, job_id: str) -> Job | None:
        """Compare and set, pending → processing; the caller processes the job.

        Refuses a job that was released: this server never runs it again.

        Returns:
            The job as it is now; None if the store holds it back: the job stays pending until
            `Admission.feed` queues it again.
        """

    def complete(self, job_id: str, ending: Ending, *, duration: float | None = None) -> Job:
        """Record how a job ended, processing → completed.

        Args:
            job_id: The job.
            ending: How it ended.
            duration: Seconds since its claim, by a monotonic clock.

        Returns:
            The completed job, even if the store does not keep it.
        """

    def postpone(self, job_id: str, later: Later) -> Job:
        """Put back a job that wants another attempt, processing → pending, with a time.

        The time of a job whose cancel was requested is now.

        Returns:
            The job as it is now. It is not in the channel until `Admission.feed` queues it.
        """

    def release(self, job_id: str) -> None:
        """Put back a job whose worker is cancelled as the pool ends, processing → pending.

        Its attempt does not count.
        """


class StoreMoves(Moves, Protocol):
    """The moves as `Workers` makes them in the store."""

    def complete(
        self,
        job_id: str,
        ending: Ending,
        *,
        duration: float | None = None,
        show: Callable[[Job], None] | None = None,
    ) -> Job:
        """See `Moves.complete`.

        Args:
            job_id: As there.
            ending: As there.
            duration: As there.
            show: Called with the completed job as soon as clients may see it: at once in memory,
                with a file when the end is on the disk. Until then they see it processing.
        """


class AdmissionStore(Protocol):
    """What an admission needs of a store."""

    def add(self, job: Job) -> None:
        """Take in a new job.

        If it re-runs a job, that job's record names it from now on, so each job is re-run once.

        Raises:
            DuplicateJobError: The store has its id, or its idempotency key, already.
            InvalidTransitionError: The job is not pending, or re-runs one that cannot be re-run.
            JobNotFoundError: It re-runs a job that is not there.
        """

    def find_key_nowait(self, text: str) -> Job | None:
        """The unfinished job with this idempotency key as it is now; None if there is none.

        A store in memory finds completed jobs as well, here and by `Store.find_nowait`.
        """


class Store(StoreMoves, AdmissionStore, Protocol):
    """All jobs: the single source of truth about them.

    The awaited methods may wait for a disk or a database. In memory they make no checkpoint.
    They raise the errors of `Moves`, except for `find_many`, `find_keys` and `page`.
    """

    def unfinished(self) -> UnfinishedJobs:
        """All jobs that have not completed. Any thread may call this while the jobs go on."""

    def statistics(self) -> StoreStatistics:
        """How many jobs have each status now."""

    def find_nowait(self, job_id: str) -> Job:
        """The unfinished job as it is now; a store in memory finds completed ones as well."""

    async def find(self, job_id: str) -> Job:
        """The job as it is now."""

    async def find_many(self, job_ids: Collection[str]) -> list[Job]:
        """These jobs as they are now, in this order, without those that are not there."""

    async def find_keys(self, texts: Iterable[str]) -> dict[str, Job]:
        """The jobs with these idempotency keys, as they are now, by key."""

    async def page(
        self, query: JobQuery = ALL_JOBS, *, after: str | None = None, limit: int
    ) -> list[Job]:
        """Up to ``limit`` jobs in the order of the query, from the first one behind ``after``.

        Jobs that the query does not want may be among them: a store that can skip them does.

        Args:
            query: What the caller wants.
            after: Any position in the order (`JobQuery.position`): the store need not have its job.
            limit: The most jobs.
        """

    async def request_cancel(
        self, job_id: str, *, noted: Callable[[str], None] | None = None
    ) -> Job:
        """Record that a client wants an unfinished job cancelled; its status stays as it is.

        A worker that claims the job later completes it without running it.

        Args:
            job_id: The job.
            noted: Called with its id once the record says so, before any wait for a disk.
        """

    def request_cancel_nowait(self, job_id: str) -> Job | None:
        """The plain step of `request_cancel`: with a file the record is written soon.

        Returns:
            The job as it is now; None if its record is in a database, and not here.
        """

    async def make_due(self, job_id: str, *, noted: Callable[[str], None]) -> Job:
        """Record that a job which waits for a time may begin now.

        Args:
            job_id: The job.
            noted: See `request_cancel`.
        """

    async def delete(self, job_id: str) -> None:
        """Forget a completed job."""


@runtime_checkable
class KeepingStore(Store, Protocol):
    """A store whose jobs survive the process: in a file, or in a database.

    Attributes:
        timeout: Seconds after which a request does not wait for the disk, or the database, any
            more.
    """

    timeout: float

    @property
    def hangs(self) -> bool:
        """Whether there has been no answer for longer than ``timeout``."""

    async def count(self, query: JobQuery) -> tuple[Mapping[tuple[str, Outcome], int], list[Job]]:
        """Count the jobs that a query wants, as they are stored at one moment.

        Returns:
            The numbers of jobs that have ended, by type and outcome; and the unfinished jobs, for
            `now_of`. Either may have some of other types, the latter also of other statuses.
        """

    def now_of(self, jobs: Iterable[Job]) -> list[Job]:
        """Stored jobs as clients see them now; those that have ended since as they are."""

    def release(
        self,
        job_id: str,
        *,
        begun: bool = True,
        left: Left | None = None,
        show: Callable[[Job], None] | None = None,
    ) -> None:
        """See `Moves.release`.

        Args:
            job_id: The job.
            begun: Whether its handler may have done a part of its work. If so, a job that may not
                run twice is not put back, it ends as interrupted.
            left: What it leaves behind, for its record.
            show: See `StoreMoves.complete`; called if it ends.
        """

    def keep_pending(self) -> None:
        """Hand out no more jobs; those in a file, except those whose cancel was requested."""


@runtime_checkable
class DurableStorePort(KeepingStore, Protocol):
    """A store whose jobs are in a file, for this process alone."""

    def add_all(
        self,
        jobs: Sequence[Job],
        *,
        reruns: Mapping[str, tuple[int, Job]],
        landed: Callable[[], None],
        refused: Callable[[Exception], None],
    ) -> None:
        """Write new jobs, all or none. Either function is called later, in the event loop.

        Args:
            jobs: The jobs; they are in the store when ``landed`` is called.
            reruns: By id, the old jobs that they re-run, as `find_all_stored` has found them.
            landed: Called when they are on the disk.
            refused: Called with the reason if they cannot be written; nothing of them is kept.

        Raises:
            InvalidTransitionError: One of the old jobs cannot be re-run.
        """

    def meanwhile(self, call: Callable[[], None]) -> None:
        """Call a function at once, or soon, when that does not hold up the next commit.

        To be called by a ``landed``.
        """

    async def find_all_stored(self, job_ids: Collection[str]) -> dict[str, tuple[int, Job]]:
        """By id, the records of these completed jobs in the file, with their seqs there.

        Raises:
            JobNotFoundError: One of them is not there.
        """

    def find_key_nowait(self, text: str) -> Job | None:
        """The unfinished job with this idempotency key, as it is now; None if there is none."""

    async def note(self, name: str, value: str) -> None:
        """Keep a text in the file, in place of the last one of this name, for the next process.

        If this raises, the text is written as soon as it is possible.

        Raises:
            StoreWriteError: The file cannot be written now.
            StoreTimeoutError: The disk has not answered in time.
        """
