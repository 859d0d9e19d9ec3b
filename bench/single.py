"""Rows 1 and 2: what one `POST /jobs` costs the server, in CPU."""

from collections.abc import Callable
from contextlib import ExitStack

from bench import ours
from bench.children import python_module
from bench.load import Clients, post
from bench.measuring import Spread, cpu_seconds, ratio, take_turns
from bench.row import Reach, Result, Row
from bench.workload import SUBMISSION

_REQUEST = post("/jobs", SUBMISSION)


def measure(*, requests: int = 1200, turns: int = 9) -> list[Result]:
    """Both rows.

    Args:
        requests: How many a server gets each turn.
        turns: How often each server has its turn.
    """
    with ExitStack() as stack:
        server = stack.enter_context(ours.running())
        subjects = {"ours": _subject(stack, server.pid, server.port, requests)}
        for name in ("bare", "quart", "lean"):
            child = stack.enter_context(python_module("bench.reference", name))
            port = int(child.wait_for(r"^port (\d+)")[1])
            subjects[name] = _subject(stack, child.pid, port, requests)
        for warm_up in subjects.values():
            warm_up()
        values = take_turns(subjects, turns=turns)
    sides = {name: Spread.of(each) for name, each in values.items()}
    what = "single `POST /jobs`: server CPU per request"
    return [
        Row(
            number=1,
            what=what,
            against="a bare ASGI app under plain Hypercorn",
            figure=ratio(values["ours"], values["bare"]),
            reach=Reach(bound=1.65, at_most=True),
            sides={"trio-jobs": sides["ours"], "bare": sides["bare"]},
            sides_unit=" µs",
        ),
        Row(
            number=2,
            what=what,
            against="a Quart-Trio route behind our front door",
            figure=ratio(values["ours"], values["quart"]),
            reach=Reach(bound=1.12, at_most=True),
            sides={"trio-jobs": sides["ours"], "Quart-Trio": sides["quart"]},
            sides_unit=" µs",
        ),
        Row(
            number=2,
            what=what,
            against="the same route, taken the way that ours are (`api/connection.py`)",
            figure=ratio(values["ours"], values["lean"]),
            reach=None,
            sides={"trio-jobs": sides["ours"], "the way of ours": sides["lean"]},
            sides_unit=" µs",
        ),
    ]


def _subject(stack: ExitStack, pid: int, port: int, requests: int) -> Callable[[], float]:
    """Microseconds of the server's CPU for each of its next requests."""
    clients = stack.enter_context(Clients(port))

    def measured() -> float:
        before = cpu_seconds(pid)
        clients.send(_REQUEST, count=requests)
        return (cpu_seconds(pid) - before) / requests * 1e6

    return measured
