"""Paused types in a pool with a file: over restarts, in drains, and beside jobs of a crash."""

from pathlib import Path
from typing import Literal

import msgspec.structs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.durable import File, make_durable_parts, start_pool
from tests.support import SUCCEEDED, make_job
from trio_jobs import DurableJobs, Ending, Handler, Job, JobStatus, Outcome, open_jobs
from trio_jobs.pool.paused_types import PausedTypes


async def succeed(_: object) -> None:
    pass


def paused_of(jobs: DurableJobs) -> PausedTypes:
    return jobs._pool.paused


async def pause(jobs: DurableJobs, *types: str) -> None:
    """Do what the request does."""
    paused_of(jobs).pause(types)
    store = jobs._pool.store
    await store.note("paused", msgspec.json.encode(paused_of(jobs).types).decode())  # type: ignore[attr-defined]


async def test_pause_survives_a_restart_and_so_do_the_held_jobs(tmp_path: Path) -> None:
    ran: list[int] = []

    async def mail(number: int) -> None:
        ran.append(number)

    path = tmp_path / "jobs.db"
    handlers = {"mail": mail, "other": succeed}
    async with open_jobs(handlers, path=path, workers=1) as jobs:
        await pause(jobs, "mail")
        for number in range(5):
            await jobs.submit("mail", number)
        await trio.testing.wait_all_tasks_blocked(0.05)

    assert ran == []
    async with open_jobs(handlers, path=path, workers=1) as jobs:
        assert paused_of(jobs).types == ["mail"]
        other = await jobs.submit("other")
        await jobs.wait(other.id)
        while jobs.statistics().held < 5:
            await trio.lowlevel.checkpoint()
        assert ran == []
        await paused_of(jobs).resume(["mail"])
        last = await jobs.submit("mail", 5)
        await jobs.wait(last.id)
    assert sorted(ran) == [*range(6)]
    async with open_jobs({"other": succeed}, path=path) as jobs:  # the type is gone
        assert paused_of(jobs).types == []


@pytest.mark.parametrize("drain", ["all", "running"])
async def test_drain_leaves_held_jobs_in_the_file(
    drain: Literal["all", "running"], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "jobs.db"
    handlers = {"mail": Handler.of(succeed, max_running=2), "other": succeed}
    async with open_jobs(handlers, path=path, workers=2, drain=drain) as jobs:
        await pause(jobs, "mail")
        held = [await jobs.submit("mail") for _ in range(5)]
        while jobs.statistics().held < 5:
            await trio.lowlevel.checkpoint()
        held += [await jobs.submit("mail") for _ in range(3)]
        cancelled = held.pop(2)
        await jobs.cancel(cancelled.id)

    assert "jobs_held" not in caplog.text
    async with open_jobs(handlers, path=path, workers=2) as jobs:
        found = [await jobs.get(job.id) for job in held]
        assert {job.status for job in found} == {JobStatus.PENDING}
        await paused_of(jobs).resume(["mail"])
        for job in held:
            assert (await jobs.wait(job.id)).outcome is Outcome.SUCCEEDED
        assert (await jobs.wait(cancelled.id)).outcome is Outcome.CANCELLED


def suspects() -> File:
    jobs = [
        msgspec.structs.replace(make_job(f"s{n}", type=type_), interruptions=1)
        for n, type_ in enumerate(["mail", "other", "mail", "other"])
    ]
    return dict(enumerate(jobs, 1))


@pytest.mark.parametrize("when", ["before", "while the first one runs"])
async def test_suspect_of_a_paused_type_gives_its_turn_to_the_next(when: str) -> None:
    handlers = {"mail": Handler.of(succeed), "other": Handler.of(succeed)}
    parts = make_durable_parts(handlers, file=suspects(), workers=2)  # one holds the others
    ran: list[str] = []
    go_on = trio.Event()

    async def process(job: Job) -> Ending:
        ran.append(job.id)
        if len(ran) == 1:
            await go_on.wait()
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        if when == "before":
            parts.pool.paused.pause(["mail"])
        start_pool(parts, nursery, process)
        await wait_all_tasks_blocked()
        parts.pool.paused.pause(["mail"])
        go_on.set()
        await wait_all_tasks_blocked()

        assert {"s1", "s3"} <= set(ran)
        held = 4 - len(ran)
        assert parts.pool.statistics().held == held >= 1
        await parts.pool.paused.resume(["mail"])
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert sorted(ran) == ["s0", "s1", "s2", "s3"]
    assert {job.outcome for job in parts.file.values()} == {Outcome.SUCCEEDED}
