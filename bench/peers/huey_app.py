"""Huey with SQLite: a queue without a broker."""

import os

from huey import SqliteHuey

from bench.peers import tally

# Each commit reaches the disk: so it is by default, unless SQLite was compiled otherwise.
huey = SqliteHuey(filename=os.environ["BENCH_FILE"], fsync=True)


@huey.task()
def empty() -> None:
    tally.count()


@huey.task()
def stamp(sent: float) -> None:
    tally.arrived(sent)


submit, submit_stamped = empty, stamp  # a call enqueues
