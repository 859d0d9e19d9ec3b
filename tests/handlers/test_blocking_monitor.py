"""A handler that blocks the event loop is reported, by name. On a clock that the handlers move."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from tests.support import RunningPool, running_pool
from trio_jobs import PayloadError
from trio_jobs.api.validation import check_submission
from trio_jobs.handlers.blocking_monitor import BlockingMonitor
from trio_jobs.handlers.context import JobContext
from trio_jobs.pool.worker import BURST_SECONDS
from trio_jobs.settings import LoggingSettings

LIMIT = 0.5


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """Trio's clock: what blocks the event loop moves it."""
    return mock_clock


@pytest.fixture
def block(clock: MockClock) -> Callable[[float], Awaitable[None]]:
    """An async handler that blocks for the seconds in its payload, before it first waits."""

    async def block(payload: float) -> None:
        clock.jump(payload)

    return block


@asynccontextmanager
async def watched(pool: RunningPool) -> AsyncIterator[None]:
    slow_steps = BlockingMonitor(pool.executor, LoggingSettings(slow_step=LIMIT))
    trio.lowlevel.add_instrument(slow_steps)
    try:
        yield
        await trio.lowlevel.checkpoint()  # the end of the last stretch
    finally:
        trio.lowlevel.remove_instrument(slow_steps)


async def wait_completed(pool: RunningPool, ids: Sequence[str]) -> None:
    for job_id in ids:
        if pool.parts.store.find_nowait(job_id).ending is None:
            with pool.parts.waiters.subscribe(job_id) as completion:
                await completion.wait()


async def run_jobs(
    clock: MockClock, table: Mapping[str, Callable[..., object]], *jobs: tuple[str, float]
) -> list[str]:
    """Run these jobs one after the other; returns their ids."""
    ids = []
    async with running_pool(table, workers=1) as pool, watched(pool):
        for type_, seconds in jobs:
            ids.append(pool.submit(type_, str(seconds).encode()).id)
        await wait_completed(pool, ids)
    return ids


