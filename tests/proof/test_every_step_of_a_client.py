"""A client that is cancelled at any of its steps leaves nothing behind, and can go on."""

import asyncio
import itertools
from collections.abc import Callable

import anyio
import httpx
import pytest
import trio

from tests.client.fake_server import FakeServer
from tests.client.support import URL, at_each_step_on_asyncio, at_each_step_on_trio
from tests.on_asyncio import cancelled_at
from trio_jobs.client import AsyncClient
from trio_jobs.testing.steps import At


class Work:
    """Calls of one client."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.server.lose = itertools.cycle([False, False, True])
        self.client = AsyncClient(URL, http=httpx.AsyncClient(transport=self.server))

    async def wait_for_many(self) -> None:
        """Wait for jobs that end in turn and out of turn, to the last."""
        ids = [self.server.add(seconds) for seconds in (3, 1, 40, 2)]
        async with self.client.as_completed(ids) as arrivals:
            assert len([job async for job in arrivals]) == 4

    async def leave_early(self) -> None:
        """Leave a loop while requests are open."""
        ids = [self.server.add(seconds) for seconds in (3, 1, 40)]
        async with self.client.as_completed(ids) as arrivals:
            async for _ in arrivals:
                break

    async def submit_and_wait(self) -> None:
        """Submit, and wait until it has ended."""
        for job in await self.client.submit_many([("email", 1), ("email", 2)]):
            await self.client.wait(job, timeout=60)

    async def check(self) -> None:
        """No request and no place of one is left, and the client works."""
        assert self.server._requests == 0
        assert self.client._looks.limiter.borrowed_tokens == 0
        with anyio.fail_after(100):
            await self.submit_and_wait()
        await self.client._http.aclose()


WORK = pytest.mark.parametrize(
    "method", [Work.wait_for_many, Work.leave_early, Work.submit_and_wait]
)


@WORK
def test_on_trio(method: Callable[[Work], object]) -> None:
    async def count(step: int) -> int:
        work = Work()
        with trio.CancelScope() as scope, At(step, scope.cancel) as at:
            await getattr(work, method.__name__)()
        await work.check()
        return at.steps

    at_each_step_on_trio(count, more_than=5)


@WORK
def test_on_asyncio(method: Callable[[Work], object]) -> None:
    async def count(step: int) -> int | None:
        work = Work()
        suspended = None
        try:
            suspended = await cancelled_at(step, getattr(work, method.__name__)())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        assert len(asyncio.all_tasks()) == 1
        await work.check()
        return suspended

    at_each_step_on_asyncio(count)
