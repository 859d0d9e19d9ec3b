"""The pool's memory is bounded: it does not grow with the number of completed jobs."""

import sys

import pytest
import trio

from trio_jobs import Jobs


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
