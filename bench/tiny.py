"""Row 21: tiny records in two processes, each a job, beside `multiprocessing.Pool` in chunks."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from bench.children import module_path
from bench.measuring import Spread, take_turns
from bench.row import Reach, Result, Row, at_most
from trio_jobs import Handler, Jobs, open_jobs

_PROCESSES = 2
_WORKERS = 50 * _PROCESSES
_CHUNK = 200
_BATCH = 1_000

# Names of sides.
_OURS, _POOL = "trio-jobs, a job a record", f"multiprocessing.Pool, chunks of {_CHUNK}"
_CHUNKS = f"`trio-jobs run --chunk {_CHUNK}`, from file to file"

_CONFIG = f"""
[pool]
processes = {_PROCESSES}
[handlers]
records = {{ call = "bench.tiny:compute_all", run = "process" }}
"""


def compute(steps: int) -> int:
    """Compute for a while, without a system call."""
    total = 0
    for number in range(steps):
        total += number * steps % 7
    return total


def compute_all(records: list[int]) -> list[int]:
    """The same for the records of a chunk."""
    return [compute(steps) for steps in records]


def measure(*, records: int = 200_000, micros: float = 160.0, turns: int = 2) -> list[Result]:
    """Measure the row: the best time of a record beside the best of the other side.

    Three processes share the machine's cores, so other load makes some turns slower by much; no
    turn is faster than the code. So the figure is the ratio of the best turns.

    Args:
        records: How many there are in a turn.
        micros: How many microseconds one of them computes.
        turns: How often each side has its turn.
    """
    steps = _steps_of(micros)
    # The pool ends its processes by SIGTERM. With the benchmark's handler of it, one that is about
    # to wait would not notice.
    pool = multiprocessing.Pool(_PROCESSES, signal.signal, (signal.SIGTERM, signal.SIG_DFL))
    with pool, TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.toml").write_text(_CONFIG, encoding="utf-8")
        (folder / "records.jsonl").write_text(f"{steps}\n" * records, encoding="utf-8")
        values = take_turns(
            {
                _OURS: lambda: trio.run(_jobs, steps, records),
                _POOL: lambda: _micros_a_record(records, lambda: _drain(pool, steps, records)),
                _CHUNKS: lambda: _micros_a_record(records, lambda: _run_command(folder)),
            },
            turns=turns,
            warm_up=False,  # the processes of the pool have started
        )
    against = f"`multiprocessing.Pool({_PROCESSES}).imap(chunksize={_CHUNK})`"
    what = f"{records:,} records of {micros / 1000:g} ms in {_PROCESSES} processes"
    return [
        _row(what, against, values, side=_OURS, reach=at_most(2.0)),
        _row(f"the same by {_CHUNKS}", against, values, side=_CHUNKS, reach=at_most(1.2)),
    ]


def _row(
    what: str, against: str, values: Mapping[str, Sequence[float]], *, side: str, reach: Reach
) -> Row:
    ratios = [a / b for a, b in zip(values[side], values[_POOL], strict=True)]
    best = min(values[side]) / min(values[_POOL])
    return Row(
        number=21,
        what=what,
        against=against,
        figure=Spread(median=best, low=min(ratios), high=max(ratios)),
        reach=reach,
        sides={name: Spread.of(values[name]) for name in (side, _POOL)},
        sides_unit=" µs",
    )


def _run_command(folder: Path) -> None:
    (folder / "results.jsonl").unlink(missing_ok=True)
    subprocess.run(  # noqa: S603  (our own command)
        [
            *(sys.executable, "-m", "trio_jobs", "run", folder / "records.jsonl"),
            *("--type", "records", "--chunk", str(_CHUNK), "--config", folder / "config.toml"),
            *("--out", folder / "results.jsonl", "--quiet"),
        ],
        check=True,
        env={**os.environ, "PYTHONPATH": module_path()},
    )


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
