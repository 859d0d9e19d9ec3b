"""taskiq with taskiq-redis' stream broker, without the results backend: our jobs have no result."""

import asyncio
import os

from taskiq_redis import RedisStreamBroker

from bench.peers import tally

broker = RedisStreamBroker(url=os.environ["BENCH_URL"])


@broker.task
async def empty() -> None:
    tally.count()


@broker.task
async def stamp(sent: float) -> None:
    tally.arrived(sent)


async def connect() -> None:
    await broker.startup()


async def submit_many(count: int) -> None:
    # Each of them under way takes a connection: not all at once.
    for start in range(0, count, 100):
        await asyncio.gather(*(empty.kiq() for _ in range(min(100, count - start))))


async def submit() -> None:
    await empty.kiq()


async def submit_stamped(sent: float) -> None:
    await stamp.kiq(sent)
