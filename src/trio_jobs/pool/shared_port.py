"""The port of a store whose jobs are in a database that several servers share."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from trio_jobs.job import Job
from trio_jobs.pool.store import KeepingStore
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.pool.want import Want


class LocalJobs(Protocol):
    """What a store that several servers share asks of the pool of this server, and tells it.

    No method makes a checkpoint, or raises.

    Attributes:
        counts_soon: Whether a round has to count the unfinished jobs, even if it does nothing else.
    """

    counts_soon: bool

    def want(self, owned: Iterable[Job], *, ended: float, suspect: bool) -> Want:
        """Which jobs this server wants to fetch now.

        Args:
            owned: The unfinished jobs that it owns.
            ended: How many jobs its workers end during a round, by the last round.
            suspect: See `Want`.
        """

    def count_to(self, *, new: int, fetched: int) -> int:
        """Up to which number the unfinished jobs are to be counted; 0 for no count.

        Args:
            new: How many jobs come in meanwhile.
            fetched: How many are fetched at the most.
        """

    def is_limited(self, type: str) -> bool:  # noqa: A002  (the field's name)
        """Whether this server runs a limited number of jobs of this type at the same time."""

    def is_narrow(self, want: Want) -> bool:
        """Whether a want leaves out types whose jobs this server runs at other times."""

    def take_up(self, job: Job) -> bool:
        """Queue a fetched job for the workers; return False if that is not possible any more."""

    def let_go(self, job: Job) -> None:
        """Note that a queued or held job is not here any more: no worker is to claim it."""

    def note_end(self, job: Job, *, counts: bool) -> None:
        """Note that the end of a job is recorded; or that it does not count: another has the job.

        Args:
            job: The job as it ended.
            counts: Whether it counts.
        """

    def note_cancel(self, job_id: str) -> None:
        """Let a job of this server end whose cancel was requested; see `Pool.note_cancel`."""

    def note_beat(self) -> None:
        """Note that some seconds have passed, in which other servers may have ended jobs."""

    def note_unfinished(self, number: int) -> None:
        """Note how many unfinished jobs there are, of all servers."""


@runtime_checkable
class SharedStorePort(KeepingStore, Protocol):
    """A store whose jobs are in a database that several servers share.

    This server has the jobs that it has fetched, until it gives them up. `claim`, `find_nowait`
    and the counts speak of these.

    Attributes:
        members: The names of the servers that share the database.
    """

    members: Sequence[str]

    def connect(self, local: LocalJobs, waiters: CompletionWaiters) -> None:
        """Say once, before the pool runs, who runs the fetched jobs, and who waits for jobs."""

    def watch(self, job_id: str) -> None:
        """See `CompletionWaiters`: something begins to wait for this job."""

    def wake(self) -> None:
        """Let a round come soon: it may fetch or count jobs."""

    def want_more(self) -> None:
        """Fetch from the oldest job on: this server wants jobs that it did not want before."""

    def submit(
        self,
        jobs: Sequence[Job],
        *,
        landed: Callable[[], None],
        refused: Callable[[Exception], None],
    ) -> object:
        """Write new jobs, all or none. Either function is called later, in the event loop.

        Args:
            jobs: The jobs; those that re-run a job name it.
            landed: Called when they are in the database.
            refused: Called with the reason if they cannot be written; nothing of them is kept. A
                `DuplicateJobError`: there is a job with one of their keys. A `JobNotFoundError` or
                an `InvalidTransitionError`: one of the old jobs cannot be re-run.

        Returns:
            A mark for `withdraw`.
        """

    def withdraw(self, submission: object) -> bool:
        """Take a submission back, unless the database may have it; return whether it was."""

    def give_back(self, job_id: str) -> None:
        """Give a fetched job that no worker has claimed back to the database."""

    def is_here(self, job_id: str) -> bool:
        """Whether a claimed job is still this server's: its lease has not run out since."""
