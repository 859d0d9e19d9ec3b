"""An async handler may ask for the job's context, and for a nursery of the job's own in it."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.handlers.support import message_of, process
from tests.support import NOON, running_pool
from trio_jobs import Jobs
from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.handler import Handler
from trio_jobs.job import Ending, JobStatus, Outcome


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


async def failing_child() -> None:
    raise ValueError("a child failed")


async def test_a_failing_child_fails_the_job(autojump_clock: MockClock) -> None:
    async def handler(_payload: object, context: JobContext) -> None:
        context.nursery.start_soon(failing_child)
        context.nursery.start_soon(trio.sleep_forever)
        await trio.sleep_forever()

    ending = await process(handler)

    assert ending.outcome is Outcome.FAILED
    assert ending.error is not None
    assert (ending.error.type, ending.error.message) == ("ValueError", "a child failed")


async def test_what_the_handler_itself_raises_is_not_put_into_a_group() -> None:
    async def handler(_payload: object, _context: JobContext) -> None:
        raise KeyError("k")

    ending = await process(handler)

    assert ending.error is not None
    assert (ending.error.type, ending.error.message) == ("KeyError", "'k'")


async def test_several_failures_are_named_together() -> None:
    async def handler(_payload: object, context: JobContext) -> None:
        context.nursery.start_soon(failing_child)
        context.nursery.start_soon(failing_child)

    ending = await process(handler)

    assert ending.error is not None
    assert ending.error.type == "ExceptionGroup"
    assert ending.error.message.count("ValueError: a child failed") == 2


async def test_a_group_that_the_handler_raised_stays_one() -> None:
    async def handler(_payload: object, _context: JobContext) -> None:
        raise ExceptionGroup("mine", [ValueError("one")])

    ending = await process(handler)

    assert message_of(ending) == "mine (1 sub-exception): ValueError: one"


async def sleeping_children(_payload: object, context: JobContext) -> None:
    for _ in range(3):
        context.nursery.start_soon(trio.sleep_forever)


@pytest.mark.trio_jobs({"sleep": Handler.of(sleeping_children, timeout=3600)})
async def test_the_time_limit_reaches_the_children(jobs: Jobs) -> None:
    job = await jobs.wait(jobs.submit("sleep").id)

    assert job.ending is not None
    assert job.ending.outcome is Outcome.TIMED_OUT
    assert trio.current_time() == 3600


@pytest.mark.trio_jobs({"sleep": sleeping_children})
async def test_a_cancel_reaches_the_children(jobs: Jobs) -> None:
    job = jobs.submit("sleep")
    await wait_all_tasks_blocked()
    jobs.cancel(job.id)
    job = await jobs.wait(job.id)

    assert job.ending is not None
    assert job.ending.outcome is Outcome.CANCELLED


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


async def test_a_handler_that_cancels_itself_by_its_nursery_has_failed() -> None:
    async def handler(_payload: object, context: JobContext) -> str:
        context.nursery.cancel_scope.cancel()
        await trio.sleep_forever()
        return "never"

    ending = await process(handler)

    assert ending.outcome is Outcome.FAILED
    assert message_of(ending) == "the handler was ended by cancelling its own nursery"


async def test_the_context_cannot_be_changed() -> None:
    async def handler(_payload: object, context: JobContext) -> None:
        context.id = "b"  # type: ignore[misc]

    ending = await process(handler)

    assert ending.error is not None
    assert ending.error.type == "FrozenInstanceError"


async def test_a_cause_given_by_the_handler_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_payload: object, _context: JobContext) -> None:
        raise ValueError("effect") from KeyError("cause")

    await process(handler)

    [record] = caplog.records
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert error is not None
    assert isinstance(error.__cause__, KeyError)
