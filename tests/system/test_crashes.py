"""A server over a file is killed under fire, and stopped under load: no accepted job is lost."""

import random
import signal
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.command import Command, running_command
from tests.proof.share import share_of
from tests.system.fire import HANDLERS, Accounts, check, configuration, fire, rows, shoot

# httpx leaves a body unfinished when the server closes the connection.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


async def wait_until_all_have_ended(folder: Path, server: Command) -> None:
    """Wait for each job that is not completed."""
    while left := [job_id for job_id, row in rows(folder).items() if row["status"] != 2]:
        for job_id in left[:50]:
            answer = await server.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=30"})
            assert answer.status_code == 200


async def live_and_die(folder: Path, *, lives: int, seed: int) -> Accounts:
    """Kill so many servers under fire; the last one finishes all, and stops in order."""
    chance = random.Random(seed)  # noqa: S311
    accounts = Accounts()
    for life in range(lives + 1):
        config = configuration(
            workers=chance.choice([1, 4, 10]), buffer_size=chance.choice([5, 50])
        )
        environment = {"LIFE": str(life), "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}
        start = running_command(folder, config=config, handlers=HANDLERS, environment=environment)
        async with start as server:
            if life < lives:
                await fire(server, accounts, life=life, seconds=chance.uniform(0.1, 0.8))
                continue
            with trio.fail_after(60):
                await shoot(server, accounts, life=life, requests=5)
                await wait_until_all_have_ended(folder, server)
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0, server.log
    return accounts


async def test_killed_under_fire_it_loses_no_accepted_job_and_repeats_none_that_may_not(
    tmp_path: Path,
) -> None:
    accounts = await live_and_die(tmp_path, lives=4, seed=1)

    check(tmp_path, accounts)
    assert accounts.statuses[201] > 20
    assert set(accounts.statuses) <= {201, 429}


@pytest.mark.soak
async def test_a_hundred_lives(tmp_path: Path) -> None:
    accounts = await live_and_die(tmp_path, lives=max(round(share_of(100)), 4), seed=2)

    check(tmp_path, accounts)
    assert set(accounts.statuses) <= {201, 429}


@pytest.mark.parametrize("drain", ["running", "all"])
async def test_sigterm_under_load_runs_each_job_once_and_keeps_the_others(
    tmp_path: Path, drain: str
) -> None:
    accounts = Accounts()
    for life in range(3):
        config = configuration(workers=4, buffer_size=50, drain=drain)
        environment = {"LIFE": str(life), "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}
        start = running_command(tmp_path, config=config, handlers=HANDLERS, environment=environment)
        async with start as server, trio.open_nursery() as nursery:
            nursery.start_soon(partial(shoot, server, accounts, life=life, requests=1_000))
            await trio.sleep(0.4)
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0, server.log
            nursery.cancel_scope.cancel()
        check(tmp_path, accounts, kept=True)
        kept = [row for row in rows(tmp_path).values() if row["status"] != 2]
        assert all(row["status"] == 0 for row in kept)
        assert bool(server.lines_with("jobs_kept")) is bool(kept)
        if drain == "all":
            assert all(row["run_at"] is not None for row in kept)
    assert all(row["interruptions"] == 0 for row in rows(tmp_path).values())
    assert accounts.accepted
