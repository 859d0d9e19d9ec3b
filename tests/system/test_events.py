"""`GET /events` of the real command: a stop, a restart, a token that is taken away."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.command import PATIENCE, Command, Gate, running_command
from tests.server.serving import get

CONFIG = """
[pool]
workers = 2

[handlers]
quick = "work:quick"
at_the_gate = "work:at_the_gate"
"""


class Stream:
    """One stream of events, read line by line: each event is in one chunk of the answer."""

    def __init__(self, connection: trio.SocketStream) -> None:
        self._connection = connection
        self._ahead = b""
        self.id = ""
        self.events: list[str] = []

    async def wait_for(self, *parts: str) -> str:
        """The next line with all of these parts."""
        while True:
            line = await self._next()
            assert line is not None, parts
            if all(part in line for part in parts):
                return line

    async def rest(self) -> str:
        """The last event, when the answer is complete."""
        await self.wait_for("\r")  # the end of the head, or of a chunk
        while (line := await self._next()) != "0\r":
            assert line is not None, "the answer is cut"
        return self.events[-1]

    async def _next(self) -> str | None:
        while b"\n" not in self._ahead:
            more = await self._connection.receive_some()
            if not more:
                return None
            self._ahead += more
        found, _, self._ahead = self._ahead.partition(b"\n")
        line = found.decode()
        name, _, value = line.partition(": ")
        if name == "event":
            self.events.append(value)
        elif name == "id":
            self.id = value
        return line


@asynccontextmanager
async def stream(server: Command, query: str = "", *lines: str) -> AsyncIterator[Stream]:
    """A stream of events, over a connection of its own; ``lines`` are headers."""
    port = int(server.url.rpartition(":")[2])
    with trio.fail_after(PATIENCE):
        async with await trio.open_tcp_stream("127.0.0.1", port) as connection:
            await connection.send_all(get(f"/events{query}", *lines))
            one = Stream(connection)
            await one.wait_for("HTTP/1.1 200 OK")
            yield one


@pytest.mark.parametrize("job", [True, False], ids=["draining", "idle"])
async def test_20_streams_see_the_stop_to_its_end(tmp_path: Path, *, job: bool) -> None:
    last: list[str] = []
    seen = trio.Semaphore(0)

    async def watch(server: Command) -> None:
        async with stream(server) as one:
            await one.wait_for('"status":"ready"')
            seen.release()
            if job:
                await one.wait_for('"status":"shutting down"')
                seen.release()
            last.append(await one.rest())

    with Gate(tmp_path) as gate:
        async with (
            running_command(tmp_path, config=CONFIG) as server,
            trio.open_nursery() as nursery,
        ):
            if job:
                await server.submit("at_the_gate")
            for _ in range(20):
                nursery.start_soon(watch, server)
            for _ in range(20):
                await seen.acquire()
            server.send(signal.SIGTERM)
            if job:
                for _ in range(20):
                    await seen.acquire()
                gate.open()
            assert await server.wait_exit() == 0

    assert last == ["bye"] * 20
    assert not server.lines_with("connections_cut")


async def test_program_that_resumes_learns_of_every_job_and_of_a_restart(tmp_path: Path) -> None:
    query = "?state=0&type=quick"
    async with running_command(tmp_path, config=CONFIG) as server:
        async with stream(server, query) as one:
            await one.wait_for("id: ")
            first = await server.submit("quick", 1)
            assert first in await one.wait_for('"jobs"')
        missed = [await server.submit("quick", n) for n in range(3)]
        for job_id in missed:
            await server.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=30"})
        async with stream(server, query, f"Last-Event-ID: {one.id}") as again:
            line = await again.wait_for('"jobs"')
            assert all(job_id in line for job_id in missed)
            assert first not in line
    async with (
        running_command(tmp_path, config=CONFIG) as server,
        stream(server, query, f"Last-Event-ID: {again.id}") as other,
    ):
        await other.wait_for("id: ")

    assert other.events == ["reset"]


async def test_token_that_a_reload_takes_away_ends_its_streams(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("read old-token-0123456789 ann\ncontrol other-token-0123456789\n")
    tokens.chmod(0o600)
    config = f'[http]\ntoken_file = "tokens"\n{CONFIG}'
    async with (
        running_command(tmp_path, config=config) as server,
        stream(server, "", "Authorization: Bearer old-token-0123456789") as old,
        stream(server, "", "Authorization: Bearer other-token-0123456789") as other,
    ):
        for each in (old, other):
            await each.wait_for('"status":"ready"')
        tokens.write_text("control other-token-0123456789\n")
        server.send(signal.SIGHUP)
        assert await old.rest() == "bye"
        server.send(signal.SIGTERM)
        await other.wait_for('"reason":"stopped"')
        assert await server.wait_exit() == 0
