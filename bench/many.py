"""Rows 3 and 4: many jobs in one request, beside single requests to a bare application."""

import json
import time
from contextlib import ExitStack

from bench import ours
from bench.children import python_module
from bench.load import Clients, LoadError, connect, get, post
from bench.measuring import Spread, cpu_seconds, ratio, resident_bytes, take_turns
from bench.row import Reach, Result, Row
from bench.workload import SUBMISSION

_BATCH = 1_000
_BATCHES = 100
_BUFFER = _BATCH * _BATCHES
_STREAM_BUFFER = 1_000
_WORKERS = 10

# One system call sends so many lines.
_LINES = 500

# Longer than any measurement here takes.
_SECONDS = 60.0


def measure(*, requests: int = 1600, streamed: int = 50_000, turns: int = 5) -> list[Result]:
    """Measure both rows, and the server's memory under the streams.

    Args:
        requests: How many requests the bare application gets in a turn.
        streamed: How many lines a stream has.
        turns: How often each server has its turn.
    """
    with ExitStack() as stack:
        bare = stack.enter_context(python_module("bench.reference", "bare"))
        singles = stack.enter_context(Clients(int(bare.wait_for(r"^port (\d+)")[1])))
        batches = _server(stack, _BUFFER)
        stream = _server(stack, _STREAM_BUFFER)
        senders = stack.enter_context(Clients(batches.port, connections=4))
        micros: dict[str, list[float]] = {"bare": [], "stream": []}

        def admitted() -> float:
            body = b"[" + b",".join([SUBMISSION] * _BATCH) + b"]"
            rate = _BUFFER / senders.send(post("/jobs/batch", body), count=_BATCHES)
            _wait_until_idle(batches.port)
            return rate

        def answered() -> float:
            before = cpu_seconds(bare.pid)
            rate = requests / singles.send(post("/jobs", SUBMISSION), count=requests)
            micros["bare"].append((cpu_seconds(bare.pid) - before) / requests * 1e6)
            return rate

        def completed() -> float:
            before = cpu_seconds(stream.pid)
            rate = _stream(stream.port, streamed)
            micros["stream"].append((cpu_seconds(stream.pid) - before) / streamed * 1e6)
            return rate

        subjects = {"bare": answered, "batch": admitted, "stream": completed}
        for warm_up in subjects.values():
            warm_up()
        for each in micros.values():
            each.clear()
        before = resident_bytes(stream.pid)
        values = take_turns(subjects, turns=turns)
        grown = (resident_bytes(stream.pid) - before) / 1e6
    return [
        _rate_row(3, f"`POST /jobs/batch`, {_BATCH:,} a batch: admitted jobs/s", values, "batch"),
        _rate_row(4, "`POST /jobs/stream`: completed jobs/s", values, "stream"),
        Row(
            number=4,
            what="the same in CPU: streamed jobs for the cost of one request",
            against="a request to the bare application",
            figure=ratio(micros["bare"], micros["stream"]),
            reach=None,
            sides={name: Spread.of(each) for name, each in micros.items()},
            sides_unit=" µs",
        ),
        Row(
            number=4,
            what=f"growth of the process over {turns * streamed:,} streamed jobs",
            against="flat memory, once the store is full of completed jobs",
            figure=Spread.of([grown]),
            reach=Reach(bound=5, at_most=True, unit=" MB"),
            unit=" MB",
        ),
    ]


def _rate_row(number: int, what: str, values: dict[str, list[float]], name: str) -> Row:
    return Row(
        number=number,
        what=what,
        against="requests/s of the bare application of row 1",
        figure=ratio(values[name], values["bare"]),
        reach=Reach(bound={"batch": 50, "stream": 20}[name], at_most=False),
        sides={each: Spread.of(values[each]) for each in (name, "bare")},
        sides_unit="/s",
    )


def _server(stack: ExitStack, buffer_size: int) -> ours.Server:
    return stack.enter_context(
        ours.running(ours.Settings(workers=_WORKERS, buffer_size=buffer_size))
    )


def _stream(port: int, jobs: int) -> float:
    """Jobs completed a second. Those in the buffer when the answer comes do not count."""
    piece = (SUBMISSION + b"\n") * _LINES
    head = (
        "POST /jobs/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        f"Content-Length: {len(piece) * (jobs // _LINES)}\r\n\r\n"
    )
    with connect(port) as client:
        began = time.perf_counter()
        client.sendall(head.encode())
        for _ in range(jobs // _LINES):
            client.sendall(piece)
        answer = client.recv(65536)
        seconds = time.perf_counter() - began
    if b" 201 " not in answer[:20]:
        raise LoadError(f"the server answered {answer[:500]!r}")
    _wait_until_idle(port)
    return (jobs - _STREAM_BUFFER - _WORKERS) / seconds


def _wait_until_idle(port: int) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        status = json.loads(get(port, "/health/ready"))
        if status["buffered"] == status["busy"] == 0:
            return
        time.sleep(0.05)
    raise LoadError("the jobs do not end")
