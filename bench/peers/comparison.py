"""Rows 11 to 13: trio-jobs beside other queues, each with its own processes on this machine."""

import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import TypeVar

from bench.children import ChildError
from bench.load import CONNECTIONS, LoadError
from bench.measuring import percentile
from bench.peers.contestants import Ours, Queue, SilenceError
from bench.peers.environments import (
    BACKGROUND_TASKS,
    NOT_INSTALLED,
    PEERS,
    find_redis,
    running_redis,
)
from bench.row import Missing, Reach, Result, Row, at_least, at_most

T = TypeVar("T")

# Each contestant's values, turn by turn.
Values = dict[str, list[float]]

OURS = "trio-jobs"

# A thousand jobs take a contestant in one process a fraction of a second: it gets so many times
# as many.
_MORE = 20

_BROKEN = (ChildError, LoadError, SilenceError, OSError, subprocess.CalledProcessError)


def measure(
    *, jobs: int = 1_000, paced: int = 1_000, turns: int = 5, rate: float = 500
) -> list[Result]:
    """Measure all three rows.

    Args:
        jobs: How many each measurement of a queue's rate takes; a whole number of fifties.
        paced: How many jobs make a report of delays.
        turns: How often each contestant has its turn.
        rate: Jobs a second where the delay is measured.
    """
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        everyone: dict[str, Ours | Queue] = {
            OURS: Ours(stack, jobs=_MORE * jobs, paced=paced),
            **_running(stack, jobs, paced, missing),
        }
        single = _take_turns({name: e.over_http for name, e in everyone.items()}, turns, missing)
        queues = {name: e for name, e in everyone.items() if name != BACKGROUND_TASKS.name}
        at_a_rate = {name: partial(each.at_a_rate, rate) for name, each in queues.items()}
        delays = _take_turns(at_a_rate, turns, missing)
        bulk = _take_turns({name: each.many for name, each in queues.items()}, turns, missing)
    rates = {name: [each.rate for each in turns_of] for name, turns_of in single.items()}
    p99 = {name: [each.p99 for each in turns_of] for name, turns_of in single.items()}
    one_by_one = "jobs completed a second, one by one over HTTP"
    slowest = f"p99 of a `POST /jobs` at full load, {CONNECTIONS} connections"
    results = [
        _beside_the_best(11, "jobs completed a second, submitted in bulk", bulk, at_least(15)),
        _beside_background_tasks(one_by_one, rates, at_least(1.8)),
        _beside_the_best(12, one_by_one, rates, at_least(1)),
        _beside_background_tasks(slowest, p99, at_most(1)),
    ]
    for percent, bound in ((50, 0.6), (99, 1)):
        what = f"submission to start of the handler at {rate:.0f} jobs/s, p{percent}"
        values = {
            name: [percentile(each, percent) * 1000 for each in turns_of]
            for name, turns_of in delays.items()
        }
        results.append(_beside_the_best(13, what, values, at_most(bound)))
    results += [
        Missing(number=11, what=f"{name} (rows 11 to 13)", reason=reason)
        for name, reason in missing.items()
    ]
    return results


def _running(stack: ExitStack, jobs: int, paced: int, missing: dict[str, str]) -> dict[str, Queue]:
    redis = find_redis()
    port = None if redis is None else stack.enter_context(running_redis(redis))
    started: dict[str, Queue] = {}
    for database, peer in enumerate(PEERS):
        if not peer.installed:
            missing[peer.name] = NOT_INSTALLED
        elif peer.needs_redis and port is None:
            missing[peer.name] = "redis-server is not installed"
        else:
            url = f"redis://127.0.0.1:{port}/{database}"
            try:
                more = 1 if peer.worker else _MORE
                started[peer.name] = Queue(stack, peer, jobs=more * jobs, paced=paced, url=url)
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


def _beside_the_best(number: int, what: str, values: Values, reach: Reach) -> Result:
    alone = {OURS, BACKGROUND_TASKS.name}
    others = {name: median(each) for name, each in values.items() if name not in alone}
    if not others:
        return Missing(number=number, what=what, reason="no other queue is there")
    best = (min if reach.at_most else max)(others, key=others.__getitem__)
    return _beside((number, what, f"the best other queue, {best}"), values, best, reach)


def _beside_background_tasks(what: str, values: Values, reach: Reach) -> Result:
    name = BACKGROUND_TASKS.name
    if name not in values:
        return Missing(number=12, what=what, reason=f"{name} is not there")
    return _beside((12, what, name), values, name, reach)


def _beside(names: tuple[int, str, str], values: Values, other: str, reach: Reach) -> Row:
    unit = " ms" if reach.at_most else "/s"
    return Row.of_turns(names, values, over=OURS, under=other, reach=reach, unit=unit)
