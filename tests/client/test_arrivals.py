"""`AsyncArrivals`: items of several tasks, and every way out of the block."""

import gc

import anyio
import pytest
from anyio.abc import ObjectSendStream

from tests.client.support import on_both_loops
from trio_jobs.client.arrivals import AsyncArrivals


class Source:
    """Sends numbers for ever, and says what became of it."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = False

    async def bring(self, send: ObjectSendStream[int]) -> None:
        try:
            while True:
                await send.send(self.sent)
                self.sent += 1
        finally:
            self.ended = True


async def three(send: ObjectSendStream[int]) -> None:
    for n in range(3):
        await send.send(n)


@on_both_loops
async def test_items_come_one_after_another_and_end() -> None:
    async with AsyncArrivals(three) as arrivals:
        assert [each async for each in arrivals] == [0, 1, 2]
        assert [each async for each in arrivals] == []


@on_both_loops
async def test_source_is_not_ahead_of_the_loop() -> None:
    source = Source()
    async with AsyncArrivals(source.bring) as arrivals:
        async for n in arrivals:
            await anyio.sleep(1)
            assert source.sent <= n + 1
            if n == 5:
                break

    assert source.ended


@on_both_loops
async def test_error_of_a_task_is_raised_by_the_loop_alone() -> None:
    async def bring(send: ObjectSendStream[int]) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(three, send)
            await anyio.sleep(1)
            raise LookupError("gone") from ValueError("why")

    async with AsyncArrivals(bring) as arrivals:
        with pytest.raises(LookupError, match="gone") as caught:
            async for _ in arrivals:
                pass

    assert isinstance(caught.value.__cause__, ValueError)


@on_both_loops
async def test_error_of_the_caller_leaves_the_block_as_it_is() -> None:
    source = Source()

    async def fail() -> None:
        async with AsyncArrivals(source.bring) as arrivals:
            async for _ in arrivals:
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    assert source.ended


@on_both_loops
async def test_cancelled_caller_cancels_the_tasks() -> None:
    source = Source()

    with anyio.move_on_after(5) as scope:
        async with AsyncArrivals(source.bring) as arrivals:
            async for _ in arrivals:
                await anyio.sleep(2)

    assert scope.cancelled_caught
    assert source.ended
    assert anyio.current_time() == 5


@on_both_loops
async def test_block_that_is_left_at_once_leaves_nothing() -> None:
    with anyio.move_on_after(0):
        async with AsyncArrivals(Source().bring):
            pass
    gc.collect()  # an open stream would warn


@on_both_loops
async def test_items_come_in_a_block_of_their_own_alone() -> None:
    arrivals = AsyncArrivals(three)
    with pytest.raises(RuntimeError, match="open it: async with"):
        await anext(arrivals)
    async with arrivals:
        with pytest.raises(RuntimeError, match="each block needs a call of its own"):
            await arrivals.__aenter__()
