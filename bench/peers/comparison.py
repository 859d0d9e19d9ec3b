"""Rows 11 to 13: trio-jobs beside other queues, each with its own processes on this machine."""

import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TypeVar

from bench.children import ChildError
from bench.load import LoadError
from bench.measuring import Spread, ratio
from bench.peers import redis_server
from bench.peers.contestants import BackgroundTasks, Ours, Queue
from bench.peers.environments import BACKGROUND_TASKS, QUEUES
from bench.peers.listener import SilenceError
from bench.row import Missing, Reach, Result, Row

T = TypeVar("T")

OURS = "trio-jobs"

_BROKEN = (ChildError, LoadError, SilenceError, OSError, subprocess.CalledProcessError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured, by contestant: each turn's figure.

    Attributes:
        bulk: Jobs completed a second, submitted in bulk.
        single: The same, one by one over HTTP.
        delays: Seconds from submission to start, in order of length.
        missing: Who could not be measured, and why.
    """

    bulk: dict[str, list[float]]
    single: dict[str, list[float]]
    delays: dict[str, list[list[float]]]
    missing: dict[str, str] = field(default_factory=dict)


# So many times as many jobs for ours in bulk: the others' number takes it milliseconds.
_MORE_IN_BULK = 20


def figures(*, jobs: int = 1_000, turns: int = 3, rate: float = 500) -> Figures:
    """Start everyone, and measure.

    Args:
        jobs: How many each measurement takes; a whole number of thousands.
        turns: How often each contestant has its turn.
        rate: Jobs a second where the delay is measured.
    """
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        queues = _queues(stack, jobs, missing)
        everyone: dict[str, Ours | Queue] = {OURS: Ours(stack, jobs=jobs), **queues}
        in_bulk: dict[str, Ours | Queue] = {OURS: Ours(stack, jobs=_MORE_IN_BULK * jobs), **queues}
        by_http = {name: each.over_http for name, each in everyone.items()}
        by_http |= _background_tasks(stack, jobs, missing)
        paced = {name: partial(each.paced, rate) for name, each in everyone.items()}
        return Figures(
            bulk=_take_turns({name: each.many for name, each in in_bulk.items()}, turns, missing),
            single=_take_turns(by_http, turns, missing),
            delays=_take_turns(paced, turns, missing),
            missing=missing,
        )


def rows(measured: Figures) -> list[Result]:
    """The rows from what was measured."""
    background = BACKGROUND_TASKS.name
    queues_by_http = {name: each for name, each in measured.single.items() if name != background}
    bulk = "jobs completed a second, submitted in bulk"
    single = "jobs completed a second, one by one over HTTP"
    results = [
        *_beside_the_best(11, bulk, measured.bulk, bound=15),
        *_beside_the_best(12, single, queues_by_http, bound=1),
    ]
    if background in measured.single:
        results.append(
            Row(
                number=12,
                what=single,
                against=background,
                figure=ratio(measured.single[OURS], measured.single[background]),
                reach=None,
                sides={background: Spread.of(measured.single[background])},
                sides_unit="/s",
            )
        )
    for percent in (50, 99):
        results += _delay_row(measured.delays, percent)
    results += [
        Missing(number=11, what=f"{name} (rows 11 to 13)", reason=reason)
        for name, reason in measured.missing.items()
    ]
    return results


def measure(*, jobs: int = 1_000, turns: int = 3) -> list[Result]:
    """All rows."""
    return rows(figures(jobs=jobs, turns=turns))


def _queues(stack: ExitStack, jobs: int, missing: dict[str, str]) -> dict[str, Queue]:
    program = redis_server.find()
    if program is None:
        missing["all that need Redis"] = "redis-server is not installed"
        port = None
    else:
        port = stack.enter_context(redis_server.running(program))
    started: dict[str, Queue] = {}
    for database, peer in enumerate(QUEUES):
        if not peer.installed:
            missing[peer.name] = "not installed (python -m bench.peers install)"
        elif port is not None or not peer.needs_redis:
            url = f"redis://127.0.0.1:{port}/{database}"
            try:
                started[peer.name] = Queue(stack, peer, jobs=jobs, url=url)
            except _BROKEN as error:
                missing[peer.name] = str(error)
    return started


def _background_tasks(
    stack: ExitStack, jobs: int, missing: dict[str, str]
) -> dict[str, Callable[[], float]]:
    peer = BACKGROUND_TASKS
    if not peer.installed:
        missing[peer.name] = "not installed (python -m bench.peers install)"
        return {}
    try:
        return {peer.name: BackgroundTasks(stack, peer, jobs=jobs).over_http}
    except _BROKEN as error:
        missing[peer.name] = str(error)
        return {}


def _take_turns(
    subjects: Mapping[str, Callable[[], T]], turns: int, missing: dict[str, str]
) -> dict[str, list[T]]:
    """As `bench.measuring.take_turns`; who breaks is out, and named."""
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
    number: int, what: str, values: dict[str, list[float]], *, bound: float
) -> list[Result]:
    others = {name: median(each) for name, each in values.items() if name != OURS}
    if not others:
        return [Missing(number=number, what=what, reason="no other queue is there")]
    best = max(others, key=others.__getitem__)
    return [
        Row(
            number=number,
            what=what,
            against=f"the best other queue, {best}",
            figure=ratio(values[OURS], values[best]),
            reach=Reach(bound=bound, at_most=False),
            sides={name: Spread.of(each) for name, each in values.items()},
            sides_unit="/s",
        )
    ]


def _delay_row(delays: dict[str, list[list[float]]], percent: int) -> list[Result]:
    what = f"submission to start of the handler at 500 jobs/s, p{percent}"
    values = {
        name: [each[len(each) * percent // 100] for each in turns] for name, turns in delays.items()
    }
    others = {name: median(each) for name, each in values.items() if name != OURS}
    if not others:
        return [Missing(number=13, what=what, reason="no other queue is there")]
    best = min(others, key=others.__getitem__)
    return [
        Row(
            number=13,
            what=what,
            against=f"the best other queue, {best}",
            figure=ratio(values[OURS], values[best]),
            reach=Reach(bound=1, at_most=True),
            sides={name: Spread.of(each).times(1000) for name, each in values.items()},
            sides_unit=" ms",
        )
    ]
