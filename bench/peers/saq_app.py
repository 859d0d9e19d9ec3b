"""SAQ, as its README shows it. There is no call that enqueues many at once."""

import asyncio
import os

from saq import Queue

from bench.peers import tally

queue = Queue.from_url(os.environ["BENCH_URL"])


async def empty(_: object) -> None:
    tally.count()


async def stamp(_: object, *, sent: float) -> None:
    tally.arrived(sent)


settings = {"queue": queue, "functions": [empty, stamp], "concurrency": 10}


async def connect() -> None:
    await queue.connect()


async def submit_many(count: int) -> None:
    await asyncio.gather(*(queue.enqueue("empty") for _ in range(count)))


async def submit() -> None:
    await queue.enqueue("empty")


async def submit_stamped(sent: float) -> None:
    await queue.enqueue("stamp", sent=sent)
