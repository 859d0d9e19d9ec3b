"""The stores that `test_contract` compares, each with the moves that a pool makes in it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import trio

from tests.postgres.databases import Database
from tests.support import (
    HandlerRegistry,
    HttpSettings,
    MemoryStore,
    PoolSettings,
    StoreSettings,
)
from trio_jobs import Ending, Handler, Job
from trio_jobs.job import Later
from trio_jobs.pool.store import KeepingStore, Store
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.pool.want import Want
from trio_jobs.pool.wiring import make_pool
from trio_jobs.store_in_file import RecoveredFile

if TYPE_CHECKING:
    from trio_jobs.pool.pool import Pool
    from trio_jobs.stores.durable_store import DurableStore
    from trio_jobs.stores.shared_store import SharedStore

BOUNDS = StoreSettings(keep_completed=1_000, keep_failed=1_000, keep_completed_bytes=1_000_000)


def run_once(payload: object) -> None:
    """The handler of jobs that may not run twice; no worker calls it."""


class Subject(ABC):
    """Some jobs, and all stores that show them.

    The methods raise what the stores raise. They return when all stores show the change.

    Attributes:
        stores: Each has the same answers.
    """

    stores: Sequence[Store]

    @abstractmethod
    async def submit(self, job: Job) -> None:
        """Take in a new job; it may re-run one that is there."""

    @abstractmethod
    async def claim(self, job_id: str) -> None:
        """Begin a job that is due."""

    @abstractmethod
    async def complete(self, job_id: str, ending: Ending) -> None:
        """End a job that has begun."""

    @abstractmethod
    async def postpone(self, job_id: str, later: Later) -> None:
        """Put back a job that has begun."""


class InMemory(Subject):
    """The store in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore(BOUNDS, now=utc_now)
        self.stores = [self.store]

    async def submit(self, job: Job) -> None:
        self.store.add(job)

    async def claim(self, job_id: str) -> None:
        self.store.claim(job_id)

    async def complete(self, job_id: str, ending: Ending) -> None:
        self.store.complete(job_id, ending)

    async def postpone(self, job_id: str, later: Later) -> None:
        self.store.postpone(job_id, later)


class Landing:
    """Waits until jobs are in, or refused."""

    def __init__(self) -> None:
        self._over = trio.Event()
        self._error: Exception | None = None

    def landed(self) -> None:
        self._over.set()

    def refused(self, error: Exception) -> None:
        self._error = error
        self._over.set()

    async def wait(self) -> None:
        await self._over.wait()
        if self._error is not None:
            raise self._error


class Kept(Subject):
    """A store whose moves are shown when they are kept."""

    @abstractmethod
    def store_of(self, job_id: str) -> "KeepingStore":
        """The store in which the moves of this job are made."""

    async def claim(self, job_id: str) -> None:
        store = self.store_of(job_id)
        job = store.claim(job_id)
        assert job is not None
        assert store.disk is not None
        await store.disk.begun(job)

    async def complete(self, job_id: str, ending: Ending) -> None:
        over = trio.Event()
        self.store_of(job_id).complete(job_id, ending, show=lambda _: over.set())
        await over.wait()

    async def postpone(self, job_id: str, later: Later) -> None:
        store = self.store_of(job_id)
        store.postpone(job_id, later)
        assert store.disk is not None
        await store.disk.settled()


class InFile(Kept):
    """The store in a file."""

    def __init__(self, store: "DurableStore") -> None:
        self.store = store
        self.stores = [store]

    def store_of(self, job_id: str) -> "DurableStore":
        return self.store

    async def submit(self, job: Job) -> None:
        old = [] if job.rerun_of is None else [job.rerun_of]
        reruns = await self.store.find_all_stored(old)
        landing = Landing()
        self.store.add_all([job], reruns=reruns, landed=landing.landed, refused=landing.refused)
        await landing.wait()


