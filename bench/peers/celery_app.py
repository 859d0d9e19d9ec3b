"""Celery with Redis and a pool of threads; no results backend. Many share one producer."""

import os

from celery import Celery

from bench.peers import tally

app = Celery("bench", broker=os.environ["BENCH_URL"])


@app.task
def empty() -> None:
    tally.count()


@app.task
def stamp(sent: float) -> None:
    tally.arrived(sent)


async def connect() -> None:
    pass


def submit_many(count: int) -> None:
    with app.producer_or_acquire() as producer:
        for _ in range(count):
            empty.apply_async(producer=producer)


def submit() -> None:
    empty.delay()


def submit_stamped(sent: float) -> None:
    stamp.delay(sent)
