"""Servers whose database fails over to its standby: the URL names both."""

import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.command import Command, Gate
from tests.postgres.cluster import Standby
from tests.postgres.fixtures import CrashDatabase
from tests.system.test_database import running, wait_for


@pytest.fixture
async def standby(crash_database: CrashDatabase) -> AsyncIterator[Standby]:
    """A standby of the test's own server."""
    standby = await trio.to_thread.run_sync(partial(Standby, crash_database.cluster))
    yield standby
    standby.remove()


@pytest.mark.parametrize("attributes", ["read-write", "primary"])
async def test_what_was_accepted_is_at_the_standby_that_takes_over(
    tmp_path: Path, crash_database: CrashDatabase, standby: Standby, attributes: str
) -> None:
    hosts = f"{standby.folder},{crash_database.cluster.folder}"
    url = f"postgresql://postgres@/postgres?host={hosts}&target_session_attrs={attributes}"
    both = replace(crash_database, url=url)
    with Gate(tmp_path) as gate:
        async with running(tmp_path, both, 2, store_lease="60") as servers:
            await _fail_over(servers, gate, crash_database, standby)


async def _fail_over(
    servers: list[Command], gate: Gate, database: CrashDatabase, standby: Standby
) -> None:
    held = await servers[0].submit("wait")
    accepted = [await servers[1].submit("quick", n) for n in range(20)]

    database.kill()
    await trio.to_thread.run_sync(standby.promote)

    for server in servers:
        await server.wait_for_line("database_back")
        await server.wait_for_line("listener_back")
    gate.open()
    later = await servers[1].submit("quick", 20)
    for job_id in (held, *accepted, later):
        assert await wait_for(servers[0], job_id) == "succeeded"
    assert (await servers[1].job(held))["attempts"] == 1  # no lease was lost
    for server in servers:
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0
