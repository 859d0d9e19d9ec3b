"""More clients than there should be: the cap, and what happens without descriptors."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import trio

from tests.server.serving import get, post

# A server in a process of its own, for which ``ulimit`` holds. Told to, it opens all that it can.
_SERVER = """
    import logging, os, sys, trio
    from trio.testing import wait_all_tasks_blocked
    from quart import request
    from quart_trio import QuartTrio
    from trio_jobs.server.serve import serve
    from trio_jobs.server.sockets import bind_sockets
    from trio_jobs.settings import HttpSettings

    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s %(message)s")
    app = QuartTrio("app")

    @app.get("/import")
    async def lazy():
        import colorsys  # as libraries do that are in no hurry
        return colorsys.__name__

    @app.post("/length")
    async def length():
        return str(len(await request.get_data()))

    @app.post("/")
    async def index():
        with open(os.devnull) as file:  # as a job may
            return str(len(await request.get_data()))

    def exhaust():
        try:
            while True:
                os.dup(0)
        except OSError:
            logging.info("exhausted")

    async def main():
        listeners = bind_sockets(["127.0.0.1:0"])
        print(listeners.urls[0].rpartition(":")[2], flush=True)
        closing = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: serve(
                app, listeners, HttpSettings(graceful_timeout=0.5), closing=closing,
                health_path="/import",
            ))
            while await trio.to_thread.run_sync(sys.stdin.readline):
                await wait_all_tasks_blocked()  # whoever has connected is let in
                exhaust()
            closing.set()

    trio.run(main)
"""


@contextlib.contextmanager
def server_with_few_descriptors(limit: int) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )
    with process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process
        finally:
            process.kill()


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return client.recv(65536)


@pytest.mark.parametrize(("limit", "clients"), [(64, 100), (128, 300)])
def test_with_few_descriptors_clients_get_in_in_turn_and_jobs_can_open_files(
    limit: int, clients: int
) -> None:
    """S13: with the limit for the whole process, and far more clients than that."""
    with (
        server_with_few_descriptors(limit) as (port, process),
        contextlib.ExitStack() as stack,
    ):
        first = stack.enter_context(wait_connect(port))
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(clients)
        ]

        assert "Running on" in next_line(process)
        assert "connection_limit_reached" in next_line(process)
        for _ in range(3):
            assert ask(first, post(b"12345")).endswith(b"5")  # its very first request
        for client in idle[: -limit // 4]:
            client.close()
        assert ask(idle[-1], post(b"123")).endswith(b"3")
        log = stop(process)

    assert len(log.splitlines()) < 15, log
    assert "Traceback" not in log


def test_the_first_request_works_when_nothing_can_be_opened() -> None:
    with (
        server_with_few_descriptors(64) as (port, process),
        wait_connect(port) as first,
        socket.create_connection(("127.0.0.1", port), timeout=10) as second,
    ):
        assert process.stdin is not None
        process.stdin.write("exhaust\n")
        process.stdin.flush()
        assert "Running on" in next_line(process)
        assert "exhausted" in next_line(process)

        assert ask(first, get("/import")).endswith(b"colorsys")
        assert ask(second, post(b"12345", "/length")).endswith(b"5")
        log = stop(process)

    assert "Traceback" not in log


def wait_connect(port: int) -> socket.socket:
    """Connect as soon as the server listens."""
    for _ in range(1000):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            trio.run(trio.sleep, 0.01)
    raise TimeoutError


def next_line(process: "subprocess.Popen[str]") -> str:
    """The next line of the server's log."""
    assert process.stderr is not None
    return process.stderr.readline()


def stop(process: "subprocess.Popen[str]") -> str:
    """End it by its standard input; what it has logged."""
    _, log = process.communicate(input="", timeout=10)
    assert process.returncode == 0, log
    return log
