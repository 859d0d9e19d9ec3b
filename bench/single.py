"""Rows 1 and 2: the server's CPU for one request, a `POST /jobs` or a poll of a job."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count, islice, repeat

from bench import ours, reference
from bench.children import ChildError, Server
from bench.load import Clients, get, get_request, post
from bench.measuring import cpu_seconds, take_turns
from bench.peers.environments import BACKGROUND_TASKS, NOT_INSTALLED, running_web
from bench.row import Missing, Result, Row, at_most
from bench.workload import SUBMISSION

# Names of sides.
_SINGLE, _KEYED = "trio-jobs, single", "trio-jobs, with a key"
BARE = "a bare request"

_POLL = "`GET /jobs/{id}` of a completed job: server CPU per request"


def measure_submission(*, requests: int = 2_400, turns: int = 9) -> list[Result]:
    """Measure row 1.

    Args:
        requests: How many requests each server gets in a turn.
        turns: How often each server has its turn.
    """
    submit = repeat(post("/jobs", SUBMISSION))
    keyed = (post("/jobs", SUBMISSION, f'Idempotency-Key: "{number}"') for number in count())
    with ExitStack() as stack:
        server, bare = stack.enter_context(ours.running()), stack.enter_context(reference.running())
        values = take_turns(
            {
                _SINGLE: cpu_per_request(stack, server, submit, requests),
                _KEYED: cpu_per_request(stack, server, keyed, requests),
                BARE: cpu_per_request(stack, bare, submit, requests),
            },
            turns=turns,
        )
    results: list[Result] = []
    for name, what, bound in (
        (_SINGLE, "single `POST /jobs`: server CPU per request", 0.2),
        (_KEYED, "the same with an `Idempotency-Key`", 1.1),
    ):
        names = (1, what, "a bare ASGI app under plain Hypercorn")
        both = {side: values[side] for side in (name, BARE)}
        row = Row.of_turns(names, both, over=name, under=BARE, reach=at_most(bound), unit=" µs")
        results.append(row)
    return results


def measure_poll(*, requests: int = 2_400, turns: int = 9) -> list[Result]:
    """Measure row 2; the arguments are those of `measure_submission`."""
    if not BACKGROUND_TASKS.installed:
        return [Missing(number=2, what=_POLL, reason=NOT_INSTALLED)]
    with ExitStack() as stack:
        server = stack.enter_context(ours.running())
        path, answer = _completed_job(server.port)
        environment = {"BENCH_ANSWER": answer}
        web = running_web(BACKGROUND_TASKS, "bench.peers.answer_app", environment)
        try:
            fastapi = stack.enter_context(web)
        except ChildError as error:
            return [Missing(number=2, what=_POLL, reason=str(error))]
        poll = repeat(get_request(path))
        values = take_turns(
            {
                "trio-jobs": cpu_per_request(stack, server, poll, requests),
                "FastAPI": cpu_per_request(stack, fastapi, poll, requests),
            },
            turns=turns,
        )
    names = (2, _POLL, "FastAPI's plainest route, with the same bytes")
    over, under = "trio-jobs", "FastAPI"
    return [Row.of_turns(names, values, over=over, under=under, reach=at_most(0.8), unit=" µs")]


def _completed_job(port: int) -> tuple[str, str]:
    """The path of a completed job, and the answer to a poll of it."""
    with Clients(port, connections=1) as clients:
        clients.send([post("/jobs", SUBMISSION, "Prefer: wait=10")])
    path = f"/jobs/{json.loads(get(port, '/jobs'))[0]['id']}"
    return path, get(port, path).decode()


def cpu_per_request(
    stack: ExitStack, server: Server, endless: Iterator[bytes], requests: int
) -> Callable[[], float]:
    """A measurement: microseconds of the server's CPU for one of the endless requests."""
    clients = stack.enter_context(Clients(server.port))

    def measured() -> float:
        before = cpu_seconds(server.pid)
        clients.send(islice(endless, requests))
        return (cpu_seconds(server.pid) - before) / requests * 1e6

    return measured