def reports(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [vars(record) for record in caplog.records if record.message == "event_loop_blocked"]


async def test_a_handler_that_blocks_is_named_with_its_job_and_what_to_do(
    clock: MockClock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    [job_id] = await run_jobs(clock, {"report": block}, ("report", 8))

    [report] = reports(caplog)
    assert report["levelno"] == logging.WARNING
    assert report["handler"] == "tests.handlers.test_blocking_monitor:block.<locals>.block"
    assert (report["job_id"], report["job_type"]) == (job_id, "report")
    assert report["seconds"] == 8
    assert "make it a plain function" in str(report["advice"])
    assert 'run = "process"' in str(report["advice"])


@pytest.mark.parametrize("kind", ["short steps", "thread", "thread in the event loop"])
async def test_what_does_not_block_the_event_loop_is_not_reported(
    kind: str, clock: MockClock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    def compute(payload: float) -> None:
        clock.jump(payload)

    def compute_in_the_loop(payload: float) -> None:
        trio.from_thread.run_sync(clock.jump, payload)

    handlers = {"thread": compute, "thread in the event loop": compute_in_the_loop}
    seconds = LIMIT - 0.001 if kind == "short steps" else 8

    await run_jobs(clock, {"test": handlers.get(kind, block)}, ("test", seconds), ("test", 0.4))

    assert not reports(caplog)


@pytest.mark.parametrize(
    ("jobs", "reported"),
    [
        ([("one", 10.0)] * 13, ["one"] * 3),  # at 0, 60 and 120 seconds
        ([("one", 1.0), ("two", 1.0), ("one", 1.0)], ["one", "two"]),
        # Clients choose a type that `default` takes: neither log nor memory may grow with it.
        ([(f"type-{n}", 1.0) for n in range(10)], ["type-0"]),
    ],
)
async def test_each_handler_is_reported_once_a_minute(
    jobs: list[tuple[str, float]],
    reported: list[str],
    clock: MockClock,
    block: Callable[..., object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def other(payload: float) -> None:
        clock.jump(payload)

    await run_jobs(clock, {"default": block, "two": other}, *jobs)

    assert [report["job_type"] for report in reports(caplog)] == reported


async def test_what_blocks_without_any_job_is_not_blamed_on_a_handler(
    clock: MockClock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    async with running_pool({"report": block}) as pool, watched(pool):
        await trio.lowlevel.checkpoint()
        clock.jump(8)
        await trio.lowlevel.checkpoint()

    assert not reports(caplog)


@pytest.mark.parametrize("where", ["start", "middle", "child", "end", "whole"])
@pytest.mark.interleavings(5)
async def test_the_job_is_found_among_others_wherever_it_blocks(
    where: str, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    over = trio.Event()

    async def child() -> None:
        clock.jump(1)

    async def block(_payload: object, context: JobContext) -> None:
        if where == "child":
            context.nursery.start_soon(child)
            return
        if where in {"middle", "end"}:
            await trio.lowlevel.checkpoint()
        clock.jump(1)
        if where in {"start", "middle"}:
            await trio.lowlevel.checkpoint()

    async def block_only(_payload: object) -> None:
        clock.jump(1)

    async def wait(_payload: object) -> None:
        await over.wait()

    async def busy(_payload: object) -> None:
        while not over.is_set():
            await trio.lowlevel.checkpoint()

    async def quick(_payload: object) -> None: ...

    table = {
        "block": block_only if where == "whole" else block,
        "wait": wait,
        "busy": busy,
        "quick": quick,
    }
    async with running_pool(table, workers=4) as pool, watched(pool):
        for type_ in ("wait", "busy", "quick", "quick"):
            pool.submit(type_)
        job = pool.submit("block")
        for _ in range(5):
            pool.submit("quick")
        await wait_completed(pool, [job.id])
        over.set()

    [report] = reports(caplog)
    assert (report["job_type"], report["job_id"]) == ("block", job.id)
    assert report["seconds"] == 1


async def test_of_the_jobs_of_one_step_the_one_that_blocks_is_named(
    clock: MockClock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    # All in one burst but for the last: the clock goes on by too little to end it.
    seconds = [BURST_SECONDS / 10] * 5
    ids = await run_jobs(
        clock,
        {"quick": block, "report": block},
        *(("quick", each) for each in seconds),
        ("report", 8.0),
        ("quick", 0.0),
    )

    [report] = reports(caplog)
    assert report["job_id"] == ids[5]
    assert report["seconds"] == 8


async def test_handlers_that_only_return_are_not_blamed_for_what_others_do(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # As HTTP does under load: a stretch is long because of many requests, each with a job.
    async def do_nothing(_payload: object) -> None: ...

    async def wait(_payload: object) -> None:
        await over.wait()

    over = trio.Event()
    async with running_pool({"quick": do_nothing, "wait": wait}) as pool, watched(pool):

        async def request() -> None:
            for _ in range(5):
                clock.jump(0.2)
                job = pool.submit("quick")
                await wait_completed(pool, [job.id])

        pool.submit("wait")
        async with trio.open_nursery() as requests:
            for _ in range(10):
                requests.start_soon(request)
        over.set()

    assert not reports(caplog)


async def test_handlers_that_block_together_are_named_together_once_a_minute(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    workers = 20
    present = 0
    complete = trio.Event()

    async def meet(_payload: object) -> None:
        nonlocal present
        present += 1
        if present == workers:
            complete.set()
        for _ in range(3):  # the first wait is for the others
            await complete.wait()
            clock.jump(LIMIT / 10)

    async with running_pool({"meet": meet}, workers=workers) as pool, watched(pool):
        jobs = [pool.submit("meet") for _ in range(workers)]
        await wait_completed(pool, [job.id for job in jobs])

    [report] = reports(caplog)
    assert report["jobs"] == workers
    assert report["seconds"] == 1
    assert str(report["handlers"]).count("meet") == 5


async def test_an_error_whose_text_takes_long_is_its_handlers(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class SlowError(Exception):
        def __str__(self) -> str:
            clock.jump(2)
            return "at last"

    async def fail(_payload: object) -> None:
        raise SlowError

    [job_id] = await run_jobs(clock, {"report": fail}, ("report", 0))

    [report] = reports(caplog)
    assert (report["job_id"], report["seconds"]) == (job_id, 2)


@dataclass
class SlowToMake:
    """Its own code sleeps for so long; below zero, it refuses."""

    seconds: float

    def __post_init__(self) -> None:
        time.sleep(abs(self.seconds))
        if self.seconds < 0:
            raise ValueError("below zero")


def take(payload: SlowToMake) -> float:
    return payload.seconds


async def submit_slow(*seconds: float, limit: float) -> None:
    """Submit one after the other, in one step of Trio's, on the real clock."""
    async with running_pool({"slow": take}) as pool:
        slow_steps = BlockingMonitor(pool.executor, LoggingSettings(slow_step=limit))
        trio.lowlevel.add_instrument(slow_steps)
        await trio.lowlevel.checkpoint()
        for each in seconds:
            with contextlib.suppress(PayloadError):
                check_submission("slow", f'{{"seconds": {each}}}'.encode(), pool.handlers)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(slow_steps)


@pytest.mark.parametrize("seconds", [[0.06], [-0.06], [0.03, 0.03]])
async def test_a_payload_whose_own_code_blocks_is_named_by_its_handler(
    seconds: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    await submit_slow(*seconds, limit=0.05)

    [report] = reports(caplog)
    assert report["payload_of"] == "tests.handlers.test_blocking_monitor:take"
    assert isinstance(report["seconds"], float)
    assert report["seconds"] >= 0.05
    assert "the code of its class must not" in str(report["advice"])
    assert "handler" not in report


async def test_payloads_that_are_made_at_once_are_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await submit_slow(*[0.0] * 100, limit=10)

    assert not reports(caplog)


@pytest.mark.parametrize("slow_step", [LIMIT, 0])
async def test_longest_step_of_any_task_is_kept_until_it_is_taken(
    clock: MockClock, caplog: pytest.LogCaptureFixture, slow_step: float
) -> None:
    async with running_pool({}) as pool:
        monitor = BlockingMonitor(pool.executor, LoggingSettings(slow_step=slow_step))
        trio.lowlevel.add_instrument(monitor)
        try:
            for seconds in (0.25, 3, 0.5):
                clock.jump(seconds)  # in this task, which is no handler
                await trio.lowlevel.checkpoint()
            first = monitor.take_longest_step()
            await trio.lowlevel.checkpoint()
            second = monitor.take_longest_step()
            clock.jump(0.125)
            await trio.lowlevel.checkpoint()
            third = monitor.take_longest_step()
        finally:
            trio.lowlevel.remove_instrument(monitor)

    assert (first, second, third) == (3, 0, 0.125)
    assert reports(caplog) == []


async def test_time_in_which_the_loop_waits_is_no_step(clock: MockClock) -> None:
    clock.autojump_threshold = 0
    async with running_pool({}) as pool:
        monitor = BlockingMonitor(pool.executor, LoggingSettings(slow_step=LIMIT))
        trio.lowlevel.add_instrument(monitor)
        await trio.sleep(100)
        longest = monitor.take_longest_step()
        trio.lowlevel.remove_instrument(monitor)

    assert longest == 0


async def test_monitor_without_a_limit_warns_of_nothing(
    clock: MockClock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    async with running_pool({"report": block}, workers=1) as pool:
        monitor = BlockingMonitor(pool.executor, LoggingSettings(slow_step=0))
        trio.lowlevel.add_instrument(monitor)
        await wait_completed(pool, [pool.submit("report", b"8").id])
        await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(monitor)

    assert monitor.take_longest_step() == 8
    assert reports(caplog) == []
