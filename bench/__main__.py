"""``python -m bench``: measures, prints the table, and updates ``docs/performance.md``."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from bench import (
    durable,
    growth,
    history,
    idle,
    many,
    pipe,
    pool,
    refusals,
    shared,
    single,
    start_up,
    tiny,
)
from bench.peers import comparison
from bench.row import Missing, Result, spread_text

# Each function measures these rows of the table; then what it takes in a trial.
MEASUREMENTS: tuple[tuple[Callable[..., list[Result]], tuple[int, ...], dict[str, Any]], ...] = (
    (single.measure_submission, (1,), {"requests": 240}),
    (single.measure_poll, (2,), {"requests": 240}),
    (many.measure, (3, 4), {"requests": 240, "batched": 4_000, "streamed": 5_000}),
    (pool.measure_jobs, (5,), {"jobs": 2_000}),
    (growth.measure, (6,), {"sizes": (1_000, 10_000)}),
    (pool.measure_workers, (7,), {"jobs": 3_000}),
    (pool.measure_memory, (8,), {"jobs": 20_000}),
    (idle.measure, (9,), {"connections": 100, "waiters": 200, "seconds": 1}),
    (start_up.measure, (10,), {}),
    (comparison.measure, (11, 12, 13), {"jobs": 50, "paced": 50}),
    (refusals.measure, (14,), {"seconds": 0.5}),
    (durable.measure, (15, 16, 17), {"requests": 300, "bulk": 2_000}),
    (durable.measure_in_process, (18,), {"jobs": 2_000}),
    (durable.measure_beside_huey, (19,), {"requests": 300, "bulk": 2_000, "jobs": 100}),
    (history.measure, (20,), {"sizes": (1_000, 10_000)}),
    (tiny.measure, (21,), {"records": 2_000}),
    (pipe.measure, (22, 23, 24), {"empty": 5_000, "tiny": 2_000, "naps": 500}),
    (
        shared.measure,
        (25, 26, 27, 28),
        {"singly": 90, "bulk": 1_000, "delays": 10, "samples": 10, "behind": 2_000},
    ),
)


def main() -> int:
    """Measure the rows of the command line, or all rows, and then update the page."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "rows", type=int, nargs="*", help="only these rows; without any, all, and the page"
    )
    wanted = set(parser.parse_args().rows)
    if not wanted and find_spec("matplotlib") is None:
        parser.error("the page's pictures need matplotlib (pip install -e '.[bench]')")
    # Leave through every `with` block: the children would live on otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Without it, each row takes as many turns as make its figure steady.
    turns = {"turns": int(os.environ["BENCH_TURNS"])} if "BENCH_TURNS" in os.environ else {}
    is_trial = "BENCH_TRIAL" in os.environ
    began = time.monotonic()
    results: list[Result] = []
    for measure, numbers, trial in MEASUREMENTS:
        if not wanted or wanted & set(numbers):
            for result in measure(**({**trial, "turns": 1} if is_trial else turns)):
                results.append(result)
                print(_line(result), flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"measured in {minutes:.1f} minutes")
    if not wanted:
        # Imported here: only the page needs the library that draws.
        from bench.page import update_page

        print(f"written: {update_page(results, minutes=minutes)}")
    return 0


def _line(result: Result) -> str:
    if isinstance(result, Missing):
        return f"{result.number:2}  {result.what}: missing, {result.reason}"
    return (
        f"{result.number:2}  {result.what}, against {result.against}: "
        f"{spread_text(result.figure, result.unit)}; to reach: {result.reach or '-'}; "
        f"{result.verdict}\n      {result.details}"
    )


if __name__ == "__main__":
    sys.exit(main())
