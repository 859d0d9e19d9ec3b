"""Rows 22 to 24: jobs with their results, by `POST /jobs/pipe` and by the client's slices of it."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import Thread

import trio

from bench import ours
from bench.children import Server
from bench.load import LoadError, connect
from bench.many import send_stream, wait_until_idle
from bench.measuring import take_turns
from bench.row import Result, Row, at_least, at_most
from bench.workload import SUBMISSION
from trio_jobs.client import AsyncClient

# Names of sides.
_PIPE, _STREAM, _SLICES = "pipe", "stream, without results", "slices of `AsyncClient.map`"

# One system call sends so many lines.
_LINES = 500

_TINY = '[handlers]\ndefault = { call = "bench.workload:tiny", run = "process" }\n'
_NAP = '[handlers]\ndefault = "bench.workload:pause"\n'
_NAP_SECONDS = 0.01
_NAPPERS = 30


def measure(
    *, empty: int = 100_000, tiny: int = 40_000, naps: int = 20_000, turns: int = 3
) -> list[Result]:
    """Measure the rows.

    Args:
        empty: How many jobs that do nothing the pipe and the stream of a turn have.
        tiny: How many jobs of some 0.16 ms, in child processes; whole thousands, as above.
        naps: How many jobs of 10 ms.
        turns: How often each side has its turn.
    """
    with ExitStack() as stack:
        server = stack.enter_context(ours.running())
        rates = take_turns(_both(server, SUBMISSION, empty), turns=turns)
        children = ours.Settings(workers=100, handlers=_TINY)
        server = stack.enter_context(ours.running(children))
        records = take_turns(_both(server, SUBMISSION, tiny), turns=turns)
        nappers = ours.Settings(workers=_NAPPERS, handlers=_NAP)
        server = stack.enter_context(ours.running(nappers))
        line = json.dumps({"type": "nap", "payload": _NAP_SECONDS}).encode()
        waits = take_turns(
            {
                _PIPE: lambda: send_through_pipe(server.port, line, naps),
                _SLICES: lambda: _seconds_of_map(server.port, naps),
            },
            turns=turns,
        )
    return [
        Row.of_turns(
            (22, "jobs that do nothing, each with its result", "`POST /jobs/stream`"),
            {name: [empty / seconds for seconds in each] for name, each in rates.items()},
            over=_PIPE,
            under=_STREAM,
            reach=at_least(0.35),
            unit="/s",
        ),
        Row.of_turns(
            (
                23,
                f"{tiny:,} jobs of 0.16 ms in processes, with their results: time",
                "the same without",
            ),
            records,
            over=_PIPE,
            under=_STREAM,
            reach=at_most(1.1),
            unit=" s",
        ),
        Row.of_turns(
            (24, "jobs of 10 ms, by slices: jobs a second", "one pipe in both directions"),
            {name: [naps / seconds for seconds in each] for name, each in waits.items()},
            over=_SLICES,
            under=_PIPE,
            reach=at_least(0.7),
            unit="/s",
        ),
    ]


def _both(server: Server, line: bytes, jobs: int) -> dict[str, Callable[[], float]]:
    """The seconds of so many jobs through the pipe, and through a stream until all have ended."""

    def stream() -> float:
        began = time.perf_counter()
        send_stream(server.port, jobs)
        wait_until_idle(server)
        return time.perf_counter() - began

    return {_PIPE: lambda: send_through_pipe(server.port, line, jobs), _STREAM: stream}


def send_through_pipe(port: int, line: bytes, jobs: int) -> float:
    """Submit so many jobs, whole thousands, in one pipe; return the seconds until its end.

    Raises:
        LoadError: The answer ends early, or some job did not succeed.
    """
    piece = (line + b"\n") * _LINES
    chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
    head = b"POST /jobs/pipe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    began = time.perf_counter()
    with connect(port) as client:

        def send() -> None:
            client.sendall(head)
            for _ in range(jobs // _LINES):
                client.sendall(chunk)
            client.sendall(b"0\r\n\r\n")

        sender = Thread(target=send, daemon=True)
        sender.start()
        last = b""
        while b"0\r\n\r\n" not in last[-5:]:
            data = client.recv(262_144)
            if not data:
                break
            last = (last + data)[-500:]
        sender.join()
    if b'{"end":"input","lines":%d,"succeeded":%d}' % (jobs, jobs) not in last:
        raise LoadError(f"the pipe ended with {last!r}")
    return time.perf_counter() - began


def _seconds_of_map(port: int, jobs: int) -> float:
    """The same by the Python client, whose slices are requests of their own."""

    async def submit() -> int:
        async with AsyncClient(f"http://127.0.0.1:{port}") as client:
            naps = (_NAP_SECONDS for _ in range(jobs))
            async with client.map("nap", naps) as results:
                return sum([result.outcome == "succeeded" async for result in results])

    began = time.perf_counter()
    if (succeeded := trio.run(submit)) != jobs:
        raise LoadError(f"{succeeded} of {jobs} jobs succeeded")
    return time.perf_counter() - began
