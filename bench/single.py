"""Rows 1 and 2: the server's CPU for one `POST /jobs`."""

from collections.abc import Callable
from contextlib import ExitStack

from bench import ours
from bench.children import python_module
from bench.load import Clients, post
from bench.measuring import Spread, cpu_seconds, ratio, take_turns
from bench.row import Reach, Result, Row
from bench.workload import SUBMISSION

_REQUEST = post("/jobs", SUBMISSION)

# Each reference server: the number of its row, its name on the page, and its bound.
_REFERENCES = {
    "bare": (1, "a bare ASGI app under plain Hypercorn", 1.65),
    "quart": (2, "a Quart-Trio route behind our server", 1.12),
}


def measure(*, requests: int = 1200, turns: int = 9) -> list[Result]:
    """Measure both rows.

    Args:
        requests: How many requests each server gets in a turn.
        turns: How often each server has its turn.
    """
    with ExitStack() as stack:
        server = stack.enter_context(ours.running())
        subjects = {"trio-jobs": _subject(stack, server.pid, server.port, requests)}
        for name in _REFERENCES:
            child = stack.enter_context(python_module("bench.reference", name))
            port = int(child.wait_for(r"^port (\d+)")[1])
            subjects[name] = _subject(stack, child.pid, port, requests)
        for warm_up in subjects.values():
            warm_up()
        values = take_turns(subjects, turns=turns)
    return [
        Row(
            number=number,
            what="single `POST /jobs`: server CPU per request",
            against=against,
            figure=ratio(values["trio-jobs"], values[name]),
            reach=Reach(bound=bound, at_most=True),
            sides={each: Spread.of(values[each]) for each in ("trio-jobs", name)},
            sides_unit=" µs",
        )
        for name, (number, against, bound) in _REFERENCES.items()
    ]


def _subject(stack: ExitStack, pid: int, port: int, requests: int) -> Callable[[], float]:
    """A measurement: microseconds of the server's CPU per request."""
    clients = stack.enter_context(Clients(port))

    def measured() -> float:
        before = cpu_seconds(pid)
        clients.send(_REQUEST, count=requests)
        return (cpu_seconds(pid) - before) / requests * 1e6

    return measured
