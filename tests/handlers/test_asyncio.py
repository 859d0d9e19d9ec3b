"""Handlers on asyncio: a loop in a thread of its own, or one of the program's; the real clock."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import sniffio
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.handlers.support import wait_until, wait_until_set
from tests.support import current_job_id
from trio_jobs import GiveUp, Handler, JobContext, Jobs, Outcome, Retry, RetryPolicy, Snooze
from trio_jobs import open_jobs as open_any_jobs
from trio_jobs.handlers.asyncio_task import AsyncioTask

LOOPS = ["asyncio", "uvloop"]

Open = Callable[..., AbstractAsyncContextManager[Jobs]]


@pytest.fixture(params=LOOPS)
def open_jobs(request: pytest.FixtureRequest) -> Open:
    """A pool whose async functions run on this loop."""
    return partial(open_any_jobs, async_handlers="asyncio", asyncio_loop=request.param)


def on_asyncio(function: object, **options: Any) -> Handler:  # noqa: ANN401
    return Handler.of(function, run="asyncio", **options)


@dataclass
class Work:
    """A handler that waits until it is cancelled, and notes what happens to it."""

    begun: threading.Event = field(default_factory=threading.Event)
    cancels: int = 0
    swallowed: threading.Event = field(default_factory=threading.Event)
    unwinding: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)
    ended: bool = False

    async def __call__(self, swallowed: int) -> str:
        """Swallow so many cancels, and unwind at the next one."""
        self.begun.set()
        while True:  # noqa: ASYNC913 - asyncio's sleep
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancels += 1
                self.swallowed.set()
                if self.cancels > swallowed:
                    self.unwinding.set()
                    while not self.may_end.is_set():  # noqa: ASYNC110 - set by another thread
                        await asyncio.sleep(0.001)
                    self.ended = True
                    raise


# Seconds. Only a jump of a test's clock ends them, when the handler has begun.
LIMIT = 1000


@pytest.fixture
def short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pool soon leave behind what never ends."""
    monkeypatch.setattr(AsyncioTask.unwind, "__kwdefaults__", {"seconds": 0.01})
    monkeypatch.setattr("trio_jobs.handlers.loop_thread._CLOSING_TIME", 0.01)


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """A clock that goes on by itself, and jumps."""
    mock_clock.rate = 1
    return mock_clock


def loop_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "asyncio"]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


async def test_a_job_runs_on_asyncio_in_another_thread_with_its_id(open_jobs: Open) -> None:
    async def handler(payload: int) -> list[object]:
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        in_thread = await asyncio.to_thread(current_job_id.get)
        return [
            payload,
            sniffio.current_async_library(),
            threading.current_thread() is threading.main_thread(),
            [current_job_id.get(), in_thread, task.get_name()],
        ]

    async with open_jobs({"work": handler}) as jobs:
        job = jobs.submit("work", 7)
        result = await jobs.result(job.id)

    assert result == [7, "asyncio", False, [job.id, job.id, f"job {job.id}"]]


async def test_jobs_run_at_the_same_time(open_jobs: Open) -> None:
    together = asyncio.Barrier(10)

    async def handler(_payload: object) -> None:
        await together.wait()

    async with open_jobs({"work": handler}) as jobs:
        for _ in range(20):
            jobs.submit("work")
        await jobs.drain()
        assert jobs.unfinished() == ([], [])


async def test_a_task_of_a_library_goes_on_after_the_job_that_has_started_it(
    open_jobs: Open,
) -> None:
    asked: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()
    tasks: list[asyncio.Task[None]] = []

    async def serve() -> None:
        while True:
            (await asked.get()).set_result("answer")

    async def handler(_payload: object) -> str:
        if not tasks:
            tasks.append(asyncio.create_task(serve()))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asked.put_nowait(answer)
        return await answer

    async with open_jobs({"work": handler}) as jobs:
        for _ in range(3):
            assert await jobs.result(jobs.submit("work").id) == "answer"

    assert tasks[0].cancelled()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_an_exit_of_the_handler_fails_the_job(open_jobs: Open, error: BaseException) -> None:
    async def handler(_payload: object) -> None:
        await asyncio.sleep(0)
        raise error

    async def echo(payload: object) -> object:
        return payload

    async with open_jobs({"work": handler, "echo": echo}) as jobs:
        job = await jobs.wait(jobs.submit("work").id)
        assert await jobs.result(jobs.submit("echo", 1).id) == 1

    assert job.ending is not None
    assert job.ending.error is not None
    assert job.ending.error.type == type(error).__name__


