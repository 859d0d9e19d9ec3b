"""The pool's memory is bounded: by the completed jobs it keeps, and by those that wait."""

import sys
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from tests.support import NOON, Later, Parts, make_parts, noon
from trio_jobs import Job, JobError, Jobs, open_jobs
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.memory import MemoryStore

NUMBER = 10_000


async def nothing(_payload: object) -> None:
    pass


@pytest.mark.trio_jobs({"nothing": nothing})
async def test_memory_does_not_grow_with_the_number_of_completed_jobs(jobs: Jobs) -> None:
    async def complete(count: int) -> int:
        """Process so many jobs; the number of blocks that Python then holds."""
        for _ in range(count // 100):
            jobs.submit_all([("nothing", None)] * 100)
            await trio.testing.wait_all_tasks_blocked()
        assert jobs.unfinished() == ([], [])
        return sys.getallocatedblocks()

    full = await complete(20_000)  # 10,000 are kept
    later = await complete(40_000)

    assert later - full < 1_000
    assert len(jobs.page(limit=20_000)) == 10_000


@pytest.mark.proof
async def test_memory_does_not_grow_with_the_number_of_jobs_in_a_file(tmp_path: Path) -> None:
    async with open_jobs(
        {"nothing": nothing}, path=tmp_path / "jobs.db", sync="normal", keep_completed=100
    ) as jobs:

        async def complete(count: int) -> int:
            """Use all ways for so many jobs; the number of blocks that Python then holds."""
            for n in range(count // 100):
                ended = await jobs.submit_all([("nothing", None)] * 99)
                kept = await jobs.submit("nothing", key=f"{n}")
                for job in (*ended, kept):
                    await jobs.wait(job.id)
                assert await jobs.submit("nothing", key=f"{n}") == await jobs.get(kept.id)
                await jobs.delete(kept.id)
                late = await jobs.submit("nothing", delay=1000)
                await jobs.cancel(late.id)
                await jobs.wait(late.id)
                await jobs.page(limit=10)
            assert jobs.unfinished() == ([], [])
            return sys.getallocatedblocks()

        full = await complete(1_000)
        later = await complete(3_000)

    assert later - full < 1_000


def delayed(parts: Parts) -> None:
    """Submit jobs for a later time, each for another."""
    parts.admission.submit_all([JobSpec("a", b"1", 1e5 + n) for n in range(NUMBER)])


def dated(parts: Parts) -> None:
    """Submit jobs for a date, each for another."""
    dates = [NOON + timedelta(seconds=1e5 + n) for n in range(NUMBER)]
    parts.admission.submit_all([JobSpec("a", b"1", date) for date in dates])


def postponed(parts: Parts) -> None:
    """Have jobs fail, each to come back."""
    error = JobError(type="OSError", message="no")
    for n in range(NUMBER):
        parts.admission.submit("a", b"1")
        job_id = parts.receive.receive_nowait()
        parts.workers.claim(job_id)
        parts.workers.postpone(job_id, Later(seconds=1e5 + n, error=error))


@pytest.mark.parametrize(
    "make_them_wait",
    [
        delayed,
        pytest.param(dated, marks=pytest.mark.proof),
        pytest.param(postponed, marks=pytest.mark.proof),
    ],
)
async def test_waiting_job_costs_the_pool_at_most_200_bytes_beside_its_record(
    make_them_wait: Callable[[Parts], None],
) -> None:
    parts = make_parts(workers=1, max_waiting=NUMBER)
    records = MemoryStore(StoreSettings(), now=noon)

    tracemalloc.start()
    try:
        make_them_wait(parts)
        in_the_pool, _peak = tracemalloc.get_traced_memory()
        jobs = parts.store.page_nowait(limit=NUMBER)
        before, _peak = tracemalloc.get_traced_memory()
        for job in jobs:
            records.add(copy_of(job))
        after, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert parts.pool.statistics().waiting == NUMBER
    alone = after - before
    assert alone / NUMBER > 200  # the copies share little with the records
    assert (in_the_pool - alone) / NUMBER <= 200


def copy_of(job: Job) -> Job:
    """A job that shares no object with this one that each job has for itself."""
    assert job.run_at is not None
    return replace(job, id=job.id[:1] + job.id[1:], run_at=job.run_at + timedelta(0))
