"""Rows 11 to 13: trio-jobs beside other queues, each with its own processes on this machine."""

import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import TypeVar

from bench.children import ChildError
from bench.load import LoadError
from bench.measuring import Spread, ratio
from bench.peers.contestants import Ours, Queue, SilenceError
from bench.peers.environments import BACKGROUND_TASKS, PEERS, find_redis, running_redis
from bench.row import Missing, Reach, Result, Row

T = TypeVar("T")

OURS = "trio-jobs"

# A thousand jobs in bulk take trio-jobs milliseconds: it gets so many times as many.
_MORE_IN_BULK = 20

_BROKEN = (ChildError, LoadError, SilenceError, OSError, subprocess.CalledProcessError)


def measure(*, jobs: int = 1_000, turns: int = 3, rate: float = 500) -> list[Result]:
    """Measure all three rows.

    Args:
        jobs: How many each measurement takes; a whole number of thousands.
        turns: How often each contestant has its turn.
        rate: Jobs a second where the delay is measured.
    """
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        peers = _running(stack, jobs, missing)
        everyone: dict[str, Ours | Queue] = {OURS: Ours(stack, jobs=jobs), **peers}
        single = _take_turns({name: e.over_http for name, e in everyone.items()}, turns, missing)
        everyone.pop(BACKGROUND_TASKS, None)
        paced = {name: partial(each.paced, rate) for name, each in everyone.items()}
        delays = _take_turns(paced, turns, missing)
        everyone[OURS] = Ours(stack, jobs=_MORE_IN_BULK * jobs)
        bulk = _take_turns({name: each.many for name, each in everyone.items()}, turns, missing)
    tasks = single.pop(BACKGROUND_TASKS, None)
    one_by_one = "jobs completed a second, one by one over HTTP"
    results = [
        _beside_the_best(11, "jobs completed a second, submitted in bulk", bulk, bound=15),
        _beside_the_best(12, one_by_one, single, bound=1),
    ]
    if tasks is not None:
        results.append(
            Row(
                number=12,
                what=one_by_one,
                against=BACKGROUND_TASKS,
                figure=ratio(single[OURS], tasks),
                reach=None,
                sides={BACKGROUND_TASKS: Spread.of(tasks)},
                sides_unit="/s",
            )
        )
    for percent in (50, 99):
        what = f"submission to start of the handler at {rate:.0f} jobs/s, p{percent}"
        values = {
            name: [each[len(each) * percent // 100] * 1000 for each in turns_of]
            for name, turns_of in delays.items()
        }
        results.append(_beside_the_best(13, what, values, bound=1, at_most=True))
    results += [
        Missing(number=11, what=f"{name} (rows 11 to 13)", reason=reason)
        for name, reason in missing.items()
    ]
    return results


def _running(stack: ExitStack, jobs: int, missing: dict[str, str]) -> dict[str, Queue]:
    redis = find_redis()
    port = None if redis is None else stack.enter_context(running_redis(redis))
    started: dict[str, Queue] = {}
    for database, peer in enumerate(PEERS):
        if not peer.installed:
            missing[peer.name] = "not installed (python -m bench.peers install)"
        elif peer.needs_redis and port is None:
            missing[peer.name] = "redis-server is not installed"
        else:
            url = f"redis://127.0.0.1:{port}/{database}"
            try:
                started[peer.name] = Queue(stack, peer, jobs=jobs, url=url)
            except _BROKEN as error:
                missing[peer.name] = str(error)
    return started


def _take_turns(
    subjects: Mapping[str, Callable[[], T]], turns: int, missing: dict[str, str]
) -> dict[str, list[T]]:
    """Measure as `bench.measuring.take_turns` does, and drop and name each peer that breaks."""
    values: dict[str, list[T]] = {name: [] for name in subjects}
    order = list(subjects)
    for _ in range(turns):
        for name in list(order):
            try:
                values[name].append(subjects[name]())
            except _BROKEN as error:
                if name == OURS:
                    raise
                missing[name] = str(error)
                order.remove(name)
                del values[name]
        order.reverse()
    return values


def _beside_the_best(
    number: int, what: str, values: dict[str, list[float]], *, bound: float, at_most: bool = False
) -> Result:
    others = {name: median(each) for name, each in values.items() if name != OURS}
    if not others:
        return Missing(number=number, what=what, reason="no other queue is there")
    best = (min if at_most else max)(others, key=others.__getitem__)
    return Row(
        number=number,
        what=what,
        against=f"the best other queue, {best}",
        figure=ratio(values[OURS], values[best]),
        reach=Reach(bound=bound, at_most=at_most),
        sides={name: Spread.of(each) for name, each in values.items()},
        sides_unit=" ms" if at_most else "/s",
    )
