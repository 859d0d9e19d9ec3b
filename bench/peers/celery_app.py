"""Celery with Redis and a pool of threads, without a results backend."""

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


submit, submit_stamped = empty.delay, stamp.delay
