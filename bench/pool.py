"""The core without HTTP, put together as `main` does it; and the bare channel beside it."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import trio

from bench.workload import empty
from trio_jobs.admission import Submissions
from trio_jobs.config import HttpConfig, StoreConfig
from trio_jobs.handlers import Handler, Handlers, Processor
from trio_jobs.ids import Uuid7
from trio_jobs.job import Job
from trio_jobs.places import Places
from trio_jobs.store import JobStore
from trio_jobs.waiting import Completions
from trio_jobs.worker import run_worker

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """Channel, store, admission and what a worker is given."""

    submissions: Submissions
    receive: trio.MemoryReceiveChannel[str]
    store: JobStore
    process: Processor

    @classmethod
    def of(cls, *, workers: int, buffer_size: int, keep_completed: int | None = None) -> "Core":
        """The parts, with the defaults of the configuration for what is not given."""
        defaults = StoreConfig()
        now = partial(datetime.now, UTC)
        send, receive = trio.open_memory_channel[str](buffer_size)
        places = Places()
        completions = Completions(max_waiters=HttpConfig().max_waiters)

        def completed(job: Job) -> None:
            completions.note(job)
            places.note_completion()

        store = JobStore(
            now=now,
            keep_completed=defaults.keep_completed if keep_completed is None else keep_completed,
            keep_completed_bytes=defaults.keep_completed_bytes,
            claimed=places.note_claim,
            completed=completed,
        )
        return cls(
            submissions=Submissions(send, store, places=places, new_id=Uuid7(), now=now),
            receive=receive,
            store=store,
            process=Processor(
                Handlers({"default": Handler.of(empty)}),
                workers=workers,
                max_result_bytes=defaults.max_result_bytes,
            ),
        )

    def start_workers(self, nursery: trio.Nursery, workers: int) -> None:
        """Start the workers, each on its clone."""
        for _ in range(workers):
            nursery.start_soon(run_worker, self.receive.clone(), self.store, self.process)
        self.receive.close()


def core_seconds(*, jobs: int, workers: int, clock: Clock = time.perf_counter) -> float:
    """From the first submission to the last completion, the buffer filled first."""

    async def run() -> float:
        core = Core.of(workers=workers, buffer_size=jobs)
        began = clock()
        for _ in range(jobs):
            core.submissions.submit("email", b"null")
        core.submissions.close()
        async with trio.open_nursery() as nursery:
            core.start_workers(nursery, workers)
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
