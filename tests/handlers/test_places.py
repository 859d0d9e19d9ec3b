"""`Places`: cancelled while they open, hold and close."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from trio_jobs import Handler, open_jobs
from trio_jobs.testing.steps import At


async def on_trio(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number


async def on_asyncio(number: int) -> int:
    await asyncio.sleep(0)
    return number


def in_thread(number: int) -> int:
    return number


HANDLERS = {
    "trio": on_trio,
    "asyncio": Handler.of(on_asyncio, run="asyncio"),
    "thread": in_thread,
}


async def test_block_may_be_cancelled_at_each_step_of_its_lifespans() -> None:
    """What has opened closes, with its clean-up, and the block ends."""
    story: list[str] = []

    @asynccontextmanager
    async def trio_lifespan() -> AsyncIterator[None]:
        story.append("opened")
        try:
            yield
        finally:
            story.append("closed")

    @asynccontextmanager
    async def asyncio_lifespan() -> AsyncIterator[None]:
        story.append("opened")
        try:
            yield
        finally:
            await asyncio.sleep(0)
            story.append("closed")

    # Not for threads: one that opens is left behind.
    lifespan = {"trio": trio_lifespan, "asyncio": asyncio_lifespan}
    step, steps = 0, 1
    came_to_its_end = False
    while step < steps:
        step += 1
        story.clear()
        with trio.CancelScope() as scope, At(step, scope.cancel) as at:
            async with open_jobs(HANDLERS, workers=1, lifespan=lifespan) as jobs:
                for name in HANDLERS:
                    await jobs.result(jobs.submit(name, 1).id)
            came_to_its_end = True
        steps = at.steps
        assert story.count("opened") == story.count("closed"), f"step {step}: {story}"
    assert came_to_its_end
    assert step > 20
