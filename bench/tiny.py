"""Row 21: tiny records in two processes, each a job, beside `multiprocessing.Pool` in chunks."""

import gc
import multiprocessing
import time
from collections.abc import Callable

import trio

from bench.measuring import Spread, take_turns
from bench.row import Result, Row, at_most
from trio_jobs import Handler, Jobs, open_jobs

_PROCESSES = 2
_WORKERS = 50 * _PROCESSES
_CHUNK = 200
_BATCH = 1_000

# Names of sides.
_OURS, _POOL = "trio-jobs, a job a record", f"multiprocessing.Pool, chunks of {_CHUNK}"


def compute(steps: int) -> int:
    """Compute for a while, without a system call."""
    total = 0
    for number in range(steps):
        total += number * steps % 7
    return total


def measure(*, records: int = 40_000, micros: float = 160.0, turns: int = 7) -> list[Result]:
    """Measure the row: the best time of a record beside the best of the other side.

    Three processes share the machine's cores, so other load makes some turns slower by much; no
    turn is faster than the code. So the figure is the ratio of the best turns.

    Args:
        records: How many there are in a turn.
        micros: How many microseconds one of them computes.
        turns: How often each side has its turn.
    """
    steps = _steps_of(micros)
    with multiprocessing.Pool(_PROCESSES) as pool:

        def chunks() -> float:
            return _micros_a_record(records, lambda: _drain(pool, steps, records))

        values = take_turns(
            {_OURS: lambda: trio.run(_jobs, steps, records), _POOL: chunks}, turns=turns
        )
    ratios = [a / b for a, b in zip(values[_OURS], values[_POOL], strict=True)]
    best = min(values[_OURS]) / min(values[_POOL])
    return [
        Row(
            number=21,
            what=f"{records:,} records of {micros / 1000:g} ms in {_PROCESSES} processes",
            against=f"`multiprocessing.Pool({_PROCESSES}).imap(chunksize={_CHUNK})`",
            figure=Spread(median=best, low=min(ratios), high=max(ratios)),
            reach=at_most(2.0),
            sides={name: Spread.of(each) for name, each in values.items()},
            sides_unit=" µs",
        )
    ]


def _steps_of(micros: float) -> int:
    """How many steps of `compute` take so long on this machine."""
    steps = 10_000
    best = min(_micros_a_record(steps, lambda: compute(steps)) for _ in range(20))
    return max(1, round(micros / best))


def _drain(
    pool: "multiprocessing.pool.Pool",
    steps: int,
    records: int,
) -> None:
    for _ in pool.imap(compute, [steps] * records, chunksize=_CHUNK):
        pass


def _micros_a_record(records: int, run: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) / records * 1e6


async def _jobs(steps: int, records: int) -> float:
    """Microseconds a record, each of them a job, from the first submission until all have ended."""
    handlers = {"record": Handler.of(compute, run="process")}
    async with open_jobs(
        handlers, workers=_WORKERS, processes=_PROCESSES, buffer_size=records
    ) as jobs:
        await _run_all(jobs, steps, 2 * _WORKERS)  # starts the processes
        gc.collect()
        began = time.perf_counter()
        await _run_all(jobs, steps, records)
        return (time.perf_counter() - began) / records * 1e6


async def _run_all(jobs: Jobs, steps: int, records: int) -> None:
    submitted = [
        job
        for first in range(0, records, _BATCH)
        for job in jobs.submit_all([("record", steps)] * min(_BATCH, records - first))
    ]
    # Jobs begin in order, so all others have ended when the last ones have.
    for job in submitted[-_WORKERS:]:
        await jobs.wait(job.id)
