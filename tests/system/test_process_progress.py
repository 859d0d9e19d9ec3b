"""What a process handler reports of its progress."""

from pathlib import Path

import pytest
import trio

from tests.handlers import tasks
from tests.handlers.support import wait_for_pids, wait_until
from trio_jobs import DurableJobs, Handler, Job, JobStatus, Outcome, open_jobs

REPORTER = Handler.of(tasks.report_pages, run="process", timeout=60)
WAITS = (2, "page 2 — \ufffd")


def page_of(job: Job) -> tuple[float, str] | None:
    progress = job.progress
    return None if progress is None else (progress.done, progress.message)


@pytest.mark.parametrize("then", ["succeed", "fail", "fork", "die", "refuse"])
async def test_last_report_crosses_before_and_at_the_end(then: str, tmp_path: Path) -> None:
    async with open_jobs({"pages": REPORTER}, processes=1) as jobs:
        job = jobs.submit("pages", {"folder": str(tmp_path), "then": then})
        await wait_for_pids(tmp_path)
        # The function waits: it makes no later report that could bring this one along.
        await wait_until(lambda: page_of(jobs.get(job.id)) == WAITS)
        (tmp_path / "go").touch()
        ended = await jobs.wait(job.id)
        again = jobs.submit("pages", {"folder": str(tmp_path), "then": "fail"})
        next_one = await jobs.wait(again.id)

    assert ended.outcome is (Outcome.SUCCEEDED if then == "succeed" else Outcome.FAILED)
    assert page_of(ended) == (None if then == "succeed" else (3, "page 3"))
    assert page_of(next_one) == (3, "page 3")


async def waiting_reporter(jobs: DurableJobs, folder: Path) -> str:
    """Submit a job; return when its last report has arrived."""
    folder.mkdir()  # noqa: ASYNC240 - a test
    job = await jobs.submit("pages", {"folder": str(folder)})
    while page_of(await jobs.get(job.id)) != WAITS:  # noqa: ASYNC110 - another process reports
        await trio.sleep(0.002)
    return job.id


@pytest.mark.parametrize("repeatable", [True, False])
async def test_cancel_and_the_end_of_the_pool_keep_it(repeatable: bool, tmp_path: Path) -> None:
    handler = Handler.of(tasks.report_pages, run="process", repeatable=repeatable)
    store = tmp_path / "jobs.db"
    with trio.CancelScope() as scope:
        async with open_jobs({"pages": handler}, path=store, processes=2) as jobs:
            cancelled = await waiting_reporter(jobs, tmp_path / "cancelled")
            cut_off = await waiting_reporter(jobs, tmp_path / "cut off")
            await jobs.cancel(cancelled)
            await jobs.wait(cancelled)
            scope.cancel()

    async with open_jobs({"other": tasks.pid}, path=store) as jobs:
        found = [await jobs.get(cancelled), await jobs.get(cut_off)]

    assert [page_of(job) for job in found] == [WAITS, WAITS]
    assert found[0].outcome is Outcome.CANCELLED
    if repeatable:
        assert found[1].status is JobStatus.PENDING
    else:
        assert found[1].outcome is Outcome.INTERRUPTED
