"""Tiny jobs in real processes, many of them sent ahead; and one among them that is no good."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.command import PATIENCE, ledger, running_command
from tests.handlers import tasks
from tests.handlers.support import wait_until
from tests.support import RunningPool, running_pool
from trio_jobs import Handler, Job, Outcome

WORKERS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Tinies:
    """A pool of two processes for tiny jobs, which have run already."""

    pool: RunningPool
    ledger: Path

    def submit(self, number: int, *, seconds: float = 0.0002, then: str = "") -> Job:
        tiny = tasks.Tiny(str(self.ledger), number, seconds, then)
        job_type = "limited" if then in ("stop", "wait") else "tiny"
        return self.pool.submit(job_type, msgspec.json.encode(tiny))

    async def outcomes(self, jobs: list[Job]) -> list[Outcome | None]:
        await wait_until(lambda: all(self.pool.outcome(job) for job in jobs))
        return [self.pool.outcome(job) for job in jobs]

    def begun(self) -> list[int]:
        """The numbers of the jobs that have begun, in order."""
        lines = self.ledger.read_text().splitlines()
        return [number for number in (int(line.split()[0]) for line in lines) if number >= 0]


@asynccontextmanager
async def tinies(folder: Path) -> AsyncIterator[Tinies]:
    """A pool whose processes have started and whose handlers have a known pace."""
    functions = {
        "tiny": Handler.of(tasks.note_and_compute, run="process"),
        "limited": Handler.of(tasks.note_and_compute, run="process", timeout=0.5),
    }
    with trio.fail_after(PATIENCE):
        async with running_pool(functions, workers=WORKERS, processes=2, buffer_size=1000) as pool:
            found = Tinies(pool=pool, ledger=folder / "ledger")
            await found.outcomes([found.submit(-1) for _ in range(WORKERS)])
            yield found


@pytest.mark.parametrize(
    ("then", "outcome"),
    [
        ("leave", Outcome.FAILED),
        ("die", Outcome.FAILED),
        ("raise", Outcome.FAILED),
        ("fork", Outcome.SUCCEEDED),
        ("fork unseen", Outcome.SUCCEEDED),
        ("stop", Outcome.TIMED_OUT),
        ("wait", Outcome.TIMED_OUT),
    ],
)
async def test_each_job_among_others_ends_as_its_own_function_does(
    then: str, outcome: Outcome, tmp_path: Path
) -> None:
    async with tinies(tmp_path) as pool:
        jobs = [pool.submit(number, then=then if number == 50 else "") for number in range(200)]
        outcomes = await pool.outcomes(jobs)

    assert outcomes == [outcome if n == 50 else Outcome.SUCCEEDED for n in range(200)]
    assert sorted(pool.begun()) == [*range(200)]


async def test_a_process_that_somebody_kills_costs_the_job_that_runs_in_it_at_most(
    tmp_path: Path,
) -> None:
    async with tinies(tmp_path) as pool:
        jobs = [pool.submit(number) for number in range(200)]
        await wait_until(lambda: len(pool.begun()) > 50)
        os.kill(int(children_of_ledger(pool).pop()), signal.SIGKILL)
        outcomes = await pool.outcomes(jobs)

    succeeded = {n for n, outcome in enumerate(outcomes) if outcome is Outcome.SUCCEEDED}
    assert len(succeeded) >= 199
    assert succeeded <= {*pool.begun()}
    assert len(pool.begun()) == len({*pool.begun()})


async def test_a_cancelled_job_that_waits_in_a_process_never_begins(tmp_path: Path) -> None:
    async with tinies(tmp_path) as pool:
        pids = children_of_ledger(pool)
        jobs = [pool.submit(number, then="hold" if number < 2 else "") for number in range(30)]
        await wait_until(lambda: {0, 1} <= {*pool.begun()})  # one holds each process
        already = {*pool.begun()}
        cancelled = {n for n in range(2, 20) if pool.pool.executor.cancel(jobs[n].id)}
        await wait_all_tasks_blocked()  # the jobs' tasks have taken them back
        Path(f"{pool.ledger}.go").touch()  # noqa: ASYNC240 - a test
        outcomes = await pool.outcomes(jobs)
        assert children_of_ledger(pool) == pids  # none was killed

    # Some have ended before, which the event loop may learn after the cancel.
    assert cancelled >= {*range(2, 20)} - already
    assert sorted(pool.begun()) == [n for n in range(30) if n in already or n not in cancelled]
    assert outcomes.count(Outcome.CANCELLED) == len(cancelled)


def children_of_ledger(pool: Tinies) -> set[str]:
    return {line.split()[1] for line in pool.ledger.read_text().splitlines()}


async def test_the_end_of_the_pool_names_those_that_have_not_begun(tmp_path: Path) -> None:
    async with tinies(tmp_path) as pool:
        jobs = [pool.submit(n, then="hold" if n < 2 else "") for n in range(WORKERS)]
        await wait_until(lambda: {0, 1} <= {*pool.begun()})
        pool.pool.scope.cancel()

    begun, not_begun = pool.pool.parts.pool.unfinished().ids
    ran = {jobs[number].id for number in pool.begun()}
    assert {*begun} == {jobs[0].id, jobs[1].id}
    assert {*not_begun} == {job.id for job in jobs} - ran


async def test_a_stop_lets_those_that_wait_in_a_process_run(tmp_path: Path) -> None:
    async with tinies(tmp_path) as pool:
        jobs = [pool.submit(number) for number in range(WORKERS)]

    assert {pool.pool.outcome(job) for job in jobs} == {Outcome.SUCCEEDED}
    assert sorted(pool.begun()) == [*range(WORKERS)]


HANDLERS = """
import os, time

def note(number):
    ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{number}\\n".encode())
    os.close(ledger)
    while number == 50 and not os.path.exists("go"):
        time.sleep(0.005)
"""

IN_A_FILE = """
[pool]
workers = 60
buffer_size = 500
processes = 1
[store]
path = "jobs.db"
[handlers.note]
call = "work:note"
run = "process"
"""


async def test_a_crash_ends_none_of_those_that_wait_in_a_process(tmp_path: Path) -> None:
    """All that workers have claimed run again, and what has not begun runs once."""
    jobs = [{"type": "note", "payload": number} for number in range(200)]
    async with running_command(tmp_path, config=IN_A_FILE, handlers=HANDLERS) as server:
        answer = await server.client.post("/jobs/batch", content=json.dumps(jobs))
        ids = [job["id"] for job in answer.json()]
        await wait_until(lambda: "50" in ledger(tmp_path))
        server.process.kill()
        await server.process.wait()
    before = ledger(tmp_path)
    (tmp_path / "go").touch()

    async with running_command(tmp_path, config=IN_A_FILE, handlers=HANDLERS) as server:
        ended = [
            (await server.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=30"})).json()
            for job_id in ids
        ]

    assert {job["outcome"] for job in ended} == {"succeeded"}
    assert max(job.get("interruptions", 0) for job in ended) == 1
    for number in map(str, range(200)):
        assert ledger(tmp_path).count(number) <= 1 + before.count(number)
        assert ledger(tmp_path).count(number) >= 1
