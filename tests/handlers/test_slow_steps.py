"""A handler that blocks the event loop is reported, by name. On a clock that the handlers move."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from tests.support import Pool, running_pool
from trio_jobs.handlers import JobContext, SlowSteps

LIMIT = 0.5


class Clock:
    """What blocks the event loop moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def block(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def block(clock: Clock) -> Callable[[float], Awaitable[None]]:
    """An async handler that blocks for the seconds in its payload, before it first waits."""

    async def block(payload: float) -> None:
        clock.block(payload)

    return block


@asynccontextmanager
async def watched(pool: Pool, clock: Clock) -> AsyncIterator[None]:
    slow_steps = SlowSteps(pool.processor, limit=LIMIT, clock=clock)
    trio.lowlevel.add_instrument(slow_steps)
    try:
        yield
        await trio.lowlevel.checkpoint()  # the end of the last stretch
    finally:
        trio.lowlevel.remove_instrument(slow_steps)


async def wait_completed(pool: Pool, ids: Sequence[str]) -> None:
    for job_id in ids:
        if pool.parts.store.get(job_id).ending is None:
            with pool.parts.completions.watch(job_id) as completion:
                await completion.wait()


async def run_jobs(
    clock: Clock, table: Mapping[str, Callable[..., object]], *jobs: tuple[str, float]
) -> list[str]:
    """Run these jobs one after the other; returns their ids."""
    ids = []
    async with running_pool(table, workers=1) as pool, watched(pool, clock):
        for type_, seconds in jobs:
            ids.append(pool.parts.submissions.submit(type_, str(seconds).encode()).id)
        await wait_completed(pool, ids)
    return ids


def reports(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [vars(record) for record in caplog.records if record.message == "event_loop_blocked"]


async def test_a_handler_that_blocks_is_named_with_its_job_and_what_to_do(
    clock: Clock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    [job_id] = await run_jobs(clock, {"report": block}, ("report", 8))

    [report] = reports(caplog)
    assert report["levelno"] == logging.WARNING
    assert report["handler"] == "tests.handlers.test_slow_steps:block.<locals>.block"
    assert (report["job_id"], report["job_type"]) == (job_id, "report")
    assert report["seconds"] == 8
    assert "make it a plain function" in str(report["advice"])
    assert 'run = "process"' in str(report["advice"])


async def test_a_handler_that_blocks_between_two_waits_is_named(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait_block_wait(payload: float) -> None:
        await trio.lowlevel.checkpoint()
        clock.block(payload)
        await trio.lowlevel.checkpoint()

    [job_id] = await run_jobs(clock, {"report": wait_block_wait}, ("report", 1))

    [report] = reports(caplog)
    assert report["job_id"] == job_id


async def test_a_child_in_the_jobs_nursery_that_blocks_is_the_jobs(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def child() -> None:
        clock.block(1)

    async def parent(_payload: object, context: JobContext) -> None:
        context.nursery.start_soon(child)

    [job_id] = await run_jobs(clock, {"report": parent}, ("report", 1))

    [report] = reports(caplog)
    assert report["job_id"] == job_id


async def test_a_step_within_the_limit_is_not_reported(
    clock: Clock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    await run_jobs(clock, {"quick": block}, ("quick", LIMIT - 0.001), ("quick", 0.4))

    assert not reports(caplog)


async def test_a_handler_in_a_thread_is_not_reported(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def compute(payload: float) -> None:
        clock.block(payload)

    await run_jobs(clock, {"plain": compute}, ("plain", 8))

    assert not reports(caplog)


async def test_what_blocks_without_any_job_is_not_blamed_on_a_handler(
    clock: Clock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    async with running_pool({"report": block}) as pool, watched(pool, clock):
        await trio.lowlevel.checkpoint()
        clock.block(8)
        await trio.lowlevel.checkpoint()

    assert not reports(caplog)


async def test_a_handler_is_reported_once_a_minute(
    clock: Clock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    await run_jobs(clock, {"report": block}, *[("report", 10.0)] * 13)

    assert len(reports(caplog)) == 3  # at 0, 60 and 120 seconds


async def test_each_handler_has_its_own_minute(
    clock: Clock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    async def other(payload: float) -> None:
        clock.block(payload)

    await run_jobs(clock, {"one": block, "two": other}, ("one", 1), ("two", 1), ("one", 1))

    assert [report["job_type"] for report in reports(caplog)] == ["one", "two"]


async def test_types_that_share_a_handler_share_its_minute(
    clock: Clock, block: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    # Clients choose the type where `default` takes any: neither log nor memory may grow with it.
    await run_jobs(clock, {"default": block}, *[(f"type-{n}", 1.0) for n in range(10)])

    assert len(reports(caplog)) == 1


async def blocking_among_others(clock: Clock, *, blocks: int, seconds: float = 1) -> list[str]:
    """Jobs that block, one after the other, while other async jobs wait; the ids of the first."""
    over = trio.Event()

    async def block(_payload: object) -> None:
        await trio.lowlevel.checkpoint()
        clock.block(seconds)
        await trio.lowlevel.checkpoint()

    async def wait(_payload: object) -> None:
        await over.wait()

    async with running_pool({"block": block, "wait": wait}, workers=3) as pool:
        for _ in range(2):
            pool.parts.submissions.submit("wait", b"null")
        async with watched(pool, clock):
            jobs = [pool.parts.submissions.submit("block", b"null") for _ in range(blocks)]
            await wait_completed(pool, [job.id for job in jobs])
        over.set()
    return [job.id for job in jobs]


async def test_at_first_it_is_one_of_several_jobs(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    [blocking] = await blocking_among_others(clock, blocks=1)

    [report] = reports(caplog)
    assert report["jobs"] == 3
    assert report["seconds"] == 1
    assert f"blocking_among_others.<locals>.block {blocking}" in str(report["one_of"])
    assert str(report["one_of"]).count("blocking_among_others.<locals>.wait") == 2


async def test_what_blocks_again_is_named_alone(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    _, second, _ = await blocking_among_others(clock, blocks=3)

    _, report = reports(caplog)
    assert (report["job_type"], report["job_id"]) == ("block", second)


@pytest.mark.parametrize("where", ["start", "whole", "child", "end"])
async def test_the_closer_look_finds_the_job_wherever_it_blocks(
    where: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    over = trio.Event()

    async def child() -> None:
        clock.block(1)

    async def block(_payload: object, context: JobContext) -> None:
        if where == "child":
            context.nursery.start_soon(child)
            return
        if where == "end":
            await trio.lowlevel.checkpoint()
        clock.block(1)
        if where == "start":
            await trio.lowlevel.checkpoint()

    async def block_only(_payload: object) -> None:
        clock.block(1)

    async def wait(_payload: object) -> None:
        await over.wait()

    table = {"block": block_only if where == "whole" else block, "wait": wait}
    async with running_pool(table, workers=2) as pool:
        pool.parts.submissions.submit("wait", b"null")
        async with watched(pool, clock):
            for _ in range(2):
                job = pool.parts.submissions.submit("block", b"null")
                await wait_completed(pool, [job.id])
        over.set()

    first, second = reports(caplog)
    assert first["jobs"] == 2
    assert (second["job_type"], second["job_id"]) == ("block", job.id)


async def test_single_steps_are_timed_for_a_minute_only(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await blocking_among_others(clock, blocks=5, seconds=30)

    # Of several, alone, (within its minute, which ends the closer look), of several, alone.
    assert ["one_of" in report for report in reports(caplog)] == [True, False, True, False]


async def test_many_suspects_are_not_all_named(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    workers = 20
    present = 0
    complete = trio.Event()

    async def meet(_payload: object) -> None:
        nonlocal present
        present += 1
        if present == workers:
            complete.set()
        await complete.wait()
        clock.block(1)

    async with running_pool({"meet": meet}, workers=workers) as pool, watched(pool, clock):
        jobs = [pool.parts.submissions.submit("meet", b"null") for _ in range(workers)]
        await wait_completed(pool, [job.id for job in jobs])

    report = reports(caplog)[0]
    assert report["jobs"] == workers
    assert str(report["one_of"]).count("meet") == 5


def test_nothing_is_hooked_to_every_step() -> None:
    assert SlowSteps.before_task_step is trio.abc.Instrument.before_task_step
    assert SlowSteps.after_task_step is trio.abc.Instrument.after_task_step
    assert SlowSteps.task_scheduled is trio.abc.Instrument.task_scheduled
