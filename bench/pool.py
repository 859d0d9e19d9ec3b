"""The core and its workers without HTTP; and the bare channel beside it."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from bench.workload import empty
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.pool import Pool, make_pool, utc_now
from trio_jobs.settings import HttpSettings, PoolSettings, StoreSettings
from trio_jobs.stores.memory import MemoryStore

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPool:
    """The core, and the channel's end that its workers are started on."""

    pool: Pool
    store: MemoryStore
    receive: trio.MemoryReceiveChannel[str]

    @classmethod
    def of(
        cls, *, workers: int, buffer_size: int, keep_completed: int | None = None
    ) -> "BenchPool":
        """The parts, with the defaults of the configuration for what is not given."""
        bounds = (
            StoreSettings()
            if keep_completed is None
            else StoreSettings(keep_completed=keep_completed)
        )
        send, receive = trio.open_memory_channel[str](buffer_size + workers)
        store = MemoryStore(bounds, now=utc_now)
        pool = make_pool(
            HandlerRegistry({"default": Handler.of(empty)}),
            send,
            store,
            PoolSettings(workers=workers, buffer_size=buffer_size),
            max_result_bytes=bounds.max_result_bytes,
            max_waiters=HttpSettings().max_waiters,
        )
        return cls(pool=pool, store=store, receive=receive)

    @property
    def admission(self) -> Admission:
        """Where jobs come in."""
        return self.pool.admission

    def start_workers(self, nursery: trio.Nursery) -> None:
        """Start the workers, each on its clone."""
        for _ in range(self.pool.workers):
            nursery.start_soon(self.pool.work, self.receive.clone())
        self.receive.close()


def core_seconds(*, jobs: int, workers: int, clock: Clock = time.perf_counter) -> float:
    """From the first submission to the last completion, the buffer filled first."""

    async def run() -> float:
        pool = BenchPool.of(workers=workers, buffer_size=jobs)
        submit = pool.admission.submit
        began = clock()
        for _ in range(jobs):
            submit("email", b"null")
        pool.admission.close()
        async with trio.open_nursery() as nursery:
            pool.start_workers(nursery)
        return clock() - began

    gc.collect()
    return trio.run(run)


def channel_seconds(*, jobs: int, workers: int, clock: Clock = time.perf_counter) -> float:
    """The same with nothing but the memory channel."""

    async def receive_all(receive: trio.MemoryReceiveChannel[str]) -> None:
        with receive:
            async for _ in receive:
                pass

    async def run() -> float:
        send, receive = trio.open_memory_channel[str](jobs)
        began = clock()
        for _ in range(jobs):
            send.send_nowait("an id")
        send.close()
        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(receive_all, receive.clone())
            receive.close()
        return clock() - began

    gc.collect()
    return trio.run(run)


def scope_seconds(*, jobs: int, clock: Clock = time.perf_counter) -> float:
    """One cancel scope for each job, with nothing in it."""

    async def run() -> float:
        began = clock()
        for _ in range(jobs):
            with trio.CancelScope():  # noqa: ASYNC100  (nothing but the scope is measured)
                pass
        return clock() - began

    gc.collect()
    return trio.run(run)
