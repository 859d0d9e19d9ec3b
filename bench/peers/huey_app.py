"""Huey with SQLite. There is no call that enqueues many at once."""

import os

from huey import SqliteHuey

from bench.peers import tally

huey = SqliteHuey(filename=os.environ["BENCH_FILE"])


@huey.task()
def empty() -> None:
    tally.count()


@huey.task()
def stamp(sent: float) -> None:
    tally.arrived(sent)


async def connect() -> None:
    pass


def submit_many(count: int) -> None:
    for _ in range(count):
        empty()


def submit() -> None:
    empty()


def submit_stamped(sent: float) -> None:
    stamp(sent)
