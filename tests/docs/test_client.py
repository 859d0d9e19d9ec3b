"""The page's client survives a restart of the server on the same port."""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.command import Command, Gate, ledger, running_command, started_command, write_files
from tests.docs.blocks import DOCS, blocks_of

[CLIENT] = [
    block.text for block in blocks_of(DOCS / "how-to/client.md") if block.name == "client.py"
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
