"""Rows 5, 7 and 8: the pool without HTTP, beside the bare memory channel."""

import gc
import sys
import time
from dataclasses import dataclass
from functools import partial

import trio
import trio.testing

from bench.children import python_module
from bench.measuring import Spread, resident_bytes, take_turns
from bench.row import Result, Row, at_least, at_most
from bench.workload import empty
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.pool.wiring import make_pool
from trio_jobs.settings import HttpSettings, PoolSettings, StoreSettings
from trio_jobs.stores.memory import MemoryStore

_DEFAULT_BOUNDS = StoreSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPool:
    """A pool, and the receive end of its channel."""

    pool: Pool
    store: MemoryStore
    receive: trio.MemoryReceiveChannel[str]

    @classmethod
    def of(
        cls,
        *,
        workers: int,
        buffer_size: int,
        bounds: StoreSettings = _DEFAULT_BOUNDS,
        ui: bool = False,
    ) -> "BenchPool":
        """A pool as `open_jobs` has it; with ``ui`` it counts its jobs, as the command's does."""
        send, receive = trio.open_memory_channel[str](buffer_size + workers)
        store = MemoryStore(bounds, now=utc_now)
        pool = make_pool(
            HandlerRegistry({"default": Handler.of(empty)}),
            send,
            store,
            PoolSettings(workers=workers, buffer_size=buffer_size),
            bounds,
            HttpSettings(ui=ui),
        )
        return cls(pool=pool, store=store, receive=receive)

    @property
    def admission(self) -> Admission:
        """The pool's admission."""
        return self.pool.admission

    def start_workers(self, nursery: trio.Nursery) -> None:
        """Start the workers, each on its own clone."""
        for _ in range(self.pool.worker_tasks.number):
            nursery.start_soon(self.pool.workers.run, self.receive.clone())
        self.receive.close()


def measure_jobs(*, jobs: int = 20_000, workers: int = 10, turns: int = 15) -> list[Result]:
    """Measure row 5: the CPU of a job beside that of an item of the memory channel.

    Args:
        jobs: How many go through in a turn.
        workers: How many take them.
        turns: How often both sides have their turn.
    """
    job, item = "trio-jobs, in process", "an item of the channel"
    values = take_turns(
        {
            job: lambda: trio.run(_jobs, jobs, workers),
            item: lambda: trio.run(_items, jobs, workers),
        },
        turns=turns,
    )
    what = f"submit → completed in the process, {workers} workers, jobs/s"
    names = (5, what, "the bare memory channel, filled first")
    reach = at_least(0.3)
    return [Row.of_turns(names, values, over=item, under=job, reach=reach, unit=" µs")]


def measure_workers(*, jobs: int = 30_000, turns: int = 5) -> list[Result]:
    """Measure row 7: the CPU of a job beside many workers, all of them waiting.

    Args:
        jobs: How many go through in a turn.
        turns: How often each number of workers has its turn.
    """
    subjects = {
        f"{workers:,} workers": partial(trio.run, _jobs, jobs, workers, True)
        for workers in (10, 100, 1_000, 10_000)
    }
    values = take_turns(subjects, turns=turns)
    names = (7, "cost per job with 10,000 workers", "with 10")
    many, few = "10,000 workers", "10 workers"
    reach = at_most(1.5)
    return [Row.of_turns(names, values, over=many, under=few, reach=reach, unit=" µs")]


def measure_memory(*, jobs: int = 200_000, turns: int = 3) -> list[Result]:
    """Measure row 8: the memory of a pending job, in a process that does nothing else.

    Args:
        jobs: How many pending jobs the process gets.
        turns: How many processes are measured.
    """
    values = []
    for _ in range(turns):
        with python_module("bench.pool", str(jobs)) as child:
            values.append(int(child.wait_for(r"^grown by (\d+)")[1]) / jobs)
    return [
        Row(
            number=8,
            what="memory per pending job with a 100-byte payload",
            against=f"growth of the process over {jobs:,} of them",
            figure=Spread.of(values),
            reach=at_most(700, " bytes"),
            unit=" bytes",
        )
    ]


async def _jobs(jobs: int, workers: int, workers_first: bool = False) -> float:
    """Microseconds of CPU per job, from its submission to its end."""
    gc.collect()
    pool = BenchPool.of(workers=workers, buffer_size=jobs)
    async with trio.open_nursery() as nursery:
        if workers_first:
            pool.start_workers(nursery)
            await trio.testing.wait_all_tasks_blocked()
        began = time.process_time()
        for _ in range(jobs):
            pool.admission.submit("email", b"null")
        pool.admission.close()
        if not workers_first:
            pool.start_workers(nursery)
    return (time.process_time() - began) / jobs * 1e6


async def _items(items: int, tasks: int) -> float:
    """Microseconds of CPU per item of a memory channel."""

    async def receive_all(receive: trio.MemoryReceiveChannel[str]) -> None:
        with receive:
            async for _ in receive:
                pass

    gc.collect()
    send, receive = trio.open_memory_channel[str](items)
    began = time.process_time()
    for _ in range(items):
        send.send_nowait("an id")
    send.close()
    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(receive_all, receive.clone())
        receive.close()
    return (time.process_time() - began) / items * 1e6


async def _fill(jobs: int) -> int:
    """Bytes by which this process grows with so many pending jobs."""
    pool = BenchPool.of(workers=10, buffer_size=jobs + 1)
    pool.admission.submit("email", b"null")
    before = resident_bytes()
    for number in range(jobs):
        pool.admission.submit("email", b'"%098d"' % number)
    return resident_bytes() - before


if __name__ == "__main__":
    print(f"grown by {trio.run(_fill, int(sys.argv[1]))}")
