"""A handler that blocks asyncio's loop is named; on the real clock, by what it does."""

import asyncio
import contextvars
import logging
import threading

import pytest

from tests.support import HandlerRegistry, JobExecutor, make_job
from trio_jobs.handlers.places import Places
from trio_jobs.handlers.timed_loop import TimedLoop

LIMIT = 0.25
LONGER = 0.3


async def block(seconds: float) -> None:
    await asyncio.sleep(0)
    threading.Event().wait(seconds)


async def block_in_a_task(seconds: float) -> None:
    await asyncio.gather(asyncio.sleep(0), block(seconds))


async def block_in_a_callback(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(threading.Event().wait, seconds, context=contextvars.Context())
    await asyncio.sleep(0)


async def run(*jobs: tuple[str, float]) -> None:
    """Run these jobs one after the other, each a type and the seconds for which it blocks."""
    functions = {"block": block, "task": block_in_a_task, "callback": block_in_a_callback}
    registry = HandlerRegistry.of(functions, async_handlers="asyncio")
    places = Places(registry, workers=1)
    assert places.asyncio is not None
    places.asyncio.watch(LIMIT)
    executor = JobExecutor(registry, max_result_bytes=100, places=places)
    async with places.open():
        for number, (type_, seconds) in enumerate(jobs):
            await executor(make_job(str(number), type=type_, payload=str(seconds).encode()))


def reports(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    found = [vars(each) for each in caplog.records if each.message == "event_loop_blocked"]
    assert all(each["levelno"] == logging.WARNING and each["loop"] == "asyncio" for each in found)
    return found


async def test_a_handler_that_blocks_is_named_with_its_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await run(("block", LONGER))

    [report] = reports(caplog)
    assert report["handler"] == "tests.handlers.test_timed_loop:block"
    assert (report["job_id"], report["job_type"]) == ("0", "block")
    assert isinstance(report["seconds"], float)
    assert report["seconds"] >= LIMIT


async def test_a_task_of_a_handler_blocks_for_its_job(caplog: pytest.LogCaptureFixture) -> None:
    await run(("task", LONGER))

    [report] = reports(caplog)
    assert report["handler"] == "tests.handlers.test_timed_loop:block_in_a_task"


async def test_what_no_job_has_started_is_reported_without_a_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await run(("callback", LONGER))

    [report] = reports(caplog)
    assert "handler" not in report


async def test_each_handler_is_reported_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    await run(("block", LONGER), ("block", LONGER), ("task", LONGER), ("block", LONGER))

    assert [each["job_id"] for each in reports(caplog)] == ["0", "2"]


def test_a_call_that_raises_is_timed_and_reported_as_asyncio_does() -> None:
    seconds: list[float] = []
    loop = TimedLoop(limit=LIMIT, report=seconds.append)
    contexts: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))

    def fail() -> None:
        threading.Event().wait(LONGER)
        raise ValueError("no")

    loop.call_soon(fail)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()

    assert len(seconds) == 1
    assert isinstance(contexts[0]["exception"], ValueError)
