"""What one round writes and brings back: the seam between `SharedStore` and the pump."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from trio_jobs.job import Job
from trio_jobs.pool.want import NOTHING
from trio_jobs.pool.want import Want as Want

# Called with a job when its end is in the database.
Show = Callable[[Job], None] | None


class OwnedJob(NamedTuple):
    """A job that this server has fetched, and not given up.

    Attributes:
        job: The job as it is here.
        member: The membership under which it was fetched: it owns the job in the database.
        fetches: How often the job was fetched, by any server. A move of it has an effect only if
            the job's owner and this number are still so in the database: the fence.
    """

    job: Job
    member: int
    fetches: int


class Moved(NamedTuple):
    """A move of a fetched job that is to be recorded; afterwards nobody owns the job.

    Attributes:
        owned: The job as it is after the move: completed, or pending (postponed, or given back).
        show: Called with the job once the move is recorded, if it is an end.
        has_run: Whether a handler has run it until then.
    """

    owned: OwnedJob
    show: Show = None
    has_run: bool = False


@dataclass(slots=True, eq=False)
class NewJobs:
    """Jobs that were submitted together: all come in, or none.

    Attributes:
        jobs: The jobs, in the order of their submission. Those that re-run a job name it.
        fetchable: Which of them this server may run at once.
        landed: Called when all are in the database, with those that this server has fetched in
            the same step, which are in the channel by then.
        refused: Called instead, with the reason; nothing of them was kept. A `DuplicateJobError`:
            there is a job with one of their keys. An `InvalidTransitionError` or a
            `JobNotFoundError`: one of them cannot be re-run.
    """

    jobs: Sequence[Job]
    fetchable: Sequence[bool]
    landed: Callable[[Sequence[Job]], None]
    refused: Callable[[Exception], None]

    @property
    def is_plain(self) -> bool:
        """Whether nothing is re-run, and there is one job, or none with a key."""
        if any(job.rerun_of is not None for job in self.jobs):
            return False
        return len(self.jobs) == 1 or all(job.key is None for job in self.jobs)


class Batch(NamedTuple):
    """What one round writes, fetches and counts.

    Attributes:
        moves: The moves to record; at most one for each job.
        begun: Jobs whose begin is recorded: a sweep has to know of it.
        want: What is fetched.
        new: The submissions.
        cancels: Ids of jobs, fetched here or not, whose cancel is requested.
        watches: Ids of unfinished jobs that other servers may have, and of whose ends this server
            wants to be told.
        count_to: Up to which number the unfinished jobs are counted, at the end; 0 for no count.
    """

    moves: Sequence[Moved] = ()
    begun: Sequence[OwnedJob] = ()
    want: Want = NOTHING
    new: Sequence[NewJobs] = ()
    cancels: Sequence[str] = ()
    watches: Sequence[str] = ()
    count_to: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether the round does nothing."""
        parts = (self.moves, self.begun, self.want.number, self.new, self.cancels, self.watches)
        return not any(parts) and not self.count_to

    def parts(self) -> list["Batch"]:
        """Each part of the round alone."""
        parts = [Batch(moves=(each,)) for each in self.moves]
        parts += [Batch(begun=(each,)) for each in self.begun]
        parts += [Batch(new=(each,)) for each in self.new]
        rest = self._replace(moves=(), begun=(), new=())
        return parts if rest.is_empty else [*parts, rest]


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round has brought.

    Attributes:
        fenced: The ids of moves, and of begins, that had no effect: another server has the job, or
            had it since.
        fetched: The jobs that this server owns from now on, those of ``taken`` among them. They
            are pending, and their cancel may have been requested. A job that has waited for a time
            keeps its `run_at`.
        taken: The submissions that are in. The others are refused: a key is known, or in use.
        busy: Those of the others whose key is that of a job which a user's transaction has
            submitted, and which is not there yet. They are refused for the moment, with a
            `StoreUnavailableError`.
        over: The watched jobs that have completed, or are not there.
        unfinished: How many unfinished jobs there are, up to ``count_to``; None without a count.
    """

    fenced: Sequence[str] = ()
    fetched: Sequence[OwnedJob] = ()
    taken: Sequence[NewJobs] = ()
    busy: Sequence[NewJobs] = ()
    over: Sequence[str] = ()
    unfinished: int | None = None


def sum_of(results: Sequence[RoundResult]) -> RoundResult:
    """The result of a round whose parts were sent one by one."""
    if len(results) == 1:
        return results[0]
    counts = [each.unfinished for each in results if each.unfinished is not None]
    return RoundResult(
        fenced=[each for result in results for each in result.fenced],
        fetched=[each for result in results for each in result.fetched],
        taken=[each for result in results for each in result.taken],
        busy=[each for result in results for each in result.busy],
        over=[each for result in results for each in result.over],
        unfinished=counts[0] if counts else None,
    )


class RoundSource(Protocol):
    """What the pump asks of the store of this server; no method makes a checkpoint."""

    def take(self, *, may_fetch: bool) -> Batch | None:
        """What is ready for a round; None if there is nothing to do.

        It takes some MiB of payloads and results at the most.

        Args:
            may_fetch: Whether there may be pending jobs in the database that the last round with
                a want has not fetched. A source that from now on wants others than it wanted then
                (a type is resumed, or has come below its limit) says so by `Pump.hint`.
        """

    def landed(self, batch: Batch, result: RoundResult) -> None:
        """A round is committed: hand the fetched jobs to the workers, make the calls.

        It refuses the submissions that are not in with a `DuplicateJobError`. The pump refuses
        those that fail otherwise itself, and leaves them out of ``batch``.

        If the round had to be repeated after a lost connection, it is committed once, and the
        result is that of the two together. If the membership was lost meanwhile, nothing is
        fetched.
        """

    def put_back(self, batch: Batch, error: Exception | None) -> None:
        """A round had no effect: the next one takes its parts, without the submissions if refused.

        Args:
            batch: The round.
            error: Why the database refuses to write: it is full, or read-only. The submissions
                are refused with it. None if nothing is refused.
        """

    def owned(self, member: int) -> set[tuple[str, int]]:
        """The jobs that this membership has fetched and not given up in the database.

        Each is an id and its `OwnedJob.fetches`: a round may give a job back, and fetch it again.
        """
