"""Nurseries that handlers leave open: their jobs fail, and nobody else notices."""

import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from tests.handlers.support import process
from trio_jobs import JobContext, Jobs, Outcome, open_jobs

# Trio warns of generators that are left: it is what is tried here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

kept: list[object] = []


async def numbers() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(trio.sleep, 0.01)
        yield 1
        yield 2


async def return_from_it(_payload: object) -> int | None:
    async for number in numbers():
        return number
    return None


async def break_out_of_it(_payload: object) -> None:
    async for _ in numbers():
        break
    await trio.sleep(1)


async def break_out_of_it_and_go_on(_payload: object) -> None:
    async for _ in numbers():
        break
    for _ in range(3):
        with contextlib.suppress(BaseException):
            await trio.sleep(0.02)


async def keep_it(_payload: object) -> int | None:
    generator = numbers()
    kept.append(generator)
    async for number in generator:
        return number
    return None


async def open_one(_payload: object) -> None:
    manager = trio.open_nursery()
    kept.append(manager)
    nursery = await manager.__aenter__()
    nursery.start_soon(trio.sleep_forever)


async def break_out_of_two(_payload: object) -> None:
    async for _ in numbers():
        async for _ in numbers():
            break
        break
    await trio.sleep(1)


async def return_with_a_context(_payload: object, context: JobContext) -> int | None:
    context.nursery.start_soon(trio.sleep, 0.01)
    return await return_from_it(None)


async def break_with_a_context(_payload: object, context: JobContext) -> None:
    context.nursery.start_soon(trio.sleep, 0.01)
    await break_out_of_it(None)


async def break_in_a_child(_payload: object, context: JobContext) -> None:
    context.nursery.start_soon(break_out_of_it, None)


async def asleep(_payload: object) -> str:
    await trio.sleep(0.01)
    return "slept"


def in_a_thread(_payload: object) -> str:
    threading.Event().wait(0.01)
    return "waited"


LEAVING: list[Callable[..., Awaitable[object]]] = [
    return_from_it,
    break_out_of_it,
    break_out_of_it_and_go_on,
    keep_it,
    open_one,
    break_out_of_two,
    return_with_a_context,
    break_with_a_context,
    break_in_a_child,
]


@pytest.mark.parametrize("handler", LEAVING, ids=lambda handler: handler.__name__)
async def test_jobs_after_it_in_its_worker_are_not_touched(
    handler: Callable[..., Awaitable[object]],
) -> None:
    handlers: dict[str, Callable[..., object]] = {
        "leaving": handler,
        "asleep": asleep,
        "in_a_thread": in_a_thread,
    }
    order = ["leaving", "asleep", "leaving", "in_a_thread", "leaving", "asleep", "asleep"]

    async with open_jobs(handlers, workers=1) as jobs:
        submitted = jobs.submit_all([(job_type, None) for job_type in order])
        outcomes = [await outcome_of(jobs, job.id) for job in submitted]

    for job_type, outcome in zip(order, outcomes, strict=True):
        # Of a task that a handler has started Trio may swallow the mistake.
        failed = job_type == "leaving" and handler is not break_in_a_child
        assert outcome is (Outcome.FAILED if failed else Outcome.SUCCEEDED)
    kept.clear()


async def outcome_of(jobs: Jobs, job_id: str) -> Outcome | None:
    ending = (await jobs.wait(job_id)).ending
    return None if ending is None else ending.outcome


@pytest.mark.parametrize("handler", LEAVING, ids=lambda handler: handler.__name__)
async def test_pool_can_be_cut_off_at_any_moment_of_it(
    handler: Callable[..., Awaitable[object]],
) -> None:
    for moment in range(0, 60, 12):
        with trio.move_on_after(moment / 1000) as scope:
            async with open_jobs({"leaving": handler, "asleep": asleep}, workers=1) as jobs:
                jobs.submit_all([("leaving", None), ("asleep", None)] * 10)
                await trio.sleep_forever()
        assert scope.cancelled_caught
    kept.clear()


async def raise_only(_payload: object) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("handler", [open_one, raise_only])
def test_nurseries_of_whoever_processes_the_job_are_left_alone(
    handler: Callable[..., Awaitable[object]],
) -> None:
    reached: list[Outcome | str] = []

    async def main() -> None:
        async with trio.open_nursery():
            reached.append((await process(handler)).outcome)
            await trio.lowlevel.checkpoint()
            reached.append("the end")

    trio.run(main)  # not as a test of pytest-trio's: that is within a nursery itself

    assert reached == [Outcome.FAILED, "the end"]
