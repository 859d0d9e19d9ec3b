"""Rows 3 and 4: many jobs in one request, beside single requests to a bare application."""

import json
import time
from contextlib import ExitStack
from itertools import repeat

from bench import ours, reference
from bench.children import Server
from bench.load import Clients, LoadError, connect, get, post
from bench.measuring import Spread, cpu_seconds, resident_bytes, take_turns
from bench.row import Result, Row, at_least, at_most
from bench.single import BARE, cpu_per_request
from bench.workload import SUBMISSION

_BATCH = 1_000
_BUFFER = 100_000
_STREAM_BUFFER = 1_000

# Names of sides.
_BATCHED, _STREAMED = "trio-jobs, in a batch", "trio-jobs, in a stream"

# One system call sends so many lines.
_LINES = 500

# Longer than any measurement here takes.
_SECONDS = 60.0


def measure(
    *, requests: int = 2_400, batched: int = 100_000, streamed: int = 50_000, turns: int = 5
) -> list[Result]:
    """Measure both rows, and the server's memory under the streams.

    Args:
        requests: How many requests the bare application gets in a turn.
        batched: How many jobs the batches of a turn have; a whole number of thousands.
        streamed: How many lines a stream has.
        turns: How often each server has its turn.
    """
    with ExitStack() as stack:
        bare = stack.enter_context(reference.running())
        answer = cpu_per_request(stack, bare, repeat(post("/jobs", SUBMISSION)), requests)
        batches = stack.enter_context(ours.running(ours.Settings(buffer_size=_BUFFER)))
        senders = stack.enter_context(Clients(batches.port, connections=4))
        stream = stack.enter_context(ours.running(ours.Settings(buffer_size=_STREAM_BUFFER)))

        def process_batches() -> float:
            batch = post("/jobs/batch", b"[" + b",".join([SUBMISSION] * _BATCH) + b"]")
            before = cpu_seconds(batches.pid)
            senders.send(repeat(batch, batched // _BATCH))
            return _micros_until_idle(batches, before, batched)

        def process_stream() -> float:
            before = cpu_seconds(stream.pid)
            send_stream(stream.port, streamed)
            return _micros_until_idle(stream, before, streamed)

        subjects = {BARE: answer, _BATCHED: process_batches, _STREAMED: process_stream}
        process_stream()  # fills the store
        before = resident_bytes(stream.pid)
        values = take_turns(subjects, turns=turns)
        grown = (resident_bytes(stream.pid) - before) / 1e6
    rows: list[Result] = []
    for number, name, what, bound in (
        (3, _BATCHED, f"`POST /jobs/batch`, {_BATCH:,} a batch: jobs processed", 25),
        (4, _STREAMED, "`POST /jobs/stream`: jobs processed", 30),
    ):
        names = (number, what, "the CPU of one request to the bare application of row 1")
        both = {side: values[side] for side in (name, BARE)}
        reach = at_least(bound, " jobs")
        rows.append(Row.of_turns(names, both, over=BARE, under=name, reach=reach, unit=" µs"))
    return [
        *rows,
        Row(
            number=4,
            what=f"growth of the process over {turns * streamed:,} streamed jobs",
            against="flat memory, once the store is full of completed jobs",
            figure=Spread.of([grown]),
            reach=at_most(5, " MB"),
            unit=" MB",
        ),
    ]


def send_stream(port: int, jobs: int) -> None:
    """Submit so many jobs, whole thousands, in one stream, and wait for its answer.

    Raises:
        LoadError: The answer is not a success.
    """
    piece = (SUBMISSION + b"\n") * _LINES
    head = (
        "POST /jobs/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        f"Content-Length: {len(piece) * (jobs // _LINES)}\r\n\r\n"
    )
    with connect(port) as client:
        client.sendall(head.encode())
        for _ in range(jobs // _LINES):
            client.sendall(piece)
        answer = client.recv(65536)
    if b" 201 " not in answer[:20]:
        raise LoadError(f"the server answered {answer[:500]!r}")


def _micros_until_idle(server: Server, before: float, jobs: int) -> float:
    """Microseconds of CPU per job, once every job has completed."""
    wait_until_idle(server)
    return (cpu_seconds(server.pid) - before) / jobs * 1e6


def wait_until_idle(server: Server) -> None:
    """Wait until every job has completed.

    Raises:
        LoadError: That takes longer than any measurement here.
    """
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        status = json.loads(get(server.port, "/health/ready"))
        if status["buffered"] == status["busy"] == 0:
            return
        time.sleep(0.05)
    raise LoadError("the jobs do not end")
