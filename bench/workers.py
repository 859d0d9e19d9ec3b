"""Row 7: what a job costs when there are many workers, all of them waiting."""

import gc
import time

import trio
import trio.testing

from bench.measuring import Spread, ratio, take_turns
from bench.pool import BenchPool
from bench.row import Reach, Result, Row

COUNTS = (10, 100, 1_000, 10_000)


def measure(*, jobs: int = 30_000, turns: int = 5) -> list[Result]:
    """The row.

    Args:
        jobs: How many go through, each turn.
        turns: How often each count of workers has its turn.
    """
    values = _costs(jobs=jobs, turns=turns)
    few, many = values[COUNTS[0]], values[COUNTS[-1]]
    return [
        Row(
            number=7,
            what="cost per job with 10,000 workers",
            against="with 10",
            figure=ratio(many, few),
            reach=Reach(bound=1.5, at_most=True),
            sides={f"{count:,} workers": Spread.of(each) for count, each in values.items()},
            sides_unit=" µs",
        )
    ]


def _costs(*, jobs: int, turns: int) -> dict[int, list[float]]:
    """Microseconds of CPU for each job, turn by turn, for each count of workers."""

    def subject(workers: int) -> float:
        gc.collect()
        return trio.run(_cost, jobs, workers)

    values = take_turns(
        {str(count): lambda count=count: subject(count) for count in COUNTS},  # type: ignore[misc]
        turns=turns,
    )
    return {int(count): each for count, each in values.items()}


async def _cost(jobs: int, workers: int) -> float:
    pool = BenchPool.of(workers=workers, buffer_size=jobs)
    async with trio.open_nursery() as nursery:
        pool.start_workers(nursery)
        await trio.testing.wait_all_tasks_blocked()
        began = time.process_time()
        for _ in range(jobs):
            pool.admission.submit("email", b"null")
        pool.admission.close()
    return (time.process_time() - began) / jobs * 1e6
