"""A pool over a file that is a dict: the tests let each commit through, or refuse it."""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import cast

import msgspec.structs
import trio

from tests.support import HttpSettings, PoolSettings, StoreSettings, noon
from trio_jobs import Ending, Handler, Job, JobStatus, Outcome
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.job import JobError, Later
from trio_jobs.pool.durable_admission import DurableAdmission
from trio_jobs.pool.ids import is_id
from trio_jobs.pool.job_query import JobQuery, Order
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.recovered_jobs import schedule_recovered
from trio_jobs.pool.store import DuplicateJobError
from trio_jobs.pool.wiring import make_pool
from trio_jobs.pool.worker import Workers
from trio_jobs.stores.durable_store import DurableStore
from trio_jobs.stores.sqlite.retention import Kept

File = dict[int, Job]

TIMEOUT = 10.0
MAX_INTERRUPTIONS = 3
ONCE = "once"  # a type whose jobs may not run twice
INTERRUPTED = Ending(
    outcome=Outcome.INTERRUPTED, error=JobError(type="Interrupted", message="crash")
)


@dataclass(kw_only=True)
class Entry:
    """Records that were handed over together."""

    records: Sequence[tuple[int, Job | None]]
    landed: Callable[[], None]
    refused: Callable[[Exception], None] | None
    mark: tuple[str, str] | None = None


@dataclass(kw_only=True)
class StepJournal:
    """A journal whose commits the test makes, one by one.

    Attributes:
        file: What a crash leaves.
        failing: See `JournalPort`.
        dropped: See there; this journal keeps all.
        oldest_unwritten_seconds: See there.
        entries: What is not written yet.
        marks: The texts that a crash leaves.
        lets_wait: Whether the functions of `meanwhile` wait until the test calls `make_calls`.
    """

    file: File = field(default_factory=dict)
    failing: tuple[float, str] | None = None
    dropped: Mapping[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    oldest_unwritten_seconds: float = 0.0
    entries: list[Entry] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)
    changed: trio.Event = field(default_factory=trio.Event)
    lets_wait: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)

    def meanwhile(self, call: Callable[[], None]) -> None:
        self.waiting.append(call)
        if not self.lets_wait:
            self.make_calls()

    def make_calls(self) -> None:
        """Call what waits while the disk is busy."""
        calls, self.waiting = self.waiting, []
        for call in calls:
            call()

    def append(
        self,
        records: Sequence[tuple[int, Job | None]],
        *,
        landed: Callable[[], None],
        refused: Callable[[Exception], None] | None = None,
        mark: tuple[str, str] | None = None,
    ) -> None:
        self.entries.append(Entry(records=records, landed=landed, refused=refused, mark=mark))
        self._wake()

    @property
    def unwritten(self) -> int:
        return sum(len(entry.records) for entry in self.entries)

    @property
    def kept(self) -> Kept:
        kept = Kept()
        for job in self.file.values():
            if job.outcome is not None:
                kept = kept.changed(job.outcome, job.size, 1)
        return kept

    async def settled(self) -> None:
        mine = list(self.entries)
        while any(entry in self.entries for entry in mine):
            await self.changed.wait()

    def write(self, number: int | None = None) -> Callable[[], None]:
        """Commit the first entries, or all; return what the loop is to call afterwards."""
        entries, self.entries = self.entries[:number], self.entries[len(self.entries[:number]) :]
        calls: list[Callable[[], None]] = []
        for entry in entries:
            error = self._duplicate(entry)
            if error is not None:
                assert entry.refused is not None
                refused = entry.refused
                calls.append(lambda refused=refused, error=error: refused(error))  # type: ignore[misc]
                continue
            if entry.mark is not None:
                self.marks.update([entry.mark])
            for seq, job in entry.records:
                if job is None:
                    self.file.pop(seq, None)
                else:
                    self.file[seq] = job
            calls.append(entry.landed)

        def call() -> None:
            for each in calls:
                each()
            self._wake()

        return call

    def commit(self, number: int | None = None) -> None:
        """Commit the first entries, or all, and say so in the loop."""
        self.write(number)()

    def refuse(self, text: str = "database or disk is full") -> None:
        """Let a commit fail: what can be refused is refused, and the rest stays."""
        refused = [entry for entry in self.entries if entry.refused is not None]
        self.entries = [entry for entry in self.entries if entry.refused is None]
        for entry in refused:
            if entry.refused is not None:
                entry.refused(OSError(text))
        self._wake()

    async def run(self, steps: int = 0) -> None:
        """Commit all that comes, each so many steps of this task later; for ever."""
        while True:
            while not self.entries:
                await self.changed.wait()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            call = self.write()
            await trio.lowlevel.checkpoint()
            call()

    def _duplicate(self, entry: Entry) -> DuplicateJobError | None:
        for seq, job in entry.records:
            if job is None or seq in self.file:
                continue
            for other in self.file.values():
                same_key = job.key is not None and other.key is not None
                if other.id == job.id or (same_key and other.key.text == job.key.text):  # type: ignore[union-attr]
                    return DuplicateJobError("UNIQUE constraint failed")
        return None

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReader:
    """Reads the dict, as slowly as a thread would."""

    file: File
    many: list[int] = field(default_factory=list)  # how many jobs each `find_many` was asked for

    async def find_many(self, job_ids: Collection[str]) -> list[tuple[int, Job]]:
        self.many.append(len(job_ids))
        wanted = set(job_ids)
        return [(seq, job) for seq, job in (await self._all()).items() if job.id in wanted]

    async def find_keys(self, texts: Collection[str]) -> list[Job]:
        wanted = set(texts)
        found = await self._all()
        return [job for job in found.values() if job.key is not None and job.key.text in wanted]

    async def page(self, query: JobQuery, *, after: str | None, limit: int) -> list[Job]:
        # The file may have an unfinished job with the status that it had a moment ago.
        unfinished = bool(query.statuses) and JobStatus.COMPLETED not in query.statuses
        jobs = replace(query, statuses=()).select((await self._all()).values())
        jobs = [job for job in jobs if not (unfinished and job.outcome)]
        backwards = query.order is not Order.OLDEST
        jobs.sort(key=query.position, reverse=backwards)
        if after is not None:
            jobs = [job for job in jobs if (query.position(job) < after) == backwards]
            jobs = [job for job in jobs if query.position(job) != after]
        return jobs[:limit]

    async def count(self, query: JobQuery) -> tuple[Counter[tuple[str, Outcome]], list[Job]]:
        jobs = replace(query, statuses=()).select((await self._all()).values())
        return (
            Counter((job.type, job.outcome) for job in jobs if job.outcome is not None),
            [job for job in jobs if job.outcome is None],
        )

    async def _all(self) -> File:
        await trio.lowlevel.checkpoint()
        found = dict(self.file)
        await trio.lowlevel.checkpoint()
        return found


