"""A map that is cancelled at any of its steps leaves nothing open, and can be called again."""

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest
import trio

from tests.client.fake_pipe import FakePipe, Fate, fake_pipe
from tests.client.support import at_each_step_on_asyncio, at_each_step_on_trio
from tests.client.test_map import sleep
from tests.on_asyncio import cancelled_at
from trio_jobs.client import AsyncClient
from trio_jobs.testing.steps import At

SECONDS = [3, 0, 1, 20, 0, 2]
# Some requests break, in each part of an answer, and so some lines are sent again.
FATES = [Fate(cut=2), Fate(cut=150), Fate(stop=1), Fate(cut=1)]


class Work:
    """A map of an async generator, and its results so far."""

    def __init__(self, client: AsyncClient, *, ordered: bool) -> None:
        self._client = client
        self._ordered = ordered
        self.open_generators = 0
        self.found: list[tuple[int, object]] = []

    async def map(self) -> None:
        """Take all results."""
        results = self._client.map(
            "sleep", self._payloads(), in_flight=4, ordered=self._ordered, key=str
        )
        async with results:
            async for result in results:
                self.found.append((result.line, result.value()))

    async def leave_early(self) -> None:
        """Take one result."""
        async with self._client.map("sleep", self._payloads(), in_flight=4, key=str) as results:
            await anext(results)

    async def check(self, server: FakePipe) -> None:
        """Nothing is open, and the same call brings the result of each record."""
        assert server.open == 0
        assert self.open_generators == 0
        self.found.clear()
        await self.map()
        assert sorted(self.found) == list(enumerate(SECONDS, 1))
        assert set(server.runs.values()) == {1}

    async def _payloads(self) -> AsyncIterator[int]:
        self.open_generators += 1
        try:
            for seconds in SECONDS:
                await anyio.sleep(0.5)
                yield seconds
        finally:
            self.open_generators -= 1


WORK = pytest.mark.parametrize(
    ("method", "ordered"), [("map", False), ("map", True), ("leave_early", False)]
)


@WORK
def test_on_trio(method: str, ordered: bool) -> None:
    async def count(step: int) -> int:
        async with fake_pipe(sleep, fates=FATES) as (client, server):
            work = Work(client, ordered=ordered)
            with trio.CancelScope() as scope, At(step, scope.cancel) as at:
                await getattr(work, method)()
            await work.check(server)
            return at.steps

    at_each_step_on_trio(count, more_than=20)


@WORK
def test_on_asyncio(method: str, ordered: bool) -> None:
    async def count(step: int) -> int | None:
        suspended = None
        async with fake_pipe(sleep, fates=FATES) as (client, server):
            work = Work(client, ordered=ordered)
            try:
                suspended = await cancelled_at(step, getattr(work, method)())
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
            await work.check(server)
        return suspended

    at_each_step_on_asyncio(count)
