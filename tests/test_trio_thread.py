"""`TrioThread`: a block of Trio's in a thread, from the side of an asyncio program."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from random import Random

import pytest
import trio

from tests.command import PATIENCE
from tests.on_asyncio import on_asyncio
from trio_jobs import trio_thread
from trio_jobs.trio_thread import TrioThread

LIMIT = 10 * PATIENCE  # a grace period that no test waits for

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


class Block:
    """A block of Trio's which notes what it does.

    Attributes:
        story: What has happened, in order.
        fail: Ends the block with an error.
    """

    def __init__(self) -> None:
        self.story: list[str] = []
        self.left = threading.Event()
        self.fail = trio.Event()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[str]:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._fail)
                self.story.append("entered")
                try:
                    yield threading.current_thread().name
                except trio.Cancelled:
                    self.story.append("cancelled")
                    raise
                self.story.append("left")
                nursery.cancel_scope.cancel()
        finally:
            self.left.set()

    async def _fail(self) -> None:
        await self.fail.wait()
        raise LookupError("a bug")

    def thread(self, grace_period: float = LIMIT) -> TrioThread[str]:
        return TrioThread(self.opened, grace_period=grace_period)


@pytest.fixture
def block() -> Block:
    return Block()


@on_asyncio
async def test_block_is_open_in_another_thread_until_the_program_leaves_its_own(
    block: Block,
) -> None:
    async with block.thread() as name:
        assert name != threading.current_thread().name
        assert block.story == ["entered"]

    assert block.story == ["entered", "left"]


@on_asyncio
async def test_error_of_the_start_is_raised_as_it_is() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise LookupError("no such file")
        yield

    with pytest.raises(LookupError, match="no such file"):
        async with TrioThread(broken, grace_period=LIMIT):
            pytest.fail("the block is entered")


@on_asyncio
async def test_cancellation_of_the_start_cancels_it_in_the_thread() -> None:
    starting, unwound = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    @asynccontextmanager
    async def never_entered() -> AsyncIterator[None]:
        loop.call_soon_threadsafe(starting.set)
        try:
            await trio.sleep_forever()
        finally:
            unwound.append(True)
        yield

    async def open_it() -> None:
        async with TrioThread(never_entered, grace_period=LIMIT):
            pytest.fail("the block is entered")

    task = asyncio.create_task(open_it())
    await starting.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert unwound == [True]


@on_asyncio
async def test_cancellation_before_the_thread_has_begun_ends_it(block: Block) -> None:
    async def open_it() -> None:
        async with block.thread():
            pytest.fail("the block is entered")

    task = asyncio.create_task(open_it())
    await asyncio.sleep(0)  # it has started the thread, and has not heard of it
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert "left" not in block.story


@on_asyncio
async def test_exception_in_the_programs_block_cancels_the_other_and_comes_out_as_it_is(
    block: Block,
) -> None:
    error = ValueError("the program's")
    with pytest.raises(ValueError, match="the program's") as caught:
        async with block.thread():
            raise error

    assert caught.value is error
    assert block.story == ["entered", "cancelled"]


@on_asyncio
async def test_block_that_fails_cancels_that_of_the_program_which_raises_its_error(
    block: Block,
) -> None:
    thread = block.thread()
    task = asyncio.current_task()
    assert task is not None

    with pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="a bug")):
        async with thread:
            await thread.call(block.fail.set)
            await asyncio.Event().wait()

    assert task.cancelling() == 0
    with pytest.raises(trio.RunFinishedError):
        await thread.call(int)


@on_asyncio
async def test_error_of_a_block_that_fails_while_it_is_left_is_raised(block: Block) -> None:
    @asynccontextmanager
    async def fails_at_the_end() -> AsyncIterator[None]:
        yield
        raise LookupError("at the end")

    with pytest.raises(LookupError, match="at the end"):
        async with TrioThread(fails_at_the_end, grace_period=LIMIT):
            pass


def ends(
    ending: Callable[[], Awaitable[object]], story: list[str]
) -> Callable[[], AbstractAsyncContextManager[None]]:
    """A block whose end takes until it is cancelled; ``ending`` is awaited then."""

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            story.append("cancelled")
            with trio.CancelScope(shield=True):
                await ending()
            raise

    return slow


@on_asyncio
async def test_end_that_takes_longer_than_the_grace_period_is_cancelled() -> None:
    story: list[str] = []

    async with TrioThread(ends(trio.lowlevel.checkpoint, story), grace_period=0.01):
        pass

    assert story == ["cancelled"]


@on_asyncio
async def test_program_that_is_cancelled_while_it_waits_for_the_end_cancels_the_block() -> None:
    story: list[str] = []
    leaving = asyncio.Event()

    async def program() -> None:
        async with TrioThread(ends(trio.lowlevel.checkpoint, story), grace_period=LIMIT):
            leaving.set()

    task = asyncio.create_task(program())
    await leaving.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert story == ["cancelled"]


@on_asyncio
async def test_thread_that_does_not_end_is_left_behind_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trio_thread, "_UNWINDING", 0.01)
    release = threading.Event()
    story: list[str] = []

    async def stay() -> None:
        await trio.to_thread.run_sync(release.wait)

    async with TrioThread(ends(stay, story), grace_period=0.01):
        pass

    assert [record.message for record in caplog.records] == ["pool_still_running"]
    release.set()


# Calls. ---------------------------------------------------------------------------------------


class Waiting:
    """A function of Trio's that waits, and what has become of it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()
        self.go_on = trio.Event()
        self.story: list[str] = []

    async def wait(self) -> str:
        self._loop.call_soon_threadsafe(self.begun.set)
        try:
            await self.go_on.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.story.append("unwound")
            raise
        return "done"


