"""Dramatiq with Redis: one process with ten threads. Many are enqueued one after the other."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers import tally

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_URL"]))


@dramatiq.actor
def empty() -> None:
    tally.count()


@dramatiq.actor
def stamp(sent: float) -> None:
    tally.arrived(sent)


async def connect() -> None:
    pass


def submit_many(count: int) -> None:
    for _ in range(count):
        empty.send()


def submit() -> None:
    empty.send()


def submit_stamped(sent: float) -> None:
    stamp.send(sent)
