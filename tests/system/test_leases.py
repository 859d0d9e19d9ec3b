"""The lease of the real command: a server is killed, frozen, blocked or without its database."""

import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from tests.command import PATIENCE, Command, running_command
from tests.postgres.cluster import Mode
from tests.postgres.databases import Database
from tests.postgres.fixtures import CrashDatabase

LEASE = 4

CONFIG = """
[http]
bind = "127.0.0.1:0"
[pool]
workers = 1
[store]
url = "{url}"
lease = {lease}
timeout = 60
[handlers]
quick = "work:quick"
hang = "work:hang_at_first"
block = "work:block_at_first"
once = {{ call = "work:hang_at_first", repeatable = false }}
"""

# A job's first run never ends by itself; a second one lets it go on.
HANDLERS = """
import os
import time
from pathlib import Path

import trio


def note(word):
    with open(word, "a") as lines:
        lines.write(f"{os.getpid()}\\n")


def is_first():
    return Path("begun").read_text().count("\\n") == 1


async def quick(payload):
    return payload


async def hang_at_first(payload):
    note("begun")
    if not is_first():
        return os.getpid()
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        note("cut")
        raise


async def block_at_first(payload):
    note("begun")
    while is_first():
        time.sleep(0.01)
    return os.getpid()
"""


def server_of(
    folder: Path, database: Database, lease: int = LEASE
) -> AbstractAsyncContextManager[Command]:
    """A server that accepts connections."""
    config = CONFIG.format(url=database.url, lease=lease)
    return running_command(folder, config=config, handlers=HANDLERS)


async def noted(folder: Path, word: str, number: int = 1) -> list[int]:
    """The processes that handlers have noted, once there are so many."""
    path = folder / word
    with trio.fail_after(PATIENCE):
        # Nothing else tells what a handler does in another process.
        while not path.exists() or path.read_text().count("\n") < number:  # noqa: ASYNC110
            await trio.sleep(0.02)
    return [int(line) for line in path.read_text().splitlines()]


async def who_began(folder: Path, one: Command, other: Command) -> tuple[Command, Command]:
    """The first server whose handler has begun, and the other one, which may have by now."""
    begun = (await noted(folder, "begun"))[0]
    return (one, other) if begun == one.process.pid else (other, one)


async def end_of(server: Command, job_id: str) -> dict[str, object]:
    """The job at this server, once it has ended."""
    headers = {"Prefer": f"wait={PATIENCE:.0f}"}
    job: dict[str, object] = (await server.client.get(f"/jobs/{job_id}", headers=headers)).json()
    assert job["status"] == "completed", job
    return job


async def test_a_killed_servers_job_runs_at_another(tmp_path: Path, database: Database) -> None:
    async with server_of(tmp_path, database) as one, server_of(tmp_path, database) as other:
        job_id = await one.submit("hang")
        killed, left = await who_began(tmp_path, one, other)
        killed.send(signal.SIGKILL)

        job = await end_of(left, job_id)

        assert (job["outcome"], job["result"]) == ("succeeded", left.process.pid)
        assert (job["attempts"], job["interruptions"]) == (2, 1)
        left.send(signal.SIGTERM)
        assert await left.wait_exit() == 0


async def test_a_job_that_may_not_run_twice_ends_with_its_server(
    tmp_path: Path, database: Database
) -> None:
    async with server_of(tmp_path, database) as one, server_of(tmp_path, database) as other:
        job_id = await one.submit("once")
        killed, left = await who_began(tmp_path, one, other)
        killed.send(signal.SIGKILL)

        job = await end_of(left, job_id)

        assert job["outcome"] == "interrupted"
        assert await noted(tmp_path, "begun") == [killed.process.pid]


async def test_a_frozen_server_cuts_its_job_before_it_goes_on(
    tmp_path: Path, database: Database
) -> None:
    async with server_of(tmp_path, database) as one, server_of(tmp_path, database) as other:
        job_id = await one.submit("hang")
        frozen, left = await who_began(tmp_path, one, other)
        frozen.send(signal.SIGSTOP)
        job = await end_of(left, job_id)
        assert job["result"] == left.process.pid
        assert not (tmp_path / "cut").exists()

        frozen.send(signal.SIGCONT)

        assert await noted(tmp_path, "cut") == [frozen.process.pid]
        await frozen.wait_for_line("lease_lost")
        assert (await frozen.run("quick", 1))["result"] == 1
        assert await end_of(frozen, job_id) == job
        for server in (one, other):
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0


async def test_the_end_of_a_handler_that_blocked_past_the_lease_is_refused(
    tmp_path: Path, database: Database
) -> None:
    async with server_of(tmp_path, database) as one, server_of(tmp_path, database) as other:
        job_id = await one.submit("block")
        blocked, left = await who_began(tmp_path, one, other)

        assert (await end_of(left, job_id))["result"] == left.process.pid
        await blocked.wait_for_line("end_refused", job_id)
        assert (await end_of(blocked, job_id))["result"] == left.process.pid


async def test_an_outage_beyond_the_lease_interrupts_jobs_and_they_run_again(
    tmp_path: Path, crash_database: CrashDatabase
) -> None:
    async with server_of(tmp_path, crash_database) as server:
        job_id = await server.submit("hang")
        await noted(tmp_path, "begun")
        await crash_database.stop("immediate")

        await noted(tmp_path, "cut")
        assert await noted(tmp_path, "begun") == [server.process.pid]

        await crash_database.start()
        job = await end_of(server, job_id)
        assert (job["outcome"], job["attempts"]) == ("succeeded", 2)
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_of_the_database_interrupts_no_job(
    tmp_path: Path, crash_database: CrashDatabase, mode: Mode
) -> None:
    async with server_of(tmp_path, crash_database, lease=120) as server:
        job_id = await server.submit("hang")
        await noted(tmp_path, "begun")
        await crash_database.restart(mode)
        await server.wait_for_line("listener_back")

        answer = await server.client.post(f"/jobs/{job_id}/cancel")
        assert answer.is_success, answer.text  # 200 if the job has ended by then
        job = await end_of(server, job_id)
        assert (job["outcome"], job["attempts"]) == ("cancelled", 1)
