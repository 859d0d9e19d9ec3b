"""`SharedStore`: the jobs of a database that this server has fetched, and their moves.

Its plain methods are atomic between tasks, and wait for nothing: what they change goes into the
database with the next round. The database decides whether it counts: another server may have the
job by then.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Final, Protocol

import trio
from msgspec.structs import replace

from trio_jobs.job import Ending, Job, JobStatus, Later, Left, Outcome
from trio_jobs.pool.refusals import KEY_IN_USE, StoreUnavailableError
from trio_jobs.pool.shared_port import LocalJobs
from trio_jobs.pool.store import (
    DuplicateJobError,
    JobNotFoundError,
    StoreStatistics,
    UnfinishedJobs,
)
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.pool.want import NOTHING, Want
from trio_jobs.stores.database_port import ReadersPort, RequestsPort
from trio_jobs.stores.outbox import Outbox
from trio_jobs.stores.postgres.round import Batch, Moved, NewJobs, OwnedJob, RoundResult, Show
from trio_jobs.stores.remote_ends import RemoteEnds
from trio_jobs.stores.shared_reads import SharedReads
from trio_jobs.stores.transitions import (
    COMPLETED,
    CUT_OFF,
    PENDING,
    PROCESSING,
    cancel_requested,
    claimed,
    completed,
    postponed,
    refuse,
    released,
)

log = logging.getLogger(__name__)

# How many ends may be unrecorded before workers wait. Each is a job that runs again if this server
# dies.
MAX_UNRECORDED_ENDS: Final = 1_000

# Seconds that a job runs before a round records its begin, so that other servers show it as
# processing. Most jobs end sooner, and this would be one more write for each.
_LONG: Final = 0.5


class PumpPort(RequestsPort, Protocol):
    """Makes the rounds; see `stores.postgres.pump`."""

    @property
    def failing(self) -> float | None:
        """Since when, by the monotonic clock, the database refuses writes; or None."""

    @property
    def hangs(self) -> bool:
        """Whether the database has not answered for longer than a request waits."""

    def wake(self) -> None:
        """Let a round come soon."""

    def hint(self, first_id: str | None) -> None:
        """There may be pending jobs from this id on; None: from the oldest on."""


class SharedStore(SharedReads):
    """The jobs in a database, for this server: see `pool.shared_port.SharedStorePort`.

    A job that this server has fetched is *fetched* until a worker claims it, then *running*. A
    move that ends the run, or gives the job back, waits in the outbox for a round; clients see the
    job as it was until the move is recorded.

    If the lease runs out, the fetched jobs are forgotten: others will take them over. The running
    ones are being cut, and stay here until their workers are done with them. The same job,
    fetched anew, waits until then.

    Args:
        readers: Read the database.
        repeatable: Whether jobs of a type may run again after a process has died in them.
        timeout: See `trio_jobs.pool.store.KeepingStore`.
        now: The wall clock, as an aware UTC time.
        clock: A monotonic clock, in seconds.

    Attributes:
        remote_ends: Tells those who wait here of the ends of jobs that others run.
        members: The names of the servers that share the database.
        dropped: By outcome, how many completed jobs this server has dropped from the database.
    """

    def __init__(
        self,
        readers: ReadersPort,
        *,
        repeatable: Callable[[str], bool],
        timeout: float,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timeout = timeout
        self._readers = readers
        self._repeatable = repeatable
        self._now = now
        self._clock = clock
        self.remote_ends = RemoteEnds(self.find_many, is_owned=self._owns, wake=self.wake)
        self.members: Sequence[str] = ()
        self.dropped = dict.fromkeys(Outcome, 0)
        self._local: LocalJobs | None = None
        self._fetched: dict[str, OwnedJob] = {}
        self._running: dict[str, OwnedJob] = {}
        self._cut: set[str] = set()  # the running ones whose lease has run out
        self._again: dict[str, OwnedJob] = {}  # fetched while the same job, cut, still runs here
        self._suspects: set[str] = set()  # those of all these that were interrupted
        self._outbox = Outbox()
        # By id, oldest first: when running jobs with an unrecorded begin began.
        self._unnoted: dict[str, float] = {}
        self._notes_begins = False  # whether the next round comes for their sake
        self._cancelled_meanwhile: set[str] = set()  # perhaps jobs that the round fetches
        # The jobs with moves that are not recorded, as clients see them.
        self._unrecorded: dict[str, Job] = {}
        self._ending: dict[str, Job] = {}  # those that have ended, as they ended
        self._fewer_ends = trio.Event()
        self._ended = 0  # since the last round began
        self._began = clock()  # that was then
        self._round_seconds = 0.0  # how long it took
        self._per_round = 0.0  # how many jobs end during a round
        self._left_some = False  # whether the last fetch may have left jobs that are wanted later
        self._not_begun: set[str] = set()  # claimed, and cut off before their handlers began
        self._released: dict[str, Job] = {}
        self._cut_off: dict[str, Job] = {}  # ended by a release
        self._keeps_pending = False

    def use(self, pump: PumpPort) -> None:
        """Say once, before anything else, who makes the rounds."""
        self._pump: PumpPort = pump

    def connect(self, local: LocalJobs, waiters: CompletionWaiters) -> None:
        self._local = local
        self.remote_ends.connect(waiters)

    def watch(self, job_id: str) -> None:
        self.remote_ends.watch(job_id)

    @property
    def disk(self) -> "SharedStore":
        """What a worker waits for: this store."""
        return self

    @property
    def unwritten(self) -> int:
        return len(self._outbox)

    @property
    def failing_seconds(self) -> float | None:
        since = self._pump.failing
        return None if since is None else round(time.monotonic() - since, 3)

    @property
    def hangs(self) -> bool:
        return self._pump.hangs

    def wake(self) -> None:
        self._pump.wake()

    def hint(self, first_id: str | None) -> None:
        """See `Pump.hint`."""
        self._pump.hint(first_id)

    def note_beat(self, members: Sequence[str]) -> None:
        """The lease is renewed; these are the names of all servers."""
        self.members = members
        self.seeks_cancelled = True
        if self._local is not None:
            self._local.note_beat()
            self._notes_begins = True
            self._pump.wake()

    def want_more(self) -> None:
        self._left_some = False
        self._pump.hint(None)

    # New jobs.

    def add(self, job: Job) -> None:
        """Refuse the job: nobody can wait here until it is in the database."""
        raise TypeError(f"job {job.id!r} can not be added at once to a database: use submit")

    def submit(
        self,
        jobs: Sequence[Job],
        *,
        landed: Callable[[], None],
        refused: Callable[[Exception], None],
    ) -> NewJobs:
        submission = NewJobs(jobs, [], lambda _: landed(), refused)
        self._outbox.submit(submission)
        self._pump.wake()
        return submission

    def withdraw(self, submission: object) -> bool:
        return self._outbox.withdraw(submission)

    # The moves.

    def claim(self, job_id: str) -> Job:
        owned = self._fetched.get(job_id)
        if owned is None:
            refuse(self.find_nowait(job_id), PENDING, PROCESSING)
        job = claimed(owned.job, self._now())
        del self._fetched[job_id]
        self._running[job_id] = OwnedJob(job, owned.member, owned.fetches)
        self._unnoted[job_id] = time.monotonic()
        return job

    def complete(
        self, job_id: str, ending: Ending, *, duration: float | None = None, show: Show = None
    ) -> Job:
        owned = self._find_running(job_id, COMPLETED)
        job = completed(owned.job, ending, self._now(), duration)
        # Also if the lease has run out: perhaps nobody has taken the job over yet.
        self._record(owned, job, show)
        self._ending[job_id] = job
        self._end_run(owned)
        return job

    def postpone(self, job_id: str, later: Later) -> Job:
        owned = self._find_running(job_id, PENDING)
        job = postponed(owned.job, later, self._now())
        if not later.lost and job_id not in self._cut:
            self._record(owned, job)
        self._end_run(owned)
        return job

    def release(
        self, job_id: str, *, begun: bool = True, left: Left | None = None, show: Show = None
    ) -> None:
        owned = self._find_running(job_id, PENDING)
        if not begun:
            self._not_begun.add(job_id)
        if job_id not in self._not_begun and not self._repeatable(owned.job.type):
            self._cut_off[job_id] = self.complete(job_id, replace(CUT_OFF, left=left), show=show)
            return
        job = self._released[job_id] = released(owned.job, left)
        if job_id not in self._cut:
            self._record(owned, job)
        self._end_run(owned)

    def give_back(self, job_id: str) -> None:
        owned = self._fetched.pop(job_id)
        self._let_go(owned)
        self._record(owned, owned.job)

    def keep_pending(self) -> None:
        self._keeps_pending = True
        for job_id in list(self._fetched):
            self.give_back(job_id)
        for owned in self._again.values():
            self._record(owned, owned.job)
        self._again.clear()

    def is_here(self, job_id: str) -> bool:
        return job_id in self._running and job_id not in self._cut

    def lost(self, member: int) -> None:
        """The lease of a membership has run out: the jobs fetched under it are not here any more.

        Ends that are in the outbox stay there: the database decides whether they count.
        """
        for job_id, owned in list(self._fetched.items()):
            if owned.member <= member:
                del self._fetched[job_id]
                self._let_go(owned)
        for job_id, owned in list(self._again.items()):
            if owned.member <= member:
                del self._again[job_id]
        self._cut |= {id_ for id_, owned in self._running.items() if owned.member <= member}
        self._outbox.lost(member)
        self.remote_ends.watch_all()

    def note_cancel(self, job_id: str) -> None:
        """A client of another server wants a job cancelled that this server may have."""
        if job_id in self._fetched or job_id in self._running or job_id in self._again:
            assert self._local is not None  # noqa: S101  (for the type checker: it was fetched)
            self._cancel_owned(job_id)
            self._local.note_cancel(job_id)
        elif self._outbox.is_under_way:
            self._cancelled_meanwhile.add(job_id)

    def _cancel_owned(self, job_id: str) -> Job:
        changed: Job | None = None
        for jobs in (self._again, self._fetched, self._running):
            if (owned := jobs.get(job_id)) is not None:
                changed = cancel_requested(owned.job, self._now())
                jobs[job_id] = owned._replace(job=changed)
        if changed is not None:
            return changed
        if (ended := self._ending.get(job_id)) is not None:
            return cancel_requested(ended, self._now())  # refused
        return self._unrecorded[job_id]  # the database has it soon

    def request_cancel_nowait(self, job_id: str) -> Job | None:
        """Ask for the cancel of a job with the next round; None if this server does not hold it."""
        self._outbox.request_cancel(job_id)
        self.seeks_cancelled = True
        self._pump.wake()
        return self._cancel_owned(job_id) if self._owns(job_id) else None

    def _record(self, owned: OwnedJob, job: Job, show: Show = None) -> None:
        """Let the next round record a move; clients see the job as it was until then."""
        self._unrecorded.setdefault(job.id, owned.job)
        moved = OwnedJob(job, owned.member, owned.fetches)
        self._outbox.record(Moved(moved, show, has_run=owned.job.status is PROCESSING))
        self._pump.wake()

    def _end_run(self, owned: OwnedJob) -> None:
        """A worker is done with a job."""
        job_id = owned.job.id
        del self._running[job_id]
        self._cut.discard(job_id)
        self._unnoted.pop(job_id, None)
        self._ended += 1
        self._fetch_in_its_place(owned.job)
        if (again := self._again.pop(job_id, None)) is not None:
            self._take_up(again)

    def _let_go(self, owned: OwnedJob) -> None:
        """A fetched job is not here any more."""
        assert self._local is not None  # noqa: S101  (for the type checker: it was fetched)
        self._local.let_go(owned.job)
        self._fetch_in_its_place(owned.job)

    def _fetch_in_its_place(self, job: Job) -> None:
        """Fetch other jobs of its kind, if the last fetch has left some."""
        if not self._left_some or self._local is None:
            return
        if job.interruptions or self._local.is_limited(job.type):
            self.want_more()

    # The rounds.

    def take(self, *, may_fetch: bool) -> Batch | None:
        """See `RoundSource.take`."""
        local = self._local
        want = NOTHING
        now = self._clock()
        self._per_round = self._ended * self._round_seconds / max(now - self._began, 1e-9)
        if local is not None and not self._keeps_pending and (may_fetch or self._outbox.has_new):
            want = self._want(local)
            if want.types is not None and not want.types and not self.seeks_cancelled:
                # None of its types may begin: the fetch would walk over all pending jobs in vain.
                want = NOTHING
        counts_soon = local is not None and local.counts_soon
        long = self._begun_long_ago()
        notes_begins, self._notes_begins = bool(self._notes_begins and long), False
        others = self.remote_ends.some_are_to_be_watched or counts_soon or notes_begins
        if self._outbox.is_empty and not (others or (may_fetch and want.number)):
            return None
        batch = self._outbox.take()
        number, begun = 0, batch.begun
        for each in batch.new:
            each.fetchable = [_is_wanted(job, want) for job in each.jobs]
            number += len(each.jobs)
        if long:
            moved = {each.owned.job.id for each in batch.moves}
            begun = [*begun, *(self._running[id_] for id_ in long if id_ not in moved)]
        if want.number:
            self.seeks_cancelled = False
        self._began, self._ended = now, 0
        return batch._replace(
            begun=begun,
            want=want,
            watches=self.remote_ends.take(),
            count_to=0 if local is None else local.count_to(new=number, fetched=want.number),
        )

    def landed(self, batch: Batch, result: RoundResult) -> None:
        """See `RoundSource.landed`."""
        assert self._local is not None  # noqa: S101 - the pump runs with the pool
        self._outbox.landed()
        self._round_seconds = self._clock() - self._began
        fenced = frozenset(result.fenced)
        for job_id in {each.owned.job.id for each in batch.moves} - self._outbox.waiting_ids:
            self._unrecorded.pop(job_id, None)
        for moved in batch.moves:
            self._note_recorded(moved, counts=moved.owned.job.id not in fenced)
        for owned in batch.begun:
            running = self._running.get(owned.job.id)
            if running is None or running.fetches != owned.fetches:
                continue
            self._unnoted.pop(owned.job.id, None)
            if owned.job.id in fenced:
                self._cut.add(owned.job.id)
        self._note_left(batch.want, result.fetched)
        for owned in result.fetched:
            self._take_up(owned)
        self._cancelled_meanwhile.clear()
        taken, busy = set(map(id, result.taken)), set(map(id, result.busy))
        fetched = [owned.job for owned in result.fetched]
        for new in batch.new:
            if id(new) in taken:
                new.landed(fetched)
            elif id(new) in busy:
                new.refused(StoreUnavailableError(KEY_IN_USE))
            else:
                new.refused(DuplicateJobError("there is a job with this key"))
        if result.unfinished is not None:
            self._local.note_unfinished(result.unfinished)
        self.remote_ends.note_over(result.over)

    def put_back(self, batch: Batch, error: Exception | None) -> None:
        """See `RoundSource.put_back`."""
        self._cancelled_meanwhile.clear()
        self.remote_ends.put_back(batch.watches)
        self._outbox.put_back(batch, error)

    def owned(self, member: int) -> set[tuple[str, int]]:
        """See `RoundSource.owned`."""
        owned = [*self._fetched.values(), *self._running.values(), *self._again.values()]
        owned += [moved.owned for moved in self._outbox.moves]
        return {(owned.job.id, owned.fetches) for owned in owned if owned.member == member}

    def _want(self, local: LocalJobs) -> Want:
        here = (self._fetched, self._running, self._again)
        if self._suspects:
            self._suspects = {id_ for id_ in self._suspects if any(id_ in jobs for jobs in here)}
        owned = (each.job for jobs in here for each in jobs.values())
        return local.want(owned, ended=self._per_round, suspect=not self._suspects)

    def _begun_long_ago(self) -> list[str]:
        """The jobs that run for so long that other servers should see it."""
        if not self._unnoted:
            return []
        now = time.monotonic()
        long = takewhile(lambda job_id: now - self._unnoted[job_id] >= _LONG, self._unnoted)
        return [job_id for job_id in long if job_id not in self._cut]

    def _note_left(self, want: Want, fetched: Sequence[OwnedJob]) -> None:
        """Note whether a fetch may have left jobs that this server wants later."""
        if not want.number or self._local is None:
            return
        self._left_some = (
            not want.suspect
            or self._local.is_narrow(want)
            or any(owned.job.interruptions for owned in fetched)
            or any(
                sum(owned.job.type == type_ for owned in fetched) >= number
                for type_, number in want.limits.items()
            )
        )

    def _take_up(self, owned: OwnedJob) -> None:
        """Hand a fetched job to the workers, or give it back if that is too late."""
        job_id = owned.job.id
        if owned.job.interruptions:
            self._suspects.add(job_id)
        if job_id in self._cancelled_meanwhile:
            owned = owned._replace(job=cancel_requested(owned.job, self._now()))
        if job_id in self._running and not self._keeps_pending:
            self._again[job_id] = owned
            return
        assert self._local is not None  # noqa: S101  (for the type checker: it was fetched)
        if self._keeps_pending or not self._local.take_up(owned.job):
            self._record(owned, owned.job)
        else:
            self._fetched[job_id] = owned

    def _note_recorded(self, moved: Moved, *, counts: bool) -> None:
        """A move has landed; or it does not count, since another server has the job."""
        job = moved.owned.job
        if job.status is COMPLETED:
            assert self._local is not None  # noqa: S101  (for the type checker)
            self._ending.pop(job.id, None)
            if len(self._ending) == MAX_UNRECORDED_ENDS:
                self._fewer_ends.set()
                self._fewer_ends = trio.Event()
            self._local.note_end(job, counts=counts)
            if counts and moved.show is not None:
                moved.show(job)
        if moved.has_run and not counts:
            log.warning("end_refused", extra={"job_id": job.id, "job_type": job.type})
        self.remote_ends.watch(job.id)

    # What workers wait for.

    @property
    def is_behind(self) -> bool:
        return len(self._ending) > MAX_UNRECORDED_ENDS

    def begins_later(self, job: Job) -> bool:
        if job.cancel_requested:
            return False
        return bool(job.interruptions) or not self._repeatable(job.type)

    async def begun(self, job: Job) -> Job:
        job_id = job.id
        owned = self._running[job_id]
        if not self.begins_later(job):
            return job
        if job_id in self._cut:
            return job  # nobody begins it
        del self._unnoted[job_id]
        event = self._outbox.record_begin(owned)
        self._pump.wake()
        try:
            await event.wait()
        except BaseException:
            self._not_begun.add(job_id)
            self._outbox.drop_begin(job_id)
            raise
        return self._running[job_id].job

    async def caught_up(self) -> None:
        while self.is_behind:
            await self._fewer_ends.wait()

    async def settled(self) -> None:
        event = self._outbox.settling()
        if event is not None:
            self._pump.wake()
            await event.wait()

    # The jobs that are here.

    def find_nowait(self, job_id: str) -> Job:
        for jobs in (self._running, self._fetched):
            if (owned := jobs.get(job_id)) is not None:
                return owned.job
        if (job := self._released.get(job_id) or self._unrecorded.get(job_id)) is not None:
            return job
        raise JobNotFoundError(f"no unfinished job {job_id!r} here")

    def find_key_nowait(self, text: str) -> Job | None:  # noqa: ARG002
        """None: the database knows the keys."""
        return None

    def _owned_job(self, job_id: str) -> Job | None:
        if (owned := self._running.get(job_id)) is not None and job_id not in self._cut:
            return owned.job
        if (owned := self._fetched.get(job_id) or self._again.get(job_id)) is not None:
            return owned.job
        return self._unrecorded.get(job_id)

    def unfinished(self) -> UnfinishedJobs:
        # Each copied in one call: no other thread can change the dict within it.
        jobs = {owned.job.id: owned.job for owned in list(self._fetched.values())}
        jobs |= {owned.job.id: owned.job for owned in list(self._running.values())}
        jobs |= self._released.copy() | self._cut_off.copy()
        begun = (self._released.keys() - self._not_begun) | self._cut_off.keys()
        return UnfinishedJobs.of(jobs.values(), released=begun)

    def unwritten_ends(self) -> list[str]:
        """The ids of the jobs that have ended, and whose ends are not recorded."""
        return sorted(self._ending.copy())

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            pending=len(self._fetched),
            processing=len(self._running),
            completed=0,
            completed_bytes=0,
            dropped=self.dropped.copy(),
        )

    def _find_running(self, job_id: str, wanted: JobStatus) -> OwnedJob:
        owned = self._running.get(job_id)
        if owned is None:
            refuse(self.find_nowait(job_id), PROCESSING, wanted)
        return owned


def _is_wanted(job: Job, want: Want) -> bool:
    """Whether this server can run a new job at once; the limits are left to the round."""
    if not want.number or job.run_at is not None or job.type in want.without:
        return False
    return want.types is None or job.type in want.types
