"""streaQ on asyncio, its default; many are enqueued by its own call for that, in one pipeline."""

import os
from contextlib import AsyncExitStack

from streaq import Worker

from bench.peers import tally

worker = Worker(redis_url=os.environ["BENCH_URL"], concurrency=10)
_open = AsyncExitStack()


@worker.task
async def empty() -> None:
    tally.count()


@worker.task
async def stamp(sent: float) -> None:
    tally.arrived(sent)


async def connect() -> None:
    await _open.enter_async_context(worker)


async def submit_many(count: int) -> None:
    await worker.enqueue_many([empty.enqueue() for _ in range(count)])


async def submit() -> None:
    await empty.enqueue()


async def submit_stamped(sent: float) -> None:
    await stamp.enqueue(sent)
