"""The service manager is told when the server accepts connections, and when it stops."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.command import (
    PATIENCE,
    SCRIPT,
    Gate,
    configuration,
    run_command,
    running_command,
    started_command,
)
from trio_jobs.service_manager import ServiceManager

HANDLERS = """
import os

def environment(payload): return os.environ.get("NOTIFY_SOCKET")
async def at_the_gate(payload):
    import trio
    await trio.lowlevel.wait_readable(os.open("gate", os.O_RDONLY | os.O_NONBLOCK))
"""
CONFIG = """
[pool]
grace_period = 20.0
[handlers]
at_the_gate = "work:at_the_gate"
thread = "work:environment"
process = { call = "work:environment", run = "process" }
"""
STOPPING = "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC="


class Manager:
    """One end of the protocol.

    Attributes:
        address: What the server gets as NOTIFY_SOCKET.
        environment: What the server gets.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.environment = {"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0", "NOTIFY_SOCKET": address}
        self._bound_to = address.replace("@", "\0", 1)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self._bound_to)
        self.socket.setblocking(False)

    async def heard(self) -> str:
        """The next message, once there is one."""
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(self.socket)
            return self.socket.recv(1_000).decode()

    def fill(self) -> None:
        """Send as much as there is room for while nobody reads."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    other.sendto(b"x", self._bound_to)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = f"{tmp_path}/notify"
    manager = Manager(path if request.param == "path" else f"@{path}")
    yield manager
    manager.socket.close()


async def test_manager_is_told_of_the_port_and_of_the_drain_and_handlers_cannot_tell_it(
    manager: Manager, tmp_path: Path
) -> None:
    folder = tmp_path / "server"
    # An import that takes as long as the test likes: opening waits for the other end.
    handlers = "open('go').close()\n" + HANDLERS
    folder.mkdir()
    os.mkfifo(folder / "go")
    with Gate(folder) as gate:
        async with started_command(
            folder, config=CONFIG, handlers=handlers, environment=manager.environment
        ) as server:
            # Returns when the server has come to the import.
            await trio.to_thread.run_sync((folder / "go").write_text, "")
            (folder / "go").unlink()
            (folder / "go").touch()  # for the process handler, which imports the module again
            assert await manager.heard() == "READY=1\nSTATUS=ready"
            with trio.fail_after(PATIENCE):
                await server.wait_running()
            assert (await server.client.get("/health")).status_code == 200
            for kind in ("thread", "process"):
                job = await server.run(kind)
                assert (job["outcome"], job["result"]) == ("succeeded", None)

            await server.submit("at_the_gate")
            server.send(signal.SIGTERM)
            text, _, microseconds = (await manager.heard()).rpartition("=")
            gate.open()

            assert await server.wait_exit() == 0
    assert f"{text}=" == STOPPING
    assert 20e6 < int(microseconds) < 30e6
    with pytest.raises(BlockingIOError):
        manager.socket.recv(1_000)


async def test_start_that_fails_tells_nothing(manager: Manager, tmp_path: Path) -> None:
    ended = await run_command(
        tmp_path / "server",
        config=configuration("nothing"),
        environment=manager.environment,
        command=SCRIPT,
    )

    assert ended.status == 2
    with pytest.raises(BlockingIOError):
        manager.socket.recv(1_000)


@pytest.mark.parametrize("address", ["/nowhere/notify", "/" + 200 * "x", "vsock:2:1", ""])
async def test_manager_that_is_not_there_is_told_of_once(address: str, tmp_path: Path) -> None:
    environment = {"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0", "NOTIFY_SOCKET": address}
    async with running_command(
        tmp_path, config=CONFIG, handlers=HANDLERS, environment=environment
    ) as server:
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0

    assert len(server.lines_with("service_manager_not_told reason=")) == 1


async def test_manager_that_does_not_read_holds_up_nothing(
    manager: Manager, tmp_path: Path
) -> None:
    manager.fill()
    async with running_command(
        tmp_path / "server", config=CONFIG, handlers=HANDLERS, environment=manager.environment
    ) as server:
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0

    assert len(server.lines_with("service_manager_not_told reason=")) == 1


def test_without_a_manager_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    environment: dict[str, str] = {}
    manager = ServiceManager.from_environment(environment)

    manager.tell_ready()
    manager.tell_stopping(seconds=1.0)

    assert caplog.records == []