def recovered(file: File) -> File:
    """The file as a start leaves it: nothing in it is processing."""
    found: File = {}
    for seq, job in file.items():
        if job.status is JobStatus.PROCESSING:
            interruptions = job.interruptions + 1
            job = msgspec.structs.replace(job, interruptions=interruptions)
            if job.type == ONCE or interruptions >= MAX_INTERRUPTIONS:
                job = msgspec.structs.replace(
                    job,
                    status=JobStatus.COMPLETED,
                    ending=INTERRUPTED,
                    completed_at=job.started_at,
                    last_error=None,
                )
            else:
                job = msgspec.structs.replace(job, status=JobStatus.PENDING, started_at=None)
        found[seq] = job
    return found


def open_store(
    file: File | None = None,
    *,
    now: Callable[[], datetime] = noon,
    timeout: float = TIMEOUT,
    soon: Callable[[Callable[[], None]], object] | None = None,
) -> tuple[DurableStore, StepJournal]:
    """A store over what is left of this file, with its journal."""
    journal = StepJournal(file=recovered(file or {}))
    pending = [(seq, job) for seq, job in sorted(journal.file.items()) if job.outcome is None]
    store = DurableStore(
        journal,
        StepReader(file=journal.file),
        pending,
        last_seq=max(journal.file, default=0),
        repeatable=lambda type_: type_ != ONCE,
        timeout=timeout,
        now=now,
        soon=soon,
    )
    return store, journal


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableParts:
    """A pool over a file, and both ends of its channel."""

    send: trio.MemorySendChannel[str]
    receive: trio.MemoryReceiveChannel[str]
    store: DurableStore
    journal: StepJournal
    pool: Pool

    @property
    def admission(self) -> DurableAdmission:
        return cast("DurableAdmission", self.pool.admission)

    @property
    def file(self) -> Mapping[int, Job]:
        return self.journal.file

    def in_file(self, job_id: str) -> Job | None:
        """The job's record in the file."""
        return next((job for job in self.file.values() if job.id == job_id), None)


def make_durable_parts(
    handlers: Mapping[str, Handler] | None = None,
    *,
    file: File | None = None,
    workers: int = 2,
    buffer_size: int = 100,
    max_waiting: int = 10_000,
    keeps_pending: bool = True,
    now: Callable[[], datetime] = noon,
) -> DurableParts:
    """The parts that `main` wires, over a file, without HTTP; nothing runs."""
    send, receive = trio.open_memory_channel[str](buffer_size + workers)
    soon = trio.lowlevel.current_trio_token().run_sync_soon
    store, journal = open_store(file, now=now, soon=soon)
    left = store.unfinished()
    jobs = sorted([*left.not_begun, *left.waiting], key=lambda job: job.id)
    registry = HandlerRegistry(handlers or {})
    pool = make_pool(
        registry,
        send,
        store,
        PoolSettings(
            workers=workers,
            buffer_size=buffer_size,
            max_waiting=max_waiting,
            drain="running" if keeps_pending else "all",
        ),
        StoreSettings(max_result_bytes=1_000_000),
        HttpSettings(),
        last_id=max((job.id for job in journal.file.values() if is_id(job.id)), default=""),
        now=now,
    )
    schedule_recovered(jobs, pool.schedule, registry)
    return DurableParts(send=send, receive=receive, store=store, journal=journal, pool=pool)


def start_pool(
    parts: DurableParts,
    nursery: trio.Nursery,
    process: Callable[[Job], Awaitable[Ending | Later]] | None = None,
) -> None:
    """Start the pool's workers, with this process or the handlers, and its schedule."""
    workers = parts.pool.workers
    if process is not None:
        workers = Workers(
            workers.moves,
            lambda: nullcontext(process),
            capacity=parts.pool.capacity,
            waiters=parts.pool.waiters,
            schedule=parts.pool.schedule,
            show=parts.pool.workers._show,
        )
    for n in range(parts.pool.worker_tasks.number):
        nursery.start_soon(workers.run, parts.receive.clone(), name=f"worker-{n}")
    parts.receive.close()
    nursery.start_soon(parts.pool.run_schedule, name="schedule")


def replaced(parts: DurableParts, **changes: object) -> DurableParts:
    """The parts with some of them replaced."""
    return replace(parts, **changes)  # type: ignore[arg-type]