async def fail() -> None:
    raise KeyError("async")


def fail_at_once() -> None:
    raise SystemExit("plain")


async def twice(number: int, *, plus: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * number + plus


@on_asyncio
async def test_call_gives_what_its_function_returns_or_raises(block: Block) -> None:
    thread = block.thread()
    async with thread:
        assert await thread.call(twice, 20, plus=2) == 42
        assert await thread.call(max, 1, 2) == 2
        assert await thread.call(trio.lowlevel.in_trio_run)
        with pytest.raises(KeyError, match="async"):
            await thread.call(fail)
        with pytest.raises(SystemExit, match="plain"):
            await thread.call(fail_at_once)
        assert await thread.call(max, 3, 4) == 4


@on_asyncio
async def test_call_has_the_context_of_its_caller(block: Block) -> None:
    async def read() -> str:
        await trio.lowlevel.checkpoint()
        return VARIABLE.get()

    thread = block.thread()
    async with thread:
        VARIABLE.set("the caller's")
        assert await thread.call(VARIABLE.get) == "the caller's"
        assert await thread.call(read) == "the caller's"


@on_asyncio
async def test_plain_calls_are_made_in_the_order_of_their_tasks(block: Block) -> None:
    made: list[int] = []
    thread = block.thread()
    async with thread:
        await asyncio.gather(*(thread.call(made.append, n) for n in range(50)))

    assert made == list(range(50))


@on_asyncio
async def test_call_of_another_loop_is_answered_there(block: Block) -> None:
    thread = block.thread()
    async with thread:
        call = lambda: asyncio.run(thread.call(twice, 1, plus=1))  # noqa: E731
        assert await asyncio.to_thread(call) == 3


@on_asyncio
async def test_cancelled_call_is_over_when_it_has_unwound_in_the_thread(block: Block) -> None:
    waiting = Waiting()
    thread = block.thread()
    async with thread:
        task = asyncio.create_task(thread.call(waiting.wait))
        await waiting.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert waiting.story == ["unwound"]


@on_asyncio
async def test_error_of_a_call_that_unwinds_is_its_callers(block: Block) -> None:
    waiting = Waiting()

    async def fail_when_cancelled() -> None:
        try:
            await waiting.wait()
        finally:
            raise KeyError("in the clean-up")

    thread = block.thread()
    async with thread:
        task = asyncio.create_task(thread.call(fail_when_cancelled))
        await waiting.begun.wait()
        task.cancel()
        with pytest.raises(KeyError, match="in the clean-up"):
            await task
        assert await thread.call(max, 3, 4) == 4


@on_asyncio
async def test_call_that_waits_for_the_end_of_the_block_gets_its_answer(block: Block) -> None:
    async def wait_for_the_end() -> str:
        await trio.to_thread.run_sync(block.left.wait)
        return "answer"

    thread = block.thread()
    async with thread:
        call = asyncio.create_task(thread.call(wait_for_the_end))
        await thread.call(int)  # it has begun

    assert await call == "answer"


@on_asyncio
async def test_call_that_outlasts_the_block_ends_with_the_thread(
    block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio_thread, "_ANSWERING", 0.05)
    waiting = Waiting()
    thread = block.thread()
    async with thread:
        call = asyncio.create_task(thread.call(waiting.wait))
        await waiting.begun.wait()

    with pytest.raises(trio.RunFinishedError):
        await call
    assert waiting.story == ["unwound"]


@on_asyncio
async def test_calls_under_any_cancels_end_and_leave_nothing_behind(block: Block) -> None:
    """Plain and awaited calls, cancelled at random; the thread knows what has begun and ended."""
    random = Random(0)  # noqa: S311 - no secret
    begun = ended = 0

    async def work(turns: int) -> int:
        nonlocal begun, ended
        begun += 1
        try:
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            return turns
        finally:
            ended += 1

    thread = block.thread()
    outcomes = {"value": 0, "cancelled": 0}
    async with thread:
        for _ in range(40):
            turns = [random.choice([0, 1, 5, 200]) for _ in range(10)]
            tasks = [asyncio.create_task(thread.call(work, each)) for each in turns]
            tasks.append(asyncio.create_task(thread.call(max, 1, 2)))
            for task in random.sample(tasks, 5):
                for _ in range(random.choice([0, 1, 20])):
                    await asyncio.sleep(0)
                task.cancel()
            for each, result in zip(
                [*turns, 2], await asyncio.gather(*tasks, return_exceptions=True), strict=True
            ):
                if isinstance(result, asyncio.CancelledError):
                    outcomes["cancelled"] += 1
                else:
                    assert result == each
                    outcomes["value"] += 1
            assert begun == ended
    assert all(outcomes.values())


# A program that never leaves its block. -------------------------------------------------------


def enter(block: Block, loop: asyncio.AbstractEventLoop) -> TrioThread[str]:
    thread = block.thread()
    loop.run_until_complete(thread.__aenter__())
    return thread


def test_thread_of_a_closed_loop_leaves_its_block_at_the_next_answer(block: Block) -> None:
    loop = asyncio.new_event_loop()
    thread = enter(block, loop)
    with suppress(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(thread.call(trio.sleep_forever), 0))
    task = loop.create_task(thread.call(block.left.is_set))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert not task.done()

    loop.close()
    with suppress(trio.RunFinishedError):  # the task's answer may have come to the closed loop
        asyncio.run(thread.call(thread._post, loop, int))

    assert block.left.wait(PATIENCE)
    assert block.story == ["entered", "left"]


def test_thread_of_a_program_whose_thread_has_ended_leaves_its_block(block: Block) -> None:
    loop = asyncio.new_event_loop()
    program = threading.Thread(target=enter, args=[block, loop])
    program.start()

    program.join()

    assert block.left.wait(PATIENCE)
    assert block.story == ["entered", "left"]
    loop.close()
