"""Pools of servers over one database that is a dict: the tests make the rounds, or a task does."""

import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import trio
from trio.testing import wait_all_tasks_blocked

from tests.stores.fake_rounds import FakeDatabase, FakePump, FakeReaders
from trio_jobs import Handler, Job
from trio_jobs.handlers.registry import HandlerRegistry, UnknownTypeError
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.wall_clock import wall_clock
from trio_jobs.pool.wiring import make_pool
from trio_jobs.settings import (
    MAX_WORKERS,
    HttpSettings,
    MetricsSettings,
    PoolSettings,
    StoreSettings,
)
from trio_jobs.stores.postgres.membership import Membership
from trio_jobs.stores.shared_store import SharedStore

TIMEOUT = 10.0


class FoundStore(SharedStore):
    """A store that finds the jobs of others in the dict."""

    async def find_many(self, job_ids: Collection[str]) -> list[Job]:
        await trio.lowlevel.checkpoint()
        pump = self._pump
        assert isinstance(pump, TaskPump)
        rows = pump.database.rows
        return [rows[job_id].job for job_id in job_ids if job_id in rows]


class TaskPump(FakePump):
    """Makes rounds in a task, at once when there is something to do.

    Attributes:
        is_away: Whether the database does not answer: then no round is made.
        seconds: How long a round takes.
        landed: Set when the next round has landed.
    """

    def __init__(self, database: FakeDatabase) -> None:
        super().__init__(database)
        self.is_away = False
        self.seconds = 0.0
        self.landed = trio.Event()
        self._awake = trio.Event()
        self._others: list[TaskPump] = []

    def wake(self) -> None:
        self._awake.set()

    def come_back(self) -> None:
        """The database answers again."""
        self.is_away = False
        self.hint(None)

    async def run(self) -> None:
        """Make rounds, for ever."""
        while True:
            self._awake = trio.Event()
            await trio.lowlevel.checkpoint()
            before = self.database.put_in
            if self.seconds and not self.is_away and self.round is None:
                self.round = self.store.take(may_fetch=self._may_fetch)
                await trio.sleep(self.seconds if self.round else 0)
            if not self.is_away and self.send():
                for each in (self, *self._others):
                    each.hear()
                    if self.database.put_in > before:
                        each.hint(None)
                self.landed.set()
                self.landed = trio.Event()
                continue
            with trio.move_on_after(self._seconds_to_next()) as time:
                await self._awake.wait()
            self._may_fetch |= time.cancelled_caught

    def notify(self, *others: "TaskPump") -> None:
        """Tell other servers after each round that there may be jobs, and ends."""
        self._others += others

    def _seconds_to_next(self) -> float:
        times = [row.job.run_at for row in self.database.rows.values() if not row.owner]
        later = [
            (at - self.database.now()).total_seconds()
            for at in times
            if at is not None and at > self.database.now()
        ]
        return max(min(later, default=math.inf), 0.001)


@dataclass
class SharedPool:
    """A server's pool.

    Attributes:
        pool: The pool.
        pump: Makes the rounds.
        membership: The lease, which does not run out by itself.
        receive: The job channel's receive end, if no worker runs.
    """

    pool: Pool
    pump: TaskPump
    membership: Membership
    receive: trio.MemoryReceiveChannel[str]

    @property
    def store(self) -> SharedStore:
        return self.pump.store

    @property
    def database(self) -> FakeDatabase:
        return self.pump.database

    async def submit(self, *types: str) -> list[Job]:
        """Submit jobs, one by one."""
        return [await self.pool.admission.admit(JobSpec(each, b"null")) for each in types]

    def lose(self) -> None:
        """The lease runs out."""
        self.membership.lost()
        self.pump.lose()

    def rejoin(self) -> None:
        """Join anew."""
        self.pump.rejoin()
        self.membership.joined(self.pump.member, math.inf)

    def start(self, nursery: trio.Nursery) -> None:
        """Start the workers, the schedule and the rounds."""
        self.pool.worker_tasks.open(nursery)
        for _ in range(self.pool.worker_tasks.number):
            self.pool.worker_tasks.start(self.receive.clone())
        self.receive.close()
        nursery.start_soon(self.pool.run_schedule)


def make_shared_pool(
    handlers: Mapping[str, Handler],
    database: FakeDatabase | None = None,
    *,
    workers: int = 2,
    buffer_size: int = 4,
    max_open: int = 100,
    now: Callable[[], datetime] | None = None,
) -> SharedPool:
    """The parts of a server's pool, connected; nothing runs."""
    now = now or wall_clock()
    database = database or FakeDatabase(now)
    registry = HandlerRegistry(handlers)
    send, receive = trio.open_memory_channel[str](buffer_size + MAX_WORKERS)

    def is_repeatable(type_: str) -> bool:
        try:
            return registry.find(type_).repeatable
        except UnknownTypeError:
            return True

    database.repeatable = is_repeatable
    store = FoundStore(
        FakeReaders(),
        repeatable=is_repeatable,
        timeout=TIMEOUT,
        now=now,
        clock=trio.current_time,
    )
    pump = TaskPump(database)
    pump.use(store)
    membership = Membership(lambda _: None)
    membership.joined(pump.member, math.inf)
    pool = make_pool(
        registry,
        send,
        store,
        PoolSettings(workers=workers, buffer_size=buffer_size),
        StoreSettings(max_open=max_open),
        HttpSettings(),
        MetricsSettings(),
        lease=membership,
        now=now,
    )
    return SharedPool(pool, pump, membership, receive)


@asynccontextmanager
async def running(*servers: SharedPool) -> AsyncIterator[trio.Nursery]:
    """Servers that run, and tell each other of jobs and ends, until the block ends."""
    async with trio.open_nursery() as pumps:
        async with trio.open_nursery() as nursery:
            for server in servers:
                server.pump.notify(*(each.pump for each in servers if each is not server))
                pumps.start_soon(server.pump.run)
                pumps.start_soon(server.store.remote_ends.run)
                server.start(nursery)
            await wait_all_tasks_blocked()
            yield nursery
            for server in servers:
                server.pool.admission.close()
        pumps.cancel_scope.cancel()
