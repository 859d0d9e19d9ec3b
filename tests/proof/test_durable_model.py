"""The store over a file, the store in memory and a dictionary: they agree, crashes included.

The test makes each commit itself: into a dict, or into a file of SQLite. A crash takes back what is
not committed.
"""

import contextlib
import math
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec.structs
import pytest
import trio
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.durable import MAX_INTERRUPTIONS, ONCE, StepJournal, open_store
from tests.proof.share import examples_of_round, rounds, share_of
from tests.support import NOON, Later, MemoryStore, StoreError, StoreSettings, make_job
from trio_jobs import Ending, IdempotencyKey, Job, JobError, JobStatus, Outcome
from trio_jobs.pool.store import DuplicateJobError
from trio_jobs.stores.durable_store import DurableStore
from trio_jobs.stores.sqlite.reads import FileReader
from trio_jobs.stores.sqlite.record_writer import RecordWriter
from trio_jobs.stores.sqlite.recovery import RecoveryRule, recover
from trio_jobs.stores.sqlite.retention import Kept, Retention
from trio_jobs.stores.sqlite.store_file import StoreFile, open_store_file

T = TypeVar("T")
PENDING, PROCESSING, COMPLETED = JobStatus

some_number = st.integers(0, 5)
some_outcome = st.sampled_from([Outcome.SUCCEEDED, Outcome.FAILED])


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the model knows of a job."""

    type: str
    status: JobStatus = PENDING
    attempts: int = 0
    snoozes: int = 0
    interruptions: int = 0
    cancel_requested: bool = False
    outcome: Outcome | None = None
    run_at: datetime | None = None
    key: str | None = None
    rerun_as: str | None = None

    @classmethod
    def of(cls, job: Job) -> "Record":
        return cls(
            type=job.type,
            status=job.status,
            attempts=job.attempts,
            snoozes=job.snoozes,
            interruptions=job.interruptions,
            cancel_requested=job.cancel_requested,
            outcome=job.outcome,
            run_at=job.run_at,
            key=None if job.key is None else job.key.text,
            rerun_as=job.rerun_as,
        )


@dataclass(kw_only=True)
class Change:
    """What one call hands over: the records, whether they may be refused, and who is cancelled."""

    records: dict[str, Record | None]
    is_submission: bool = False
    cancelled: str | None = None


@dataclass(kw_only=True)
class Model:
    """A store as one would first write it.

    Attributes:
        live: The jobs that moves can find; one that has ended is here until its end is written.
        disk: What a crash leaves.
        changes: What is not written.
        before_cancel: The jobs whose cancel is not written, as they were before it.
        released: The jobs that this process hands out no more.
        refused: The submissions that were refused, in order; True for one that came in.
    """

    live: dict[str, Record] = field(default_factory=dict)
    disk: dict[str, Record] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    before_cancel: dict[str, Record] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    accepted: list[bool] = field(default_factory=list)

    def move(self, job_id: str, **changes: Any) -> None:  # noqa: ANN401
        self.live[job_id] = replace(self.live[job_id], **changes)
        self.changes.append(Change(records={job_id: self.live[job_id]}))

    def cancel(self, job_id: str, now: datetime) -> None:
        before = self.live[job_id]
        self.before_cancel.setdefault(job_id, before)
        run_at = before.run_at and min(before.run_at, now)
        self.move(job_id, cancel_requested=True, run_at=run_at)
        self.changes[-1].cancelled = job_id

    def allows(self, job_id: str, *statuses: JobStatus) -> bool:
        return job_id in self.live and self.live[job_id].status in statuses

    def write(self, number: int) -> None:
        written, self.changes = self.changes[:number], self.changes[number:]
        for change in written:
            if change.cancelled is not None:
                self.before_cancel.pop(change.cancelled, None)
            new = [each for key, each in change.records.items() if key not in self.disk]
            keys = {record.key for record in new if record is not None and record.key}
            taken = {record.key for record in self.disk.values()}
            if change.is_submission:
                self.accepted.append(not keys & taken)
                if keys & taken:
                    continue
            for job_id, record in change.records.items():
                if record is None:
                    self.disk.pop(job_id, None)
                    continue
                self.disk[job_id] = record
                if record.outcome is not None:
                    self.live.pop(job_id, None)
                elif change.is_submission:
                    self.live[job_id] = record

    def refuse(self) -> None:
        self.accepted += [False for change in self.changes if change.is_submission]
        self.changes = [change for change in self.changes if not change.is_submission]

    def crash(self) -> None:
        self.changes, self.released, self.before_cancel = [], set(), {}
        for job_id, record in self.disk.items():
            if record.status is not PROCESSING:
                continue
            died = replace(record, status=PENDING, interruptions=record.interruptions + 1)
            if record.type == ONCE or died.interruptions >= MAX_INTERRUPTIONS:
                died = replace(died, status=COMPLETED, outcome=Outcome.INTERRUPTED)
            self.disk[job_id] = died
        self.live = {key: each for key, each in self.disk.items() if each.outcome is None}

    def shown(self) -> dict[str, Record]:
        """What clients see."""
        seen = dict(self.disk)
        for job_id, record in self.live.items():
            seen[job_id] = record
            if record.outcome is not None:
                seen[job_id] = replace(record, status=PROCESSING, outcome=None)
        return seen | self.before_cancel


class SqliteJournal(StepJournal):
    """A `StepJournal` that writes a file of SQLite."""

    def __init__(self, file: StoreFile, kept: Kept) -> None:
        super().__init__()
        self.store_file = file
        self._retention = Retention(StoreSettings(), kept=kept, now=lambda: NOON)  # keeps all
        self._writer = RecordWriter(file.connection, self._retention)

    @property
    def kept(self) -> Kept:
        return self._retention.kept

    def write(self, number: int | None = None) -> Callable[[], None]:
        entries, self.entries = self.entries[:number], self.entries[len(self.entries[:number]) :]
        calls: list[Callable[[], None]] = []
        for entry in entries:
            try:
                self._writer.write(entry.records, [entry.mark] if entry.mark else [])
            except sqlite3.IntegrityError:
                assert entry.refused is not None
                refused = entry.refused
                calls.append(lambda refused=refused: refused(DuplicateJobError("UNIQUE")))  # type: ignore[misc]
            else:
                calls.append(entry.landed)

        def call() -> None:
            for each in calls:
                each()
            self._wake()

        return call


class DictMachine(RuleBasedStateMachine):
    """Each rule: the model says whether the stores must allow it, then all do it."""

    ways: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.wall_clock = NOON
        self.accepted: list[bool] = []
        self.made = 0
        self.begin()
        self._refill_memory()

    # What the file is: in this class a dict.

    def begin(self) -> None:
        self.store, self.journal = open_store(now=self._now)

    def reopen(self) -> None:
        self.store, self.journal = open_store(self.journal.file, now=self._now)

    def _now(self) -> datetime:
        return self.wall_clock

    def _run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Commit all, and await something over a disk that answers at once."""
        self.commit_all()
        found: list[T] = []
        refused: list[StoreError] = []

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.journal.run)
                try:
                    found.append(await call())
                except StoreError as error:
                    refused.append(error)
                nursery.cancel_scope.cancel()

        trio.run(main)
        for error in refused:
            raise error
        return found[0]

    def _refill_memory(self) -> None:
        self.memory = MemoryStore(StoreSettings(), now=self._now)
        jobs = self.store.unfinished()
        for job in sorted([*jobs.not_begun, *jobs.waiting], key=lambda job: job.id):
            self.memory.add(msgspec.structs.replace(job, rerun_of=None))

    def _some(self, number: int, *statuses: JobStatus) -> str:
        ids = [key for key, each in self.model.live.items() if each.status in statuses]
        return ids[number % len(ids)] if ids else "unknown"

    # The disk.

    @rule(number=st.integers(1, 3))
    def commit_some(self, number: int) -> None:
        self.model.write(number)
        self.journal.commit(number)

    @rule()
    def commit_all(self) -> None:
        self.model.write(len(self.model.changes))
        self.journal.commit()

    @rule()
    def disk_is_full(self) -> None:
        self.ways["refused"] += any(change.is_submission for change in self.model.changes)
        self.model.refuse()
        self.journal.refuse()

    @precondition(lambda self: self.model.live)
    @rule()
    def crash(self) -> None:
        self.ways["unwritten"] += bool(self.model.changes)
        before = sum(record.outcome is Outcome.INTERRUPTED for record in self.model.disk.values())
        self.model.crash()
        after = sum(record.outcome is Outcome.INTERRUPTED for record in self.model.disk.values())
        self.ways["interrupted"] += after > before
        self.ways["suspect"] += any(each.interruptions for each in self.model.live.values())
        self.accepted.clear()
        self.model.accepted.clear()
        self.reopen()
        self._refill_memory()

    @precondition(lambda self: len(self.model.live) > 2)
    @rule()
    def stop(self) -> None:
        """As the end of a pool does: release what runs, write all, end."""
        for job_id in [key for key, each in self.model.live.items() if each.status is PROCESSING]:
            self.release(job_id)
        self.commit_all()
        interruptions = sum(each.interruptions for each in self.model.disk.values())
        self.crash()
        assert interruptions == sum(each.interruptions for each in self.model.disk.values())

    # New jobs.

    @rule(
        types=st.lists(st.sampled_from(["t", ONCE]), min_size=1, max_size=3),
        delay=st.none() | st.integers(1, 100),
        key=st.none() | st.sampled_from(["k0", "k1"]),
    )
    def submit(self, types: list[str], delay: int | None, key: str | None) -> None:
        run_at = None if delay is None else self.wall_clock + timedelta(seconds=delay)
        jobs: list[Job] = []
        for type_ in types:
            job = make_job(f"{self.made:06}", type=type_, payload=b"%d" % self.made)
            named = IdempotencyKey(text=key, digest=b"d") if key and not jobs else None
            jobs.append(msgspec.structs.replace(job, run_at=run_at, key=named))
            self.made += 1
        self._hand_over(jobs, {})

    @rule(types=st.lists(st.sampled_from(["t", "t", ONCE]), min_size=2, max_size=5))
    def submit_and_claim(self, types: list[str]) -> None:
        """Few sequences would have these calls by themselves."""
        self.submit(types, None, None)
        self.commit_all()
        for number in range(len(types) - 1):
            self.claim(number, PENDING)
        self.commit_some(len(types) - 2)

    @precondition(lambda self: self.model.disk)
    @rule(number=some_number)
    def rerun(self, number: int) -> None:
        failed = [
            key
            for key, each in self.model.disk.items()
            if each.outcome not in (None, Outcome.SUCCEEDED) and key not in self.model.live
        ]
        if not failed:
            return
        old_id = failed[number % len(failed)]
        seq, old = self._run(lambda: self.store.find_stored(old_id))
        job = msgspec.structs.replace(make_job(f"{self.made:06}", type="t"), rerun_of=old_id)
        self.made += 1
        with allowed(self.model.disk[old_id].rerun_as is None):
            self._hand_over([job], {old_id: (seq, old)})
            self.ways["rerun"] += 1

    def _hand_over(self, jobs: list[Job], reruns: dict[str, tuple[int, Job]]) -> None:
        def landed() -> None:
            self.accepted.append(True)
            for job in jobs:
                self.memory.add(msgspec.structs.replace(job, rerun_of=None))

        self.store.add_all(
            jobs, reruns=reruns, landed=landed, refused=lambda _: self.accepted.append(False)
        )
        records: dict[str, Record | None] = {
            old_id: replace(self.model.disk[old_id], rerun_as=jobs[0].id) for old_id in reruns
        }
        records |= {job.id: Record.of(job) for job in jobs}
        self.model.changes.append(Change(records=records, is_submission=True))

    # The moves.

    @rule(seconds=st.integers(-100, 100))
    def set_the_wall_clock(self, seconds: int) -> None:
        self.wall_clock += timedelta(seconds=seconds)

    @rule(number=some_number, status=st.sampled_from([PENDING, PENDING, PROCESSING, COMPLETED]))
    def claim(self, number: int, status: JobStatus) -> None:
        job_id = self._some(number, status)
        may = self.model.allows(job_id, PENDING) and job_id not in self.model.released
        self._both(may, lambda store: store.claim(job_id))
        if may:
            attempts = self.model.live[job_id].attempts + 1
            self.model.move(job_id, status=PROCESSING, attempts=attempts, run_at=None)

    @rule(number=some_number, status=st.sampled_from([PROCESSING, PROCESSING, PENDING, COMPLETED]))
    def complete(self, number: int, status: JobStatus, outcome: Outcome = Outcome.FAILED) -> None:
        self._complete(self._some(number, status), outcome)

    @rule(number=some_number, outcome=some_outcome)
    def process(self, number: int, outcome: Outcome) -> None:
        """Few sequences would have these calls by themselves."""
        self.claim(number, PENDING)
        self._complete(self._some(number, PROCESSING), outcome)

    def _complete(self, job_id: str, outcome: Outcome) -> None:
        may = self.model.allows(job_id, PROCESSING)
        error = None if outcome is Outcome.SUCCEEDED else JobError(type="E", message="m")
        ending = Ending(outcome=outcome, error=error)
        self._both(may, lambda store: store.complete(job_id, ending, duration=1.0))
        if may:
            self.model.move(job_id, status=COMPLETED, outcome=outcome)

    @rule(number=some_number, seconds=st.integers(0, 100), snooze=st.booleans())
    def postpone(self, number: int, seconds: int, snooze: bool) -> None:
        job_id = self._some(number, PROCESSING)
        may = self.model.allows(job_id, PROCESSING)
        later = Later(seconds=seconds, snooze=snooze)
        self._both(may, lambda store: store.postpone(job_id, later))
        if may:
            record = self.model.live[job_id]
            self.model.move(
                job_id,
                status=PENDING,
                attempts=record.attempts - snooze,
                snoozes=record.snoozes + snooze,
                run_at=self.wall_clock
                + timedelta(seconds=0 if record.cancel_requested else seconds),
            )

    @rule(number=some_number)
    def release_one(self, number: int) -> None:
        self.release(self._some(number, PROCESSING))

    @rule(number=some_number)
    def cut_off_before_it_begins(self, number: int) -> None:
        self.claim(number, PENDING)
        job_id = self._some(number, PROCESSING)
        if not self.model.allows(job_id, PROCESSING):
            return
        waits = False

        async def begin() -> None:
            nonlocal waits
            with trio.CancelScope() as scope:
                scope.cancel()
                await self.store.begun(self.store.find_nowait(job_id))
            waits = scope.cancelled_caught

        trio.run(begin)
        self.release(job_id, begun=not waits)

    def release(self, job_id: str, *, begun: bool = True) -> None:
        may = self.model.allows(job_id, PROCESSING)
        ends = may and begun and self.model.live[job_id].type == ONCE
        if ends:
            self.store.release(job_id)
            self.memory.complete(job_id, Ending(outcome=Outcome.INTERRUPTED))
            self.model.move(job_id, status=COMPLETED, outcome=Outcome.INTERRUPTED)
            self.ways["cut off"] += 1
            return
        self._both(may, lambda store: store.release(job_id))
        if may:
            self.model.released.add(job_id)
            attempts = self.model.live[job_id].attempts - 1
            self.model.move(job_id, status=PENDING, attempts=attempts)

    @rule(number=some_number, status=st.sampled_from(JobStatus))
    def request_cancel(self, number: int, status: JobStatus) -> None:
        job_id = self._some(number, status)
        may = self.model.allows(job_id, PENDING, PROCESSING)
        self._both(may, lambda store: store.request_cancel_nowait(job_id))
        if may:
            self.model.cancel(job_id, self.wall_clock)

    @precondition(lambda self: self.model.disk)
    @rule(number=some_number)
    def delete(self, number: int) -> None:
        job_id = list(self.model.disk)[number % len(self.model.disk)]
        may = self.model.shown()[job_id].outcome is not None or (
            job_id in self.model.live and self.model.live[job_id].outcome is not None
        )
        with allowed(may):
            self._run(lambda: self.store.delete(job_id))
        if may:
            del self.model.disk[job_id]
            with contextlib.suppress(StoreError):  # it may have ended in an earlier process
                self.memory.delete_nowait(job_id)

    def _both(self, may: bool, call: Callable[[Any], object]) -> None:
        for store in (self.store, self.memory):
            with allowed(may):
                call(store)

    # What must be so at each moment.

    @invariant()
    def clients_see_what_the_model_has(self) -> None:
        shown = self.model.shown()

        async def look() -> tuple[dict[str, Job], dict[str, Job], dict[str, Job]]:
            page = await self.store.page(limit=1000)
            found = {job_id: await self.store.find(job_id) for job_id in shown}
            return {job.id: job for job in page}, found, await self.store.find_keys(["k0", "k1"])

        page, found, keys = trio.run(look)
        assert {job_id: Record.of(job) for job_id, job in found.items()} == shown
        assert list(page) == sorted(shown)
        assert {key: job.status for key, job in page.items()} == {
            key: each.status for key, each in shown.items()
        }
        assert {text: job.id for text, job in keys.items()} == {
            each.key: key for key, each in shown.items() if each.key is not None
        }
        for job_id, job in found.items():
            assert job.payload in (b"%d" % int(job_id), b"null")
            times = [time for time in (job.created_at, job.started_at, job.completed_at) if time]
            assert times == sorted(times)

    @invariant()
    def memory_agrees(self) -> None:
        memory = {job.id: Record.of(job) for job in self.memory.page_nowait(limit=1000)}
        for job_id, record in self.model.live.items():
            assert memory.pop(job_id) == record
        for job_id, record in memory.items():  # these have ended in this process
            if job_id in self.model.disk:
                assert replace(self.model.disk[job_id], rerun_as=None) == record

    @invariant()
    def the_counts_agree(self) -> None:
        live = self.model.live.values()
        statistics = self.store.statistics()
        assert statistics.pending == sum(each.status is PENDING for each in live)
        assert statistics.processing == sum(each.status is PROCESSING for each in live)
        assert statistics.completed == sum(
            each.outcome is not None for each in self.model.disk.values()
        )
        assert self.store.unwritten_ends() == sorted(
            key for key, each in self.model.live.items() if each.outcome is not None
        )
        assert len(self.store) == len(self.model.live)

    @invariant()
    def submissions_are_told_the_truth(self) -> None:
        assert self.accepted == self.model.accepted


