"""taskiq with taskiq-redis' stream broker, without a results backend."""

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


connect, submit, submit_stamped = broker.startup, empty.kiq, stamp.kiq
