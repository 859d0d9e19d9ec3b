"""A database, a pump and a pool of one server, as far as `SharedStore` sees them; without waiting.

`FakeDatabase` keeps the fence, and `Server` makes the rounds as the pump does: a round whose answer
is lost is repeated, and fetches nothing then.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from msgspec.structs import replace as changed

from tests.support import NOON
from trio_jobs.job import Ending, Job, JobStatus, Outcome
from trio_jobs.pool.refusals import StoreWriteError
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.pool.want import NOTHING, Want
from trio_jobs.stores.postgres.round import Batch, NewJobs, OwnedJob, RoundResult
from trio_jobs.stores.shared_store import SharedStore

INTERRUPTED = Ending(outcome=Outcome.INTERRUPTED)


@dataclass
class Row:
    """A job in the database.

    Attributes:
        job: The job; its status is pending until it has completed.
        owner: The membership that has it; 0 for none.
        fetches: How often it was fetched.
        watchers: The members that are told of its end.
    """

    job: Job
    owner: int = 0
    fetches: int = 0
    watchers: set[int] = field(default_factory=set)


class FakeDatabase:
    """The jobs of all servers.

    Attributes:
        now: The wall clock.
        rows: By id.
        members: The memberships that there are.
        put_in: How often there was a new pending job: members are told of each.
        notes: Which member is to be told of which end.
        max_interruptions: After how many losses a job ends.
        repeatable: Whether jobs of a type may run again.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: NOON) -> None:
        self.now = now
        self.rows: dict[str, Row] = {}
        self.members: set[int] = set()
        self.notes: list[tuple[int, str]] = []
        self.put_in = 0
        self.max_interruptions = 3
        self.repeatable: Callable[[str], bool] = lambda _: True
        self._last_member = 0

    def join(self) -> int:
        """A new membership."""
        self._last_member += 1
        self.members.add(self._last_member)
        return self._last_member

    def sweep(self, member: int) -> None:
        """Put back, or end, the jobs of a member that is gone."""
        self.members.discard(member)
        for row in self.rows.values():
            if row.owner != member:
                continue
            row.owner = 0
            self.put_in += 1
            job = row.job
            if not self.repeatable(job.type) and job.started_at is None:
                continue
            lost = job.interruptions + 1
            if not self.repeatable(job.type) or lost >= self.max_interruptions:
                row.job = changed(
                    job, status=JobStatus.COMPLETED, ending=INTERRUPTED, interruptions=lost
                )
                self._tell(row)
            else:
                row.job = changed(job, started_at=None, interruptions=lost)

    def round(self, member: int, batch: Batch) -> RoundResult:
        """Commit a round of a member; 0 if it has no membership."""
        moved = [each.owned.job.id for each in batch.moves]
        assert len(moved) == len(set(moved)), "a round moves a job once"
        assert {owned.job.id for owned in batch.begun}.isdisjoint(moved)
        is_member = member in self.members
        fenced = [each.owned.job.id for each in batch.moves if not self._move(each.owned)]
        fenced += [owned.job.id for owned in batch.begun if not self._begin(owned)]
        for job_id in batch.cancels:
            self.cancel(job_id)
        over = [job_id for job_id in batch.watches if not self._watch(job_id, member)]
        want = batch.want if is_member else NOTHING
        fetched = self._fetch(member, want)
        here = len(fetched)
        taken = [new for new in batch.new if self._take_in(new)]
        rooms = dict(want.limits)
        for owned in fetched:
            if owned.job.type in rooms and not owned.job.cancel_requested:
                rooms[owned.job.type] -= 1
        for new in taken:
            for job, fetchable in zip(new.jobs, new.fetchable, strict=True):
                row = self.rows[job.id]
                fits = here < want.number and rooms.get(job.type, 1) > 0
                if fetchable and fits and not row.fetches:
                    self._own(row, member)
                    here += 1
                    if job.type in rooms:
                        rooms[job.type] -= 1
                if row.owner == member and is_member:
                    fetched.append(OwnedJob(row.job, member, row.fetches))
                else:
                    self.put_in += 1
        count = sum(row.job.ending is None for row in self.rows.values())
        return RoundResult(
            fenced=fenced,
            fetched=fetched,
            taken=taken,
            over=over,
            unfinished=min(count, batch.count_to) if batch.count_to else None,
        )

    def owned(self, member: int) -> list[OwnedJob]:
        """What a member has."""
        return [
            OwnedJob(row.job, member, row.fetches)
            for row in self.rows.values()
            if row.owner == member
        ]

    def cancel(self, job_id: str) -> int:
        """Request the cancel of a job; return which member has it."""
        row = self.rows[job_id]
        if row.job.ending is None:
            row.job = changed(row.job, cancel_requested=True)
        return row.owner

    def _move(self, owned: OwnedJob) -> bool:
        row = self.rows[owned.job.id]
        if (row.owner, row.fetches) != (owned.member, owned.fetches):
            same = row.owner == 0 and row.fetches == owned.fetches
            return same and (row.job.ending, row.job.completed_at, row.job.attempts) == (
                owned.job.ending,
                owned.job.completed_at,
                owned.job.attempts,
            )
        cancel = row.job.cancel_requested or owned.job.cancel_requested
        row.owner = 0
        row.job = changed(owned.job, cancel_requested=cancel)
        if row.job.ending is not None:
            self._tell(row)
        else:
            self.put_in += 1
        return True

    def _tell(self, row: Row) -> None:
        self.notes += [(member, row.job.id) for member in row.watchers]

    def _begin(self, owned: OwnedJob) -> bool:
        row = self.rows[owned.job.id]
        if (row.owner, row.fetches) != (owned.member, owned.fetches):
            return False
        row.job = changed(row.job, started_at=owned.job.started_at)
        return True

    def _watch(self, job_id: str, member: int) -> bool:
        row = self.rows.get(job_id)
        if row is None or row.job.ending is not None:
            return False
        row.watchers.add(member)
        return True

    def _fetch(self, member: int, want: Want) -> list[OwnedJob]:
        fetched: list[OwnedJob] = []
        rooms, suspect = dict(want.limits), want.suspect
        for _, row in sorted(self.rows.items()):
            job = row.job
            if row.owner or job.ending is not None or len(fetched) >= want.number:
                continue
            if job.run_at is not None and job.run_at > self.now():
                continue
            if not job.cancel_requested:
                if want.types is not None and job.type not in want.types:
                    continue
                if job.type in want.without or rooms.get(job.type, 1) <= 0:
                    continue
                if job.interruptions and not suspect:
                    continue
                suspect = suspect and not job.interruptions
                if job.type in rooms:
                    rooms[job.type] -= 1
            self._own(row, member)
            fetched.append(OwnedJob(row.job, member, row.fetches))
        return fetched

    def _own(self, row: Row, member: int) -> None:
        row.owner = member
        row.fetches += 1

    def _take_in(self, new: NewJobs) -> bool:
        if all(job.id in self.rows for job in new.jobs):
            return True  # the answer was lost
        keys = {row.job.key.text for row in self.rows.values() if row.job.key is not None}
        if any(job.key is not None and job.key.text in keys for job in new.jobs):
            return False
        for job in new.jobs:
            self.rows[job.id] = Row(job)
        return True


