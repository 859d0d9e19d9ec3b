"""What keeps a process from ending is named, with its stack."""

import asyncio
import threading
from typing import Literal

import pytest

from tests.handlers.support import wait_until_set
from trio_jobs import open_jobs
from trio_jobs.shutdown.diagnostics import asyncio_task_blocks


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_tasks_of_asyncio_are_named_with_where_they_wait(
    loop: Literal["asyncio", "uvloop"],
) -> None:
    begun = threading.Event()

    async def wait_for_the_database() -> None:
        begun.set()
        await asyncio.sleep(3600)

    async def handler(_payload: object) -> None:
        await wait_for_the_database()

    async with open_jobs(
        {"work": handler},
        async_handlers="asyncio",
        asyncio_loop=loop,
    ) as jobs:
        job = jobs.submit("work")
        await wait_until_set(begun)
        blocks = {name: stack for name, stack, _ in asyncio_task_blocks()}
        jobs.cancel(job.id)

    stack = blocks[f"asyncio task job {job.id}"]
    assert "wait_for_the_database" in stack
    assert stack.splitlines()[-1].endswith("in sleep")


async def test_without_a_loop_there_is_nothing_to_name() -> None:
    assert [*asyncio_task_blocks()] == []
