"""Row 9: the CPU of a server with many clients, none of which sends or gets anything."""

import resource
import time
from contextlib import ExitStack

from bench import ours
from bench.load import LoadError, connect, post
from bench.measuring import Spread, cpu_seconds
from bench.row import Result, Row, at_most

# Descriptors beside those of the connections.
_SPARE = 200

_HANDLER = '[handlers]\ndefault = "bench.workload:forever"\n'

# A job that never ends, and the wish to wait for it.
_WAIT = post("/jobs", b'{"type": "forever"}').replace(b"\r\n", b"\r\nPrefer: wait=120\r\n", 1)


def measure(
    *, connections: int = 1_000, waiters: int = 10_000, seconds: float = 10, turns: int = 3
) -> list[Result]:
    """Measure the row.

    Args:
        connections: Keep-alive connections without a request.
        waiters: Requests that wait for a job of their own.
        seconds: The length of a turn.
        turns: How many turns are measured.
    """
    _raise_limit(connections + waiters + _SPARE)
    with ExitStack() as stack:
        http = {
            "keep_alive_timeout": 120,
            "max_wait_seconds": 120,
            "max_waiters": waiters,
            "max_connections": connections + waiters + _SPARE,
        }
        settings = ours.Settings(buffer_size=waiters, grace_period=0, handlers=_HANDLER, http=http)
        server = stack.enter_context(ours.running(settings))
        for _ in range(connections):
            client = stack.enter_context(connect(server.port))
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if b" 200 " not in client.recv(65536)[:20]:
                raise LoadError("no 200 for /health")
        for _ in range(waiters):
            client = stack.enter_context(connect(server.port))
            client.sendall(_WAIT)
        _settle(server.pid)
        values = []
        for _ in range(turns):
            before = cpu_seconds(server.pid)
            time.sleep(seconds)
            values.append((cpu_seconds(server.pid) - before) / seconds * 100)
    return [
        Row(
            number=9,
            what=f"CPU with {connections:,} idle connections and {waiters:,} waiters",
            against=f"a core, over {turns * seconds:.0f} s",
            figure=Spread.of(values),
            reach=at_most(0.1, " %"),
            unit=" %",
        )
    ]


def _settle(pid: int) -> None:
    """Wait until the server has handled the last requests."""
    used = cpu_seconds(pid)
    while True:
        time.sleep(1)
        before, used = used, cpu_seconds(pid)
        if used - before < 0.01:
            return


def _raise_limit(descriptors: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(descriptors, hard), hard))