class FakeReaders:
    """Reads nothing."""

    async def fetch(self, sql: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        raise AssertionError


class FakeLocal:
    """The pool of a server: ids in a channel, and workers that only count.

    Attributes:
        workers: How many there are.
        limits: By type, how many jobs may be here.
        channel: The ids, in order.
        stale: Of these, by id, those of jobs that are not here any more.
        cancelled: The jobs whose handlers were cancelled.
        closed: Whether no job is taken up any more.
    """

    def __init__(self, workers: int, limits: Mapping[str, int]) -> None:
        self.workers = workers
        self.limits = limits
        self.channel: deque[str] = deque()
        self.stale: Counter[str] = Counter()
        self.cancelled: set[str] = set()
        self.refused: list[Job] = []
        self.closed = False
        self.counts_soon = False
        self.unfinished: int | None = None

    def want(self, owned: Iterable[Job], *, ended: float, suspect: bool) -> Want:
        jobs = list(owned)
        here = Counter(job.type for job in jobs if not job.cancel_requested)
        rooms = {type_: limit - here[type_] for type_, limit in self.limits.items()}
        without = sorted(type_ for type_, room in rooms.items() if room <= 0)
        limits = {type_: room for type_, room in rooms.items() if room > 0}
        number = self.workers + 1 - len(jobs)
        return (
            Want(number, without=without, limits=limits, suspect=suspect) if number > 0 else NOTHING
        )

    def count_to(self, *, new: int, fetched: int) -> int:
        self.counts_soon = False
        return 1_000

    def is_limited(self, type: str) -> bool:  # noqa: A002
        return type in self.limits

    def is_narrow(self, want: Want) -> bool:
        return bool(want.without)

    def take_up(self, job: Job) -> bool:
        if not self.closed:
            self.channel.append(job.id)
        return not self.closed

    def let_go(self, job: Job) -> None:
        self.stale[job.id] += 1

    def note_end(self, job: Job, *, counts: bool) -> None:
        if not counts:
            self.refused.append(job)

    def note_cancel(self, job_id: str) -> None:
        self.cancelled.add(job_id)

    def note_beat(self) -> None:
        """Nobody waits for room."""

    def note_unfinished(self, number: int) -> None:
        self.unfinished = number


class FakePump:
    """Makes the rounds of one server, as its pump does; and keeps its membership.

    Attributes:
        database: Where the rounds are committed.
        store: Whose rounds they are.
        member: The membership; 0 while there is none.
        round: The round that was taken, and is not landed.
        in_doubt: Whether that was sent.
        awake: Whether the store has asked for a round since the last one.
    """

    failing = None
    hangs = False

    def __init__(self, database: FakeDatabase) -> None:
        self.database = database
        self.store: SharedStore
        self.member = database.join()
        self.round: Batch | None = None
        self.in_doubt = False
        self.awake = False
        self._sent_by = 0
        self._may_fetch = True

    def use(self, store: SharedStore) -> None:
        """Make the rounds of this store."""
        self.store = store
        store.use(self)

    # What the store asks.

    def wake(self) -> None:
        self.awake = True

    def hint(self, first_id: str | None) -> None:
        self._may_fetch = True
        self.wake()

    async def request(self, sql: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        raise AssertionError

    # What a test does.

    def send(self, *, answered: bool = True, loses: bool = False) -> bool:
        """Make a round, or repeat it; return False if there is nothing to do.

        Args:
            answered: Whether the answer arrives.
            loses: Whether the lease runs out before it does.
        """
        if self.round is None:
            self.awake = False
            self.round = self.store.take(may_fetch=self._may_fetch)
        batch = self.round
        if batch is None:
            return False
        fetched: Sequence[OwnedJob] = ()
        if self.in_doubt:
            if self.member and self.member == self._sent_by:
                known = self.store.owned(self.member)
                known |= {(job.id, 1) for new in batch.new for job in new.jobs}
                owned = self.database.owned(self.member)
                fetched = [owned for owned in owned if (owned.job.id, owned.fetches) not in known]
            batch = batch._replace(want=NOTHING)
        elif batch.want.number:
            self._may_fetch = False
        self.in_doubt, self._sent_by = True, self.member
        answer = self.database.round(self.member, batch)
        if loses:
            self.lose()
        if answered:
            self.in_doubt, self.round = False, None
            found = [*fetched, *answer.fetched]
            if batch.want.number and len(found) >= batch.want.number:
                self._may_fetch = True
            found = found if self.member == self._sent_by else []
            self.store.landed(batch, replace(answer, fetched=found))
        return True

    def refuse(self) -> None:
        """The database refuses to write the round."""
        if self.in_doubt:
            return
        batch, self.round = self.round or self.store.take(may_fetch=self._may_fetch), None
        if batch is not None:
            self.store.put_back(batch, StoreWriteError("the disk is full"))

    def hear(self) -> None:
        """The notifications arrive."""
        mine = [job_id for member, job_id in self.database.notes if member == self.member]
        self.database.notes = [note for note in self.database.notes if note[0] != self.member]
        self.store.remote_ends.note_over(mine)

    def listen_anew(self) -> None:
        """The connection of the notifications was lost, and with it some of these."""
        self.database.notes = [note for note in self.database.notes if note[0] != self.member]
        self.store.remote_ends.watch_all()

    def lose(self) -> None:
        """The lease runs out."""
        member, self.member = self.member, 0
        if member:
            self.store.lost(member)

    def rejoin(self) -> None:
        """Join anew."""
        assert not self.member
        self.member = self.database.join()
        self.listen_anew()
        self.hint(None)


class Server(FakePump):
    """One server, whose workers are the test.

    Attributes:
        local: The pool.
        waiters: Who waits for jobs.
    """

    def __init__(
        self, database: FakeDatabase, *, workers: int = 2, limits: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(database)
        self.local = FakeLocal(workers, limits or {})
        store = SharedStore(
            FakeReaders(), repeatable=database.repeatable, timeout=10.0, now=lambda: NOON
        )
        self.use(store)
        self.waiters = CompletionWaiters(max_waiters=100, watch=store.watch)
        store.connect(self.local, self.waiters)

    def claim(self) -> Job | None:
        """A worker claims the next job; None if there is none, or it is not here any more."""
        if not self.local.channel:
            return None
        job_id = self.local.channel.popleft()
        if self.local.stale[job_id]:
            self.local.stale[job_id] -= 1
            return None
        return self.store.claim(job_id)
