"""Row 5: what a job costs inside the process, beside the bare memory channel."""

import time

from bench.measuring import Spread, ratio, take_turns
from bench.pool import channel_seconds, core_seconds, scope_seconds
from bench.row import Reach, Result, Row


def measure(*, jobs: int = 20_000, workers: int = 10, turns: int = 15) -> list[Result]:
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
            "a cancel scope": lambda: scope_seconds(jobs=jobs, clock=clock),
        },
        turns=turns,
    )
    sides = {name: Spread.of(each).times(1e6 / jobs) for name, each in values.items()}
    job, item, scope = values["a job"], values["an item of the channel"], values["a cancel scope"]
    what = f"submit → completed in the process, {workers} workers, jobs/s"
    against = "the bare memory channel, filled first"
    return [
        Row(
            number=5,
            what=what,
            against=against,
            figure=ratio(item, job),
            reach=Reach(bound=0.2, at_most=False),
            sides={name: sides[name] for name in ("a job", "an item of the channel")},
            sides_unit=" µs",
        ),
        Row(
            number=5,
            what="the same, were Trio's cancel scope for nothing",
            against=against,
            figure=ratio(item, [a - b for a, b in zip(job, scope, strict=True)]),
            reach=None,
            sides={"a cancel scope": sides["a cancel scope"]},
            sides_unit=" µs",
        ),
    ]