class FileMachine(DictMachine):
    """The same over a file of SQLite; a crash is the end of its connection."""

    def begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name, "jobs.db")
        self._open()

    def reopen(self) -> None:
        self._close()
        self._open()

    def _open(self) -> None:
        self.file = open_store_file(self.path, sync="normal")  # the process dies, not the machine
        recovered = recover(
            self.file,
            lambda type_: RecoveryRule(
                repeatable=type_ != ONCE, max_interruptions=MAX_INTERRUPTIONS
            ),
            now=self._now(),
        )
        self.journal = SqliteJournal(self.file, recovered.kept)
        self.reader = FileReader(self.file)
        self.store = DurableStore(
            self.journal,
            self.reader,
            [*recovered.pending, *recovered.suspects],
            last_seq=recovered.last_seq,
            repeatable=lambda type_: type_ != ONCE,
            timeout=10.0,
            now=self._now,
        )

    def _close(self) -> None:
        self.reader.close()
        self.file.connection.close()
        self.file.close()

    def teardown(self) -> None:
        self._close()
        self._folder.cleanup()


@contextlib.contextmanager
def allowed(may: bool) -> Generator[None]:
    """The block must run through exactly if the model says so."""
    try:
        yield
    except StoreError:
        assert not may
    else:
        assert may


