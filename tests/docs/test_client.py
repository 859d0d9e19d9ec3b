"""The page's clients survive a restart of the server on the same port."""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from tests.command import Command, Gate, ledger, running_command, started_command, write_files
from tests.docs.blocks import DOCS, blocks_of

[CLIENT] = [
    block.text for block in blocks_of(DOCS / "how-to/client.md") if block.name == "plain.py"
]

[FOLLOW] = [
    block.text for block in blocks_of(DOCS / "how-to/client.md") if block.name == "follow.py"
]

CONFIG = '[handlers]\nemail = "work:at_the_gate"\n'

# Imported before the client: it says when it pauses, and does not pause for long.
PAUSES = """
import sys
import time

sleep = time.sleep

def pause(seconds):
    print(f"pauses for {seconds} s", file=sys.stderr, flush=True)
    sleep(0.05)

time.sleep = pause
"""


@asynccontextmanager
async def client_of(folder: Path, url: str, *, key: str = "order-4712") -> AsyncIterator[Command]:
    """The client, which says on standard error what it says."""
    write_files(folder)
    (folder / "pauses.py").write_text(PAUSES)
    text = CLIENT.replace("http://localhost:8080", url).replace("order-4712", key)
    assert url in text
    assert key in text
    (folder / "client.py").write_text(f"import pauses\n{text}")
    command = ("sh", "-c", f"exec {sys.executable} client.py >&2")
    async with started_command(folder, command=command) as client:
        yield client


async def test_client_gets_its_job_done_though_the_server_is_killed(tmp_path: Path) -> None:
    server = tmp_path / "server"
    with Gate(server) as gate:
        async with running_command(server, config=CONFIG) as first:
            address = first.url.removeprefix("http://")
            async with client_of(tmp_path / "client", first.url) as client:
                await first.wait_for_line("at_the_gate")
                first.send(signal.SIGKILL)
                await first.wait_exit()
                # The first one for the answer that was lost, the second for a refused connection.
                await client.wait_for_lines(2, "pauses for 1 s")
                gate.open()
                async with running_command(
                    server, "--bind", address, config=CONFIG, environment={}
                ) as second:
                    assert await client.wait_exit() == 0
                    assert len(second.lines_with("at_the_gate")) == 1

    assert client.lines[-1] == "succeeded None"
    assert len(ledger(server)) == 1


async def test_clients_meet_a_server_that_stops_and_the_next_one(tmp_path: Path) -> None:
    server = tmp_path / "server"
    with Gate(server) as gate:
        async with running_command(server, config=CONFIG) as first:
            address = first.url.removeprefix("http://")
            async with (
                client_of(tmp_path / "accepted", first.url, key="accepted") as accepted,
            ):
                await first.wait_for_line("at_the_gate")
                first.send(signal.SIGTERM)
                await first.wait_for_line("draining")
                async with client_of(tmp_path / "late", first.url, key="late") as late:
                    await late.wait_for_line("pauses for 25 s")
                    gate.open()
                    assert await accepted.wait_exit() == 0
                    assert await first.wait_exit() == 0
                    async with running_command(
                        server, "--bind", address, config=CONFIG, environment={}
                    ):
                        assert await late.wait_exit() == 0

    assert accepted.lines == ["succeeded None"]  # without a pause: it was answered at once
    assert late.lines[-1] == "succeeded None"
    assert len(ledger(server)) == 2


async def test_program_that_follows_sees_each_job_across_lost_connections(tmp_path: Path) -> None:
    config = '[handlers]\nemail = "work:quick"\nsms = "work:quick"\n'
    folder = tmp_path / "client"
    write_files(folder)
    (folder / "pauses.py").write_text(PAUSES)
    server = tmp_path / "server"
    async with running_command(server, config=config) as first:
        address = first.url.removeprefix("http://")
        async with broken_now_and_then(address) as door:
            text = FOLLOW.replace("localhost:8080", f"127.0.0.1:{door.port}")
            assert text != FOLLOW
            (folder / "follow.py").write_text(f"import pauses\n{text}")
            command = ("sh", "-c", f"exec {sys.executable} follow.py >&2")
            async with started_command(folder, command=command) as program:
                await door.opened.acquire()
                ids = []
                for n in range(5):
                    door.cut()
                    ids += [await first.submit("email", n) for _ in range(3)]
                    await first.submit("sms", n)
                    ids.append((await first.run("email", n))["id"])
                    if n % 2:
                        await door.opened.acquire()
                for job_id in ids:
                    await program.wait_for_line("succeeded", job_id)
                first.send(signal.SIGKILL)
                await first.wait_exit()
                assert not program.lines_with("unseen")
                async with running_command(
                    server, "--bind", address, config=config, environment={}
                ) as second:
                    await program.wait_for_line("jobs may have ended unseen")
                    last = await second.submit("email")
                    await program.wait_for_line("succeeded", last)

    assert len({*program.lines_with("succeeded")}) == len(ids) + 1  # and none of the others


class Door:
    """Leads to the server, until it is cut."""

    def __init__(self) -> None:
        self.port = 0
        self.opened = trio.Semaphore(0)
        self._scopes: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Break the connections that there are."""
        for scope in self._scopes:
            scope.cancel()

    async def lead(self, address: str, outside: trio.SocketStream) -> None:
        """Lead one client to the server."""
        host, _, port = address.partition(":")
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with (
                    outside,
                    await trio.open_tcp_stream(host, int(port)) as inside,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(self._pass_on, outside, inside)
                    async for data in inside:
                        await outside.send_all(data)
                        self.opened.release()
                    nursery.cancel_scope.cancel()
            except* (OSError, trio.BrokenResourceError):
                pass  # the server is not there, or is killed
            finally:
                self._scopes.remove(scope)

    async def _pass_on(self, source: trio.SocketStream, to: trio.SocketStream) -> None:
        async for data in source:
            await to.send_all(data)


@asynccontextmanager
async def broken_now_and_then(address: str) -> AsyncIterator[Door]:
    """A way to the server that a test can cut."""
    door = Door()
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        door.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, partial(door.lead, address), [listener])
        yield door
        nursery.cancel_scope.cancel()
