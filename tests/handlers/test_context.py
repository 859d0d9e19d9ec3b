"""An async handler may ask for the job's context, and for a nursery of the job's own in it."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.handlers.support import process
from tests.support import NOON, running_pool
from trio_jobs import Ending, JobError, Jobs, JobStatus, Outcome
from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.handler import Handler


async def test_a_handler_that_takes_two_arguments_gets_the_context() -> None:
    async def handler(payload: object, context: JobContext) -> list[object]:
        return [payload, context.id, context.type, context.submitted_at == NOON]

    ending = await process(handler, b"1")

    assert ending.result == b'[1,"a","test",true]'


async def sleep(seconds: float, context: JobContext) -> str:
    context.nursery.start_soon(trio.sleep, seconds)
    return "started"


@pytest.mark.trio_jobs({"sleep": sleep})
async def test_a_job_ends_when_everything_in_its_nursery_has_ended(jobs: Jobs) -> None:
    job = jobs.submit("sleep", 3600)

    assert await jobs.result(job.id) == "started"
    assert trio.current_time() == 3600


async def fail_in_a_child(_payload: object, context: JobContext) -> None:
    async def fail() -> None:
        raise ValueError("a child failed")

    context.nursery.start_soon(fail)
    context.nursery.start_soon(trio.sleep_forever)
    await trio.sleep_forever()


async def fail_in_two_children(_payload: object, context: JobContext) -> None:
    async def fail() -> None:
        raise ValueError("a child failed")

    context.nursery.start_soon(fail)
    context.nursery.start_soon(fail)


async def fail_itself(_payload: object, _context: JobContext) -> None:
    raise KeyError("k")


async def fail_with_a_group(_payload: object, _context: JobContext) -> None:
    raise ExceptionGroup("mine", [ValueError("one")])


async def cancel_itself(_payload: object, context: JobContext) -> None:
    context.nursery.cancel_scope.cancel()
    await trio.sleep_forever()


async def change_the_context(_payload: object, context: JobContext) -> None:
    context.id = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("handler", "error_type", "message"),
    [
        (fail_in_a_child, "ValueError", "a child failed"),
        (
            fail_in_two_children,
            "ExceptionGroup",
            (
                "Exceptions from Trio nursery (2 sub-exceptions): ValueError: a child failed;"
                " ValueError: a child failed"
            ),
        ),
        (fail_itself, "KeyError", "'k'"),
        (fail_with_a_group, "ExceptionGroup", "mine (1 sub-exception): ValueError: one"),
        (cancel_itself, "RuntimeError", "the handler was ended by cancelling its own nursery"),
        (change_the_context, "FrozenInstanceError", "cannot assign to field 'id'"),
    ],
)
async def test_an_error_of_the_handler_or_its_children_fails_the_job(
    handler: Callable[..., object], error_type: str, message: str
) -> None:
    ending = await process(handler)

    error = JobError(type=error_type, message=message)
    assert ending == Ending(outcome=Outcome.FAILED, error=error)


async def sleeping_children(_payload: object, context: JobContext) -> None:
    for _ in range(3):
        context.nursery.start_soon(trio.sleep_forever)


@pytest.mark.trio_jobs(
    {"limited": Handler.of(sleeping_children, timeout=3600), "sleep": sleeping_children}
)
async def test_the_time_limit_and_a_cancel_reach_the_children(jobs: Jobs) -> None:
    limited, cancelled = jobs.submit_all([("limited", None), ("sleep", None)])
    await wait_all_tasks_blocked()
    jobs.cancel(cancelled.id)

    assert (await jobs.wait(cancelled.id)).outcome is Outcome.CANCELLED
    assert trio.current_time() == 0
    assert (await jobs.wait(limited.id)).outcome is Outcome.TIMED_OUT
    assert trio.current_time() == 3600


async def test_the_pools_end_reaches_the_children() -> None:
    async with running_pool({"test": sleeping_children}) as pool:
        job = pool.submit("test")
        await wait_all_tasks_blocked()
        pool.scope.cancel()

    assert pool.status(job) is JobStatus.PENDING


async def test_a_handler_may_end_its_children_and_return() -> None:
    async def handler(_payload: object, context: JobContext) -> str:
        context.nursery.start_soon(trio.sleep_forever)
        context.nursery.cancel_scope.cancel()
        return "done"

    ending = await process(handler)

    assert ending == Ending(outcome=Outcome.SUCCEEDED, result=b'"done"')


async def test_a_cause_given_by_the_handler_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_payload: object, _context: JobContext) -> None:
        raise ValueError("effect") from KeyError("cause")

    await process(handler)

    [record] = caplog.records
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert error is not None
    assert isinstance(error.__cause__, KeyError)