class Here:
    """The jobs that one server has fetched: a `LocalJobs` without workers.

    Args:
        arrived: Called with each.
    """

    counts_soon = False

    def __init__(self, arrived: Callable[[str], None]) -> None:
        self._arrived = arrived

    def want(self, owned: Iterable[Job], *, ended: float, suspect: bool) -> Want:
        return Want(100, suspect=suspect)

    def count_to(self, *, new: int, fetched: int) -> int:
        return 0

    def is_limited(self, type: str) -> bool:  # noqa: A002  (the field's name)
        return False

    def is_narrow(self, want: Want) -> bool:
        return False

    def take_up(self, job: Job) -> bool:
        self._arrived(job.id)
        return True

    def let_go(self, job: Job) -> None:
        """Do nothing: only the goodbye gives jobs back."""

    def note_end(self, job: Job, *, counts: bool) -> None:
        assert counts

    def note_unfinished(self, number: int) -> None:
        raise AssertionError("nobody has asked")

    def note_cancel(self, job_id: str) -> None:
        """Do nothing: no handler runs."""

    def note_beat(self) -> None:
        """Do nothing."""


class InDatabase(Kept):
    """The stores of several servers over one database; either may fetch a job."""

    def __init__(self) -> None:
        self.shared: list[SharedStore] = []
        self._here: dict[str, SharedStore] = {}
        self._some_arrived = trio.Event()
        self._turn = 0

    def join(self, store: "SharedStore") -> None:
        """Add a server's store."""
        self.shared.append(store)
        self.stores = self.shared

        def arrived(job_id: str) -> None:
            self._here[job_id] = store
            self._some_arrived.set()
            self._some_arrived = trio.Event()

        store.connect(Here(arrived), CompletionWaiters(max_waiters=1, watch=store.watch))

    def store_of(self, job_id: str) -> "SharedStore":
        return self._here[job_id]

    async def submit(self, job: Job) -> None:
        self._turn += 1
        landing = Landing()
        self.shared[self._turn % len(self.shared)].submit(
            [job], landed=landing.landed, refused=landing.refused
        )
        await landing.wait()

    async def claim(self, job_id: str) -> None:
        while job_id not in self._here:
            await self._some_arrived.wait()
        await super().claim(job_id)

    async def complete(self, job_id: str, ending: Ending) -> None:
        await super().complete(job_id, ending)
        del self._here[job_id]

    async def postpone(self, job_id: str, later: Later) -> None:
        store = self._here.pop(job_id)
        store.postpone(job_id, later)
        await store.settled()


@asynccontextmanager
async def in_file(path: Path) -> AsyncIterator[InFile]:
    """The store in a new file, whose jobs may not run twice."""
    once = HandlerRegistry({"default": Handler.of(run_once, repeatable=False)})
    opened = RecoveredFile(path, once, BOUNDS, now=utc_now).open(failed=print)
    send, receive = trio.open_memory_channel[str](20)
    pool = make_pool(once, send, opened.store, PoolSettings(), BOUNDS, HttpSettings())
    opened.start(pool)
    with send, receive:
        yield InFile(opened.store)
        assert await opened.close(pool, seconds=60)


@asynccontextmanager
async def in_database(database: Database) -> AsyncIterator[InDatabase]:
    """The stores of two servers, whose jobs may not run twice, over an emptied database."""
    from trio_jobs.store_in_database import StoreInDatabase  # few runs need it

    await database.fetch("truncate trio_jobs.jobs, trio_jobs.members")
    once = HandlerRegistry({"default": Handler.of(run_once, repeatable=False)})
    settings = StoreSettings(url=database.url)
    subject, failures = InDatabase(), list[Exception]()
    async with AsyncExitStack() as stack:
        for _ in range(2):
            opened = StoreInDatabase(settings, once, failed=failures.append)
            subject.join(opened.store)
            no_pool = cast("Pool", None)  # nothing is asked of it
            await stack.enter_async_context(opened.around(no_pool))
        yield subject
    if failures:
        raise failures[0]
