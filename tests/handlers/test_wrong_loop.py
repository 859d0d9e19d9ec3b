"""A handler that runs on the wrong loop gets advice in its job's error and in the log."""

import asyncio
from collections.abc import Callable

import pytest
import trio

from trio_jobs import Handler, open_jobs

ON_TRIO = '; this async handler runs on Trio, and asyncio libraries need run = "asyncio"'
ON_ASYNCIO = '; this handler runs on asyncio; Trio\'s functions need run = "trio"'


async def sleep(_: object) -> None:
    await asyncio.sleep(0.01)


async def limit(_: object) -> None:
    async with asyncio.timeout(1):  # noqa: ASYNC100 - it fails at once
        pass


async def use_thread(_: object) -> None:
    await asyncio.to_thread(int)


async def group(_: object) -> None:
    async with asyncio.TaskGroup():
        pass


async def wait_for_future(_: object) -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    finally:
        loop.close()


async def take(_: object) -> None:
    await asyncio.Queue[int]().get()


async def fail_in_a_group(_: object) -> None:
    raise ExceptionGroup("two", [ValueError("one"), RuntimeError("no running event loop")])


async def sleep_on_trio(_: object) -> None:
    await trio.sleep(0.01)


async def pass_a_checkpoint(_: object) -> None:
    await trio.lowlevel.checkpoint()


async def open_a_nursery(_: object) -> None:
    async with trio.open_nursery():
        pass


async def use_trios_thread(_: object) -> None:
    await trio.to_thread.run_sync(int)


async def fail(_: object) -> None:
    raise RuntimeError("there was no running event loop")


async def fail_elsewhere(_: object) -> None:
    raise ValueError("no running event loop")


async def find_nothing(_: object) -> None:
    asyncio.Queue[int]().get_nowait()


@pytest.mark.parametrize(
    ("handler", "run", "advice"),
    [
        *(
            (each, "trio", ON_TRIO)
            for each in (sleep, limit, use_thread, group, wait_for_future, take, fail_in_a_group)
        ),
        *(
            (each, "asyncio", ON_ASYNCIO)
            for each in (sleep_on_trio, pass_a_checkpoint, open_a_nursery, use_trios_thread)
        ),
        *((each, run, "") for each in (fail, fail_elsewhere) for run in ("trio", "asyncio")),
        # asyncio's own errors are no sign of a wrong loop.
        (find_nothing, "trio", ""),
        (sleep_on_trio, "trio", None),
        (sleep, "asyncio", None),
    ],
)
async def test_a_handler_on_the_wrong_loop_is_told_so(
    handler: Callable[..., object],
    run: str,
    advice: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_jobs({"work": Handler.of(handler, run=run)}) as jobs:
        job = await jobs.wait(jobs.submit("work").id)

    assert job.ending is not None
    if advice is None:
        assert job.ending.error is None
        return
    assert job.ending.error is not None
    message = job.ending.error.message
    assert message.endswith(advice) if advice else "run =" not in message
    [record] = [each for each in caplog.records if each.message == "handler_raised"]
    assert getattr(record, "advice", "") == advice.removeprefix("; ")
    if advice:
        assert message.removesuffix(advice)


async def test_a_plain_function_gets_no_advice() -> None:
    def handler(_: object) -> None:
        asyncio.get_running_loop()

    async with open_jobs({"work": handler}) as jobs:
        job = await jobs.wait(jobs.submit("work").id)

    assert job.ending is not None
    assert job.ending.error is not None
    assert job.ending.error.message == "no running event loop"
