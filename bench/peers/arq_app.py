"""arq, as its documentation shows it. There is no call that enqueues many at once."""

import asyncio
import os

from arq import ArqRedis, create_pool
from arq.connections import RedisSettings

from bench.peers import tally

_settings = RedisSettings.from_dsn(os.environ["BENCH_URL"])
_redis: ArqRedis


async def empty(_: object) -> None:
    tally.count()


async def stamp(_: object, sent: float) -> None:
    tally.arrived(sent)


class WorkerSettings:
    functions = (empty, stamp)
    redis_settings = _settings
    max_jobs = 10


async def connect() -> None:
    global _redis
    _redis = await create_pool(_settings)


async def submit_many(count: int) -> None:
    # Each of them under way takes a connection: not all at once.
    for start in range(0, count, 100):
        await asyncio.gather(*(_redis.enqueue_job("empty") for _ in range(min(100, count - start))))


async def submit() -> None:
    await _redis.enqueue_job("empty")


async def submit_stamped(sent: float) -> None:
    await _redis.enqueue_job("stamp", sent)
