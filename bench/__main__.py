"""``python -m bench``: measures, prints the table, and updates ``docs/performance.md``."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

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

# Each function measures these rows of the table.
MEASUREMENTS: dict[Callable[..., list[Result]], tuple[int, ...]] = {
    single.measure_submission: (1,),
    single.measure_poll: (2,),
    many.measure: (3, 4),
    pool.measure_jobs: (5,),
    growth.measure: (6,),
    pool.measure_workers: (7,),
    pool.measure_memory: (8,),
    idle.measure: (9,),
    start_up.measure: (10,),
    comparison.measure: (11, 12, 13),
    refusals.measure: (14,),
    durable.measure: (15, 16, 17),
    durable.measure_in_process: (18,),
    durable.measure_beside_huey: (19,),
    history.measure: (20,),
    tiny.measure: (21,),
    pipe.measure: (22, 23, 24),
    shared.measure: (25, 26, 27, 28),
}


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
    began = time.monotonic()
    results: list[Result] = []
    for measure, numbers in MEASUREMENTS.items():
        if not wanted or wanted & set(numbers):
            for result in measure(**turns):
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
