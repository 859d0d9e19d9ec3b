"""Rows 3 and 4: many jobs by one request, beside what single requests could bring."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench import ours
from bench.children import python_module
from bench.load import Clients, LoadError, connect, get, post
from bench.measuring import Spread, cpu_seconds, ratio, resident_bytes, take_turns
from bench.row import Reach, Result, Row
from bench.workload import SUBMISSION, batch, lines

_BATCH = 1_000
_BATCHES = 100
_BUFFER = _BATCH * _BATCHES
_STREAM_BUFFER = 1_000
_WORKERS = 10

# Lines sent by one system call.
_LINES = 500

_MEGABYTE = 1_000_000

# Nothing here takes so long.
_SECONDS = 60.0


def measure(*, requests: int = 1600, streamed: int = 50_000, turns: int = 5) -> list[Result]:
    """Both rows, and the memory of the second.

    Args:
        requests: How many single ones the bare application gets each turn.
        streamed: How many lines a stream has.
        turns: How often each has its turn.
    """
    with ExitStack() as stack:
        bare = stack.enter_context(python_module("bench.reference", "bare"))
        port = int(bare.wait_for(r"^port (\d+)")[1])
        singles = stack.enter_context(Clients(port))
        batches = _server(stack, _BUFFER)
        stream = _server(stack, _STREAM_BUFFER)
        senders = stack.enter_context(Clients(batches.port, connections=4))
        one_by_one = post("/jobs", SUBMISSION)
        by_batch = post("/jobs/batch", batch(_BATCH))

        def admitted() -> float:
            rate = _BUFFER / senders.send(by_batch, count=_BATCHES)
            _wait_until_idle(batches.port)
            return rate

        cpu = {"bare": _Cpu(bare.pid), "stream": _Cpu(stream.pid)}

        def answered() -> float:
            with cpu["bare"].used_for(requests):
                return requests / singles.send(one_by_one, count=requests)

        def completed() -> float:
            with cpu["stream"].used_for(streamed):
                return _stream(stream.port, streamed)

        subjects = {"bare": answered, "batch": admitted, "stream": completed}
        for warm_up in subjects.values():
            warm_up()
        for each in cpu.values():
            each.micros.clear()
        before = resident_bytes(stream.pid)
        values = take_turns(subjects, turns=turns)
        grown = (resident_bytes(stream.pid) - before) / _MEGABYTE
    sides = {name: Spread.of(each) for name, each in values.items()}
    against = "requests/s of the bare application of row 1"
    return [
        Row(
            number=3,
            what=f"`POST /jobs/batch`, {_BATCH:,} a batch, buffer {_BUFFER:,}: admitted jobs/s",
            against=against,
            figure=ratio(values["batch"], values["bare"]),
            reach=Reach(bound=50, at_most=False),
            sides={"batch": sides["batch"], "bare": sides["bare"]},
            sides_unit="/s",
        ),
        Row(
            number=4,
            what=f"`POST /jobs/stream`, buffer {_STREAM_BUFFER:,}: completed jobs/s",
            against=against,
            figure=ratio(values["stream"], values["bare"]),
            reach=Reach(bound=20, at_most=False),
            sides={"stream": sides["stream"], "bare": sides["bare"]},
            sides_unit="/s",
        ),
        Row(
            number=4,
            what="the same by what they cost the server: jobs for the CPU of one request",
            against="a request to the bare application",
            figure=ratio(cpu["bare"].micros, cpu["stream"].micros),
            reach=None,
            sides={name: Spread.of(each.micros) for name, each in cpu.items()},
            sides_unit=" µs",
        ),
        Row(
            number=4,
            what=f"growth of the process over {turns * streamed:,} streamed jobs",
            against="flat memory, once as many jobs are kept as may be",
            figure=Spread.of([grown]),
            reach=Reach(bound=5, at_most=True, unit=" MB"),
            unit=" MB",
        ),
    ]


class _Cpu:
    """What a process has used for each thing that it did, turn by turn."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.micros: list[float] = []

    @contextmanager
    def used_for(self, count: int) -> Iterator[None]:
        """Note what it uses while the block runs, for each of so many."""
        before = cpu_seconds(self._pid)
        yield
        self.micros.append((cpu_seconds(self._pid) - before) / count * 1e6)


def _server(stack: ExitStack, buffer_size: int) -> ours.Server:
    return stack.enter_context(
        ours.running(ours.Settings(workers=_WORKERS, buffer_size=buffer_size))
    )


def _stream(port: int, jobs: int) -> float:
    """Jobs completed a second: all but those that are in the buffer when the answer comes."""
    piece = lines(_LINES)
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
    while True:
        status = json.loads(get(port, "/health/ready"))
        if status["buffered"] == status["busy"] == 0:
            return
        if time.monotonic() > deadline:
            raise LoadError("the server does not come to an end")
        time.sleep(0.05)