@pytest.mark.parametrize(("machine", "examples"), [(DictMachine, 75), (FileMachine, 40)])
def test_stores_agree_with_the_model(machine: type[DictMachine], examples: int) -> None:
    class Counted(machine):  # type: ignore[misc, valid-type]
        ways: ClassVar[Counter[str]] = Counter()

    wanted = {"refused", "unwritten", "interrupted", "suspect", "rerun", "cut off"}
    # Which sequences Hypothesis makes depends on what else is imported: a round may miss a way.
    for number in rounds(8):
        seed(number)(Counted)
        run_state_machine_as_test(
            Counted,
            settings=settings(max_examples=examples_of_round(examples), stateful_step_count=40),
        )
        seen = {way for way, count in Counted.ways.items() if count > 1}
        if seen >= wanted:
            return
    # Else they agree in what does not happen.
    assert seen >= wanted, Counted.ways


@pytest.mark.soak
@pytest.mark.parametrize("machine", [DictMachine, FileMachine])
def test_other_sequences_agree_with_the_model(machine: type[DictMachine]) -> None:
    others = settings(
        max_examples=math.ceil(share_of(1000)),
        stateful_step_count=80,
        derandomize=False,
        print_blob=True,
    )
    run_state_machine_as_test(machine, settings=others)
