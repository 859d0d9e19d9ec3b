"""Row 5: what a job costs inside the process, beside the bare memory channel."""

import time

from bench.measuring import Spread, ratio, take_turns
from bench.pool import channel_seconds, core_seconds
from bench.row import Reach, Result, Row


def measure(*, jobs: int = 30_000, workers: int = 10, turns: int = 9) -> list[Result]:
    """The row.

    Args:
        jobs: How many go through, each turn.
        workers: How many take them.
        turns: How often both sides have their turn.
    """
    # By the process's own CPU time: both do nothing but compute.
    clock = time.process_time
    values = take_turns(
        {
            "a job": lambda: core_seconds(jobs=jobs, workers=workers, clock=clock),
            "an item of the channel": lambda: channel_seconds(
                jobs=jobs, workers=workers, clock=clock
            ),
        },
        turns=turns,
    )
    return [
        Row(
            number=5,
            what=f"submit → completed in the process, {workers} workers, jobs/s",
            against="the bare memory channel, filled first",
            figure=ratio(values["an item of the channel"], values["a job"]),
            reach=Reach(bound=0.2, at_most=False),
            sides={name: Spread.of(each).times(1e6 / jobs) for name, each in values.items()},
            sides_unit=" µs",
        )
    ]