async def test_an_exit_in_a_task_of_the_handlers_does_not_end_the_loop(
    open_jobs: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def handler(_payload: object) -> str:
        task = asyncio.create_task(leave())
        with suppress(SystemExit):
            await task
        await asyncio.sleep(0.01)
        return "went on"

    async with open_jobs({"work": handler}) as jobs:
        assert await jobs.result(jobs.submit("work").id) == "went on"

    assert "asyncio_exit_raised" in messages(caplog)


async def test_a_cancel_before_the_first_step_runs_nothing(open_jobs: Open) -> None:
    ran = []
    blocks, may_go_on = threading.Event(), threading.Event()

    async def block(_payload: object) -> None:
        blocks.set()
        may_go_on.wait(30)

    async def handler(_payload: object) -> None:
        ran.append(1)

    async with open_jobs({"work": handler, "block": block}) as jobs:
        jobs.submit("block")
        await wait_until_set(blocks)
        job = jobs.submit("work")
        await wait_all_tasks_blocked()
        jobs.cancel(job.id)
        await wait_all_tasks_blocked()
        may_go_on.set()
        assert (await jobs.wait(job.id)).outcome is Outcome.CANCELLED

    assert not ran


@pytest.mark.parametrize("by", ["cancel", "limit"])
async def test_the_slot_is_free_when_the_handler_has_unwound(
    open_jobs: Open, by: str, caplog: pytest.LogCaptureFixture, clock: MockClock
) -> None:
    work = Work()
    handler = on_asyncio(work, timeout=LIMIT if by == "limit" else None)

    async with open_jobs({"work": handler}, workers=1) as jobs:
        job = jobs.submit("work", 0)
        await wait_until_set(work.begun)
        if by == "cancel":
            jobs.cancel(job.id)
        else:
            clock.jump(LIMIT)
        await wait_until_set(work.unwinding)
        assert jobs.statistics().busy == 1
        work.may_end.set()
        ended = await jobs.wait(job.id)

    assert work.ended
    assert work.cancels == 1
    assert ended.outcome is (Outcome.CANCELLED if by == "cancel" else Outcome.TIMED_OUT)
    assert "handler_raised" not in messages(caplog)


async def test_a_handler_that_swallows_its_cancel_keeps_its_slot_until_a_further_one(
    open_jobs: Open,
) -> None:
    work = Work()
    work.may_end.set()

    async with open_jobs({"work": work}, workers=1) as jobs:
        job = jobs.submit("work", 2)
        await wait_until_set(work.begun)
        for count in (1, 2):
            jobs.cancel(job.id)
            await wait_until(lambda: work.cancels == count)  # noqa: B023 - read at once
            await wait_all_tasks_blocked(0.01)
            assert jobs.statistics().busy == 1
        jobs.cancel(job.id)
        assert (await jobs.wait(job.id)).outcome is Outcome.CANCELLED

    assert work.cancels == 3


async def test_a_cancel_that_the_handler_raises_itself_is_a_failure(
    open_jobs: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_payload: object) -> None:
        raise asyncio.CancelledError

    async def cancel_itself(_payload: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(3600)

    async with open_jobs({"raise": handler, "cancel": cancel_itself}) as jobs:
        for type_ in ("raise", "cancel"):
            job = await jobs.wait(jobs.submit(type_).id)
            assert job.outcome is Outcome.FAILED
            assert job.ending is not None
            assert job.ending.error is not None
            assert job.ending.error.type == "CancelledError"

    assert messages(caplog).count("handler_raised") == 2


async def test_an_error_while_the_handler_unwinds_is_logged_and_decides_nothing(
    open_jobs: Open, caplog: pytest.LogCaptureFixture
) -> None:
    begun = threading.Event()

    async def handler(_payload: object) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("in the clean-up")

    async with open_jobs({"work": handler}) as jobs:
        job = jobs.submit("work")
        await wait_until_set(begun)
        jobs.cancel(job.id)
        assert (await jobs.wait(job.id)).outcome is Outcome.CANCELLED

    [record] = [each for each in caplog.records if each.message == "handler_raised"]
    assert "ValueError: in the clean-up" in str(record.exc_text)


@pytest.mark.parametrize("limit", [None, 3600.0, 0.05])
async def test_a_timeout_of_the_handlers_own_is_its_own_also_beside_the_jobs_limit(
    open_jobs: Open, limit: float | None
) -> None:
    async def handler(_payload: object) -> str:
        try:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(3600)
        except TimeoutError:
            return "timed out by itself"
        return "never"

    async with open_jobs({"work": on_asyncio(handler, timeout=limit)}) as jobs:
        job = await jobs.wait(jobs.submit("work").id)

    if limit == 0.05:  # both at once: either is first
        assert job.outcome in (Outcome.SUCCEEDED, Outcome.TIMED_OUT)
    else:
        assert job.ending is not None
        assert job.ending.result == b'"timed out by itself"'


async def test_a_blocked_loop_stops_nobody_but_its_like(open_jobs: Open, clock: MockClock) -> None:
    blocks, may_go_on = threading.Event(), threading.Event()

    async def block(_payload: object) -> None:
        blocks.set()
        may_go_on.wait(30)

    async def on_trio(_payload: object) -> str:
        await trio.sleep(0.001)
        return "went on"

    handlers = {
        "block": on_asyncio(block, timeout=LIMIT),
        "asyncio": on_asyncio(Work()),
        "trio": Handler.of(on_trio, run="trio"),
        "thread": lambda _payload: "went on",
    }
    async with open_jobs(handlers) as jobs:
        blocking = jobs.submit("block")
        await wait_until_set(blocks)
        other = jobs.submit("asyncio", 0)
        for type_ in ("trio", "thread"):
            assert await jobs.result(jobs.submit(type_).id) == "went on"
        jobs.cancel(other.id)
        clock.jump(LIMIT)
        await wait_all_tasks_blocked()
        assert jobs.statistics().busy == 2
        may_go_on.set()
        assert (await jobs.wait(blocking.id)).outcome is Outcome.TIMED_OUT
        assert (await jobs.wait(other.id)).outcome is Outcome.CANCELLED


async def test_the_payload_the_result_and_the_errors_text_are_made_on_the_loop(
    open_jobs: Open,
) -> None:
    threads = []

    class ToldError(Exception):
        def __str__(self) -> str:
            threads.append(threading.current_thread().name)
            return "told"

    async def handler(_payload: object) -> None:
        raise ToldError

    async with open_jobs({"work": handler}) as jobs:
        job = await jobs.wait(jobs.submit("work").id)

    assert job.ending is not None
    assert job.ending.error is not None
    assert job.ending.error.message == "told"
    assert threads == ["asyncio"]


async def test_attempts_are_those_of_a_handler_on_trio(open_jobs: Open) -> None:
    seen = []

    async def handler(_payload: object, context: JobContext) -> int:
        seen.append((context.attempt, context.last_attempt))
        if len(seen) == 1:
            raise Retry(0)
        if len(seen) == 2:
            raise Snooze(0)
        if len(seen) == 3:
            raise ConnectionError
        return len(seen)

    async def give_up(_payload: object) -> None:
        raise GiveUp

    retry = RetryPolicy(attempts=3, backoff=(0.0,))
    handlers = {
        "work": on_asyncio(handler, retry=retry),
        "give_up": on_asyncio(give_up, retry=retry),
    }
    async with open_jobs(handlers) as jobs:
        assert await jobs.result(jobs.submit("work").id) == 4
        given_up = await jobs.wait(jobs.submit("give_up").id)

    assert seen == [(1, False), (2, False), (2, False), (3, True)]
    assert (given_up.outcome, given_up.attempts) == (Outcome.FAILED, 1)


async def test_no_more_jobs_of_a_type_run_than_it_permits(open_jobs: Open) -> None:
    running, most = 0, 0

    async def handler(_payload: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    async with open_jobs({"work": on_asyncio(handler, max_running=2)}) as jobs:
        for _ in range(20):
            jobs.submit("work")

    assert most == 2


# The end of the pool. ---------------------------------------------------------------------------


async def test_the_pools_end_cancels_the_handler_and_waits_until_it_has_unwound(
    open_jobs: Open,
) -> None:
    work = Work()
    work.may_end.set()

    with trio.CancelScope() as scope:
        async with open_jobs({"work": work}) as jobs:
            job = jobs.submit("work", 0)
            await wait_until_set(work.begun)
            scope.cancel()

    assert work.ended
    assert jobs.unfinished() == ([job.id], [])


async def test_a_handler_that_returns_all_the_same_has_ended_its_job(open_jobs: Open) -> None:
    begun = threading.Event()

    async def handler(_payload: object) -> str:
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return "all the same"

    with trio.CancelScope() as scope:
        async with open_jobs({"work": handler}) as jobs:
            job = jobs.submit("work")
            await wait_until_set(begun)
            scope.cancel()

    assert jobs.get(job.id).outcome is Outcome.SUCCEEDED


async def test_a_handler_that_swallows_the_end_is_left_behind(
    open_jobs: Open, caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    work = Work()
    work.may_end.set()

    async def let_its_time_pass() -> None:
        await wait_until_set(work.swallowed)
        mock_clock.jump(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_its_time_pass)
        with trio.CancelScope() as scope:
            async with open_jobs({"work": work}) as jobs:
                job = jobs.submit("work", 1)
                await wait_until_set(work.begun)
                scope.cancel()

    assert jobs.unfinished() == ([job.id], [])
    [record] = [each for each in caplog.records if each.message == "asyncio_task_still_running"]
    assert record.__dict__["job_id"] == job.id
    assert work.ended  # by the loop's end, which has cancelled it once more


@pytest.mark.usefixtures("short_end")
async def test_a_handler_that_blocks_at_the_end_leaves_its_loop_behind(
    open_jobs: Open, caplog: pytest.LogCaptureFixture
) -> None:
    blocks, may_go_on = threading.Event(), threading.Event()

    async def block(_payload: object) -> None:
        blocks.set()
        may_go_on.wait(30)

    with trio.CancelScope() as scope:
        async with open_jobs({"work": block}) as jobs:
            jobs.submit("work")
            await wait_until_set(blocks)
            scope.cancel()
    may_go_on.set()

    assert "asyncio_task_still_running" in messages(caplog)
    assert "asyncio_still_running" in messages(caplog)


async def test_the_loops_end_cancels_what_user_code_has_left(open_jobs: Open) -> None:
    ended = []

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("generator")

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("task")

    kept: list[object] = []

    async def handler(_payload: object) -> None:
        kept.append(asyncio.create_task(wait()))
        generator = generate()
        kept.append(generator)
        await anext(generator)

    async with open_jobs({"work": handler}) as jobs:
        jobs.submit("work")

    assert ended == ["task", "generator"]
    await wait_until(lambda: not loop_threads())  # it ends just after it has said so


async def test_threads_of_to_thread_do_not_hold_up_the_end(open_jobs: Open) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(30)

    async def handler(_payload: object) -> None:
        await asyncio.to_thread(work)

    with trio.CancelScope() as scope:
        async with open_jobs({"work": handler}) as jobs:
            job = jobs.submit("work")
            await wait_until_set(begun)
            scope.cancel()
    may_end.set()

    assert jobs.unfinished() == ([job.id], [])


async def test_many_functions_of_to_thread_share_32_threads(open_jobs: Open) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1
        return number

    async def handler(_payload: object) -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(work, n) for n in range(200)))

    async with open_jobs({"work": handler}) as jobs:
        assert await jobs.result(jobs.submit("work").id) == [*range(200)]

    assert most <= 32


# The context. -----------------------------------------------------------------------------------


async def test_a_job_ends_when_all_tasks_in_its_task_group_have_ended(open_jobs: Open) -> None:
    async def handler(count: int, context: JobContext) -> list[int]:
        done: list[int] = []

        async def work(number: int) -> None:
            await asyncio.sleep(0.001)
            done.append(number)

        for number in range(count):
            context.task_group.create_task(work(number))
        return done

    async with open_jobs({"work": handler}) as jobs:
        assert sorted(await jobs.result(jobs.submit("work", 3).id)) == [0, 1, 2]


async def fail_in_a_child(_payload: object, context: JobContext) -> None:
    async def fail() -> None:
        raise ValueError("a child failed")

    context.task_group.create_task(fail())
    await asyncio.sleep(3600)


async def fail_itself(_payload: object, _context: JobContext) -> None:
    raise KeyError("k")


async def fail_with_a_group(_payload: object, _context: JobContext) -> None:
    raise ExceptionGroup("mine", [ValueError("one")])


@pytest.mark.parametrize(
    ("handler", "error_type", "message"),
    [
        (fail_in_a_child, "ValueError", "a child failed"),
        (fail_itself, "KeyError", "'k'"),
        (fail_with_a_group, "ExceptionGroup", "mine (1 sub-exception): ValueError: one"),
    ],
)
async def test_an_error_of_the_handler_or_its_tasks_fails_the_job(
    handler: Callable[..., object], error_type: str, message: str, open_jobs: Open
) -> None:
    async with open_jobs({"work": handler}) as jobs:
        job = await jobs.wait(jobs.submit("work").id)

    assert job.ending is not None
    assert job.ending.error is not None
    assert (job.ending.error.type, job.ending.error.message) == (error_type, message)


async def test_the_limit_and_a_cancel_reach_the_tasks_in_the_task_group(
    open_jobs: Open, clock: MockClock
) -> None:
    begun: list[threading.Event] = [threading.Event(), threading.Event()]
    ended = []

    async def handler(number: int, context: JobContext) -> None:
        async def wait() -> None:
            begun[number].set()
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(number)

        context.task_group.create_task(wait())

    handlers = {"limited": on_asyncio(handler, timeout=LIMIT), "work": handler}
    async with open_jobs(handlers) as jobs:
        limited, cancelled = jobs.submit("limited", 0), jobs.submit("work", 1)
        for each in begun:
            await wait_until_set(each)
        clock.jump(LIMIT)
        jobs.cancel(cancelled.id)
        assert (await jobs.wait(cancelled.id)).outcome is Outcome.CANCELLED
        assert (await jobs.wait(limited.id)).outcome is Outcome.TIMED_OUT

    assert sorted(ended) == [0, 1]


# The program's own loop. ------------------------------------------------------------------------


@pytest.fixture(params=LOOPS)
def host(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of the program's, which runs in a thread."""
    if request.param == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def test_a_job_runs_on_the_programs_loop_which_goes_on(
    host: asyncio.AbstractEventLoop,
) -> None:
    async def handler(payload: object) -> object:
        assert asyncio.get_running_loop() is host
        return payload

    await wait_until(lambda: not loop_threads())  # those of other tests
    for _ in range(2):
        async with open_any_jobs(
            {"work": handler}, async_handlers="asyncio", asyncio_loop=host
        ) as jobs:
            assert await jobs.result(jobs.submit("work", 1).id) == 1
            await wait_until(lambda: not loop_threads())  # it ends just after it has said so
    assert host.is_running()


@pytest.mark.usefixtures("short_end")
async def test_a_closed_loop_of_the_program_fails_jobs_and_bounds_the_end(
    host: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work()

    with trio.CancelScope() as scope:
        async with open_any_jobs(
            {"work": work}, async_handlers="asyncio", asyncio_loop=host
        ) as jobs:
            lost = jobs.submit("work", 0)
            await wait_until_set(work.begun)
            host.call_soon_threadsafe(host.stop)
            await wait_until(lambda: not host.is_running())
            host.close()
            job = await jobs.wait(jobs.submit("work", 0).id)
            jobs.cancel(lost.id)
            scope.cancel()

    assert job.ending is not None
    assert job.ending.error is not None
    assert job.ending.error.type == "RuntimeError"
    assert "closed" in job.ending.error.message
    assert "asyncio_task_still_running" in messages(caplog)


async def test_a_function_of_the_program_makes_the_loop() -> None:
    made = []

    def make() -> asyncio.AbstractEventLoop:
        made.append(asyncio.SelectorEventLoop())
        return made[-1]

    async def handler(_payload: object) -> bool:
        return asyncio.get_running_loop() is made[0]

    async with open_any_jobs(
        {"work": handler}, async_handlers="asyncio", asyncio_loop=make
    ) as jobs:
        assert await jobs.result(jobs.submit("work").id) is True

    assert made[0].is_closed()


async def test_a_loop_that_cannot_be_made_is_refused() -> None:
    from trio_jobs.handlers.opening_errors import LoopStartError

    def make() -> asyncio.AbstractEventLoop:
        raise OSError("no descriptor")

    with pytest.raises(LoopStartError, match="asyncio's loop cannot be made: no descriptor"):
        async with open_any_jobs({"work": Work()}, async_handlers="asyncio", asyncio_loop=make):
            pytest.fail("it has opened")


async def test_no_loop_is_started_if_no_handler_asks_for_it() -> None:
    def make() -> asyncio.AbstractEventLoop:
        raise AssertionError

    async def handler(payload: object) -> object:
        return payload

    await wait_until(lambda: not loop_threads())  # those of other tests
    async with open_any_jobs({"work": handler}, asyncio_loop=make) as jobs:
        assert await jobs.result(jobs.submit("work", 1).id) == 1
        await wait_until(lambda: not loop_threads())  # it ends just after it has said so


def test_an_asyncio_loop_of_another_name_is_refused() -> None:
    async def main() -> None:
        loop: Any = "anyio"
        async with open_any_jobs({}, asyncio_loop=loop):
            pytest.fail("it has opened")

    with pytest.raises(ValueError, match="asyncio_loop must be one of 'asyncio', 'uvloop'"):
        trio.run(main)
