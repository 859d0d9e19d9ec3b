"""A server over a file is killed under fire, and stopped under load: no accepted job is lost."""

import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.command import PATIENCE, Command, running_command
from tests.proof.share import share_of
from tests.system.fire import HANDLERS, Accounts, check, configuration, fire, is_quick, rows, shoot

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


async def live_and_die(
    folder: Path, *, lives: int, seed: int, accounts: Accounts, first: int = 0
) -> None:
    """Kill so many servers under fire; the last one finishes all, and stops in order."""
    chance = random.Random(seed)  # noqa: S311
    for life in range(first, first + lives + 1):
        buffer_size = 500 if is_quick(life) else chance.choice([5, 50])
        config = configuration(workers=chance.choice([1, 4, 10]), buffer_size=buffer_size)
        environment = {"LIFE": str(life), "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}
        start = running_command(folder, config=config, handlers=HANDLERS, environment=environment)
        async with start as server:
            if life < first + lives:
                await fire(server, accounts, life=life, seconds=chance.uniform(0.1, 0.8))
                continue
            with trio.fail_after(PATIENCE):
                await shoot(server, accounts, life=life, requests=5)
                await wait_until_all_have_ended(folder, server)
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0, server.log


async def test_killed_under_fire_it_loses_no_accepted_job_and_repeats_none_that_may_not(
    tmp_path: Path,
) -> None:
    accounts = Accounts()

    await live_and_die(tmp_path, lives=3, seed=1, accounts=accounts)

    check(tmp_path, accounts)
    assert accounts.accepted
    assert set(accounts.statuses) <= {201, 429}


@pytest.mark.soak
async def test_a_hundred_lives(tmp_path: Path) -> None:
    accounts = Accounts()

    await live_and_die(tmp_path, lives=max(round(share_of(100)), 2), seed=2, accounts=accounts)

    check(tmp_path, accounts)
    assert set(accounts.statuses) <= {201, 429}


@dataclass(slots=True)
class Stops:
    """What the stops of one file have in common.

    Attributes:
        accounts: What the clients know.
        kept: How many jobs each stop has left in the file.
    """

    accounts: Accounts = field(default_factory=Accounts)
    kept: list[int] = field(default_factory=list)


async def stop_again_and_again(
    folder: Path, *, stops: int, seed: int, drains: Sequence[str] = ("running", "all")
) -> Stops:
    """Stop so many servers under load; the last one finishes what they have kept."""
    chance = random.Random(seed)  # noqa: S311
    seen = Stops()
    for life in range(stops):
        drain = drains[life % len(drains)]
        config = configuration(workers=chance.choice([1, 4, 10]), buffer_size=50, drain=drain)
        environment = {"LIFE": str(life), "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}
        start = running_command(folder, config=config, handlers=HANDLERS, environment=environment)
        async with start as server, trio.open_nursery() as nursery:
            shooting = partial(shoot, server, seen.accounts, life=life, requests=1_000)
            nursery.start_soon(shooting)
            await trio.sleep(chance.uniform(0.1, 0.6))
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0, server.log
            nursery.cancel_scope.cancel()
        check(folder, seen.accounts, kept=True)
        kept = [row for row in rows(folder).values() if row["status"] != 2]
        assert all(row["status"] == 0 for row in kept)
        assert bool(server.lines_with("jobs_kept")) is bool(kept)
        if drain == "all":
            assert all(row["run_at"] is not None for row in kept)
        seen.kept.append(len(kept))
    await live_and_die(folder, lives=0, seed=seed, accounts=seen.accounts, first=stops)
    check(folder, seen.accounts)
    assert all(row["interruptions"] == 0 for row in rows(folder).values())
    assert {row["outcome"] for row in rows(folder).values()} <= {"succeeded", "failed", "cancelled"}
    assert set(seen.accounts.statuses) <= {201, 429, 503}
    return seen


@pytest.mark.parametrize("drain", ["running", "all"])
async def test_sigterm_under_load_runs_each_job_once_and_keeps_the_others(
    tmp_path: Path, drain: str
) -> None:
    seen = await stop_again_and_again(tmp_path, stops=2, seed=3, drains=[drain])

    assert seen.accounts.accepted


@pytest.mark.soak
async def test_two_hundred_stops(tmp_path: Path, report: Path) -> None:
    stops = max(round(share_of(200)), 2)

    seen = await stop_again_and_again(tmp_path, stops=stops, seed=4)

    jobs = rows(tmp_path).values()
    text = (
        f"{stops} stops with status 0, {sum(map(bool, seen.kept))} of which kept jobs,"
        f" {sum(seen.kept)} in all: {len(jobs)} jobs, each of which has ended as it should, once;"
        f" answers: {dict(sorted(seen.accounts.statuses.items()))}"
    )
    (report / "file-stops.txt").write_text(f"{text}\n")
