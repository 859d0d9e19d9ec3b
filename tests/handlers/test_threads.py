"""Handlers in threads: on the real clock, and by what they do, never by how long they take."""

import threading
import time
from dataclasses import dataclass

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.handlers.support import process, wait_until_set
from tests.support import current_job_id, running_pool
from trio_jobs import JobContext, JobStatus, Outcome
from trio_jobs.handlers.handler import Handler


class Blocker:
    """A plain handler that stays in its thread until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.is_running = False

    def __call__(self, _payload: object) -> str:
        self.is_running = True
        self.entered.set()
        self.let_go.wait(30)
        self.is_running = False
        return "returned"


async def test_a_plain_function_runs_in_a_thread_with_the_jobs_id() -> None:
    def handler(payload: object) -> list[object]:
        return [
            payload,
            threading.current_thread() is threading.main_thread(),
            current_job_id.get(),
            threading.current_thread().name,  # a stack is told by it
        ]

    assert (await process(handler, b"1")).result == b'[1,false,"a","job a"]'


class SlowError(Exception):
    """Its text takes as long as nobody says that it may come."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def __str__(self) -> str:
        self.asked.set()
        return "told" if self.go_on.wait(30) else "the event loop stood still"


@pytest.mark.parametrize(("limit", "outcome"), [(None, "failed"), (0.01, "timed_out")])
async def test_an_errors_text_is_made_in_the_thread_and_in_the_handlers_time(
    limit: float | None, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = SlowError()

    def fail(_payload: object) -> None:
        raise error

    async with running_pool({"test": Handler.of(fail, timeout=limit)}, workers=1) as pool:
        job = pool.submit("test")
        await wait_until_set(error.asked)
        await trio.sleep(0.02)  # the event loop goes on, beyond the time limit
        error.go_on.set()

    ending = pool.ending(job)
    assert ending is not None
    assert ending.error is not None
    assert ending.outcome == outcome
    assert ending.error.message == ("told" if limit is None else "the time limit of 0.01 s passed")
    [record] = [record for record in caplog.records if record.message == "handler_raised"]
    assert str(record.exc_text).endswith("SlowError: told\n")


async def test_the_payload_is_made_in_the_thread() -> None:
    made_in: list[threading.Thread] = []

    @dataclass
    class Payload:
        number: int

        def __post_init__(self) -> None:
            made_in.append(threading.current_thread())

    def handler(payload: Payload) -> int:
        return payload.number

    ending = await process(handler, b'{"number":7}')

    assert ending.result == b"7"
    assert [thread is threading.main_thread() for thread in made_in] == [False]


async def test_the_text_of_a_thread_that_was_left_behind_goes_nowhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = SlowError()

    def fail(_payload: object) -> None:
        raise error

    async with running_pool({"test": fail}, workers=1) as pool:
        job = pool.submit("test")
        await wait_until_set(error.asked)
        pool.scope.cancel()
    [thread] = [each for each in threading.enumerate() if each.name == f"job {job.id}"]
    error.go_on.set()
    while thread.name == f"job {job.id}":  # noqa: ASYNC110  (Trio renames it at the job's end)
        await trio.sleep(0.005)
    await trio.lowlevel.checkpoint()

    assert pool.status(job) is JobStatus.PENDING
    assert [record.message for record in caplog.records] == ["thread_still_running"]


async def test_as_many_threads_run_at_once_as_there_are_workers() -> None:
    workers = 50  # more than Trio's own limiter has
    all_in = threading.Barrier(workers)

    def handler(_payload: object) -> None:
        all_in.wait(30)

    async with running_pool({"test": handler}, workers=workers) as pool:
        jobs = [pool.submit("test") for _ in range(workers)]

    assert {pool.outcome(job) for job in jobs} == {Outcome.SUCCEEDED}


async def test_other_peoples_threads_leave_the_handlers_theirs() -> None:
    default = trio.to_thread.current_default_thread_limiter()
    async with trio.open_nursery() as nursery:
        for _ in range(int(default.total_tokens)):
            await default.acquire_on_behalf_of(object())

        ending = await process(lambda payload: payload)
        nursery.cancel_scope.cancel()

    assert ending.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("limit", [None, 0.01])
async def test_a_cancelled_or_timed_out_thread_keeps_its_slot_until_it_has_returned(
    limit: float | None,
) -> None:
    blocker = Blocker()
    table = {"test": Handler.of(blocker, timeout=limit), "next": Handler.of(lambda _payload: None)}

    async with running_pool(table, workers=1) as pool:
        first = pool.submit("test")
        second = pool.submit("next")
        await wait_until_set(blocker.entered)
        if limit is not None:
            await trio.sleep(2 * limit)  # by the real clock

        assert pool.executor.cancel(first.id) is (limit is None)
        await wait_all_tasks_blocked(0.01)

        assert pool.status(first) is JobStatus.PROCESSING
        assert pool.status(second) is JobStatus.PENDING
        blocker.let_go.set()

    assert pool.outcome(first) is (Outcome.CANCELLED if limit is None else Outcome.TIMED_OUT)
    assert pool.outcome(second) is Outcome.SUCCEEDED


async def test_the_pools_end_leaves_the_thread_behind_and_releases_its_cancelled_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocker = Blocker()

    async with running_pool({"test": blocker}, workers=1) as pool:
        job = pool.submit("test")
        await wait_until_set(blocker.entered)
        assert pool.executor.cancel(job.id)
        pool.scope.cancel()

    assert blocker.is_running
    assert pool.status(job) is JobStatus.PENDING
    [record] = [record for record in caplog.records if record.message == "thread_still_running"]
    assert (record.job_id, record.job_type) == (job.id, "test")  # type: ignore[attr-defined]
    blocker.let_go.set()


@pytest.mark.parametrize("by", ["cancel", "limit", "end"])
async def test_a_thread_can_ask_whether_its_job_is_cancelled(by: str) -> None:
    seen: list[bool] = []
    begun, ended = threading.Event(), threading.Event()

    def handler(_payload: object, context: JobContext) -> None:
        seen.append(context.cancelled())
        begun.set()
        while not context.cancelled():
            time.sleep(0.001)
        seen.append(True)
        ended.set()

    limit = 0.05 if by == "limit" else None
    async with running_pool({"test": Handler.of(handler, timeout=limit)}, workers=1) as pool:
        job = pool.submit("test")
        await wait_until_set(begun)
        if by == "cancel":
            pool.executor.cancel(job.id)
        if by == "end":
            pool.scope.cancel()
    await wait_until_set(ended)

    assert seen == [False, True] or by == "limit"
    outcome = {"cancel": Outcome.CANCELLED, "limit": Outcome.TIMED_OUT, "end": None}[by]
    assert pool.outcome(job) is outcome


async def test_a_plain_function_gets_the_context_of_its_job() -> None:
    def handler(payload: object, context: JobContext) -> list[object]:
        with pytest.raises(RuntimeError, match="only a handler on Trio has a nursery"):
            print(context.nursery)  # noqa: T201 - not reached
        with pytest.raises(RuntimeError, match="only a handler on asyncio has a task group"):
            print(context.task_group)  # noqa: T201
        return [payload, context.id, context.type, context.attempt, context.last_attempt]

    assert (await process(handler, b"1")).result == b'[1,"a","test",1,true]'


async def test_check_cancelled_sees_the_pools_end_and_nothing_before() -> None:
    checked = threading.Event()
    go_on = threading.Event()
    saw: list[str] = []
    ended = threading.Event()

    def handler(_payload: object) -> None:
        try:
            trio.from_thread.check_cancelled()
            saw.append("nothing at first")
            checked.set()
            go_on.wait(30)
            trio.from_thread.check_cancelled()
            saw.append("nothing after a cancel")
            checked.set()
            while True:
                trio.from_thread.check_cancelled()
        except trio.Cancelled:
            saw.append("the pool's end")
            raise
        finally:
            ended.set()

    async with running_pool({"test": handler}, workers=1) as pool:
        job = pool.submit("test")
        await wait_until_set(checked)
        pool.executor.cancel(job.id)
        checked.clear()
        go_on.set()
        await wait_until_set(checked)
        pool.scope.cancel()

    await wait_until_set(ended)
    assert saw == ["nothing at first", "nothing after a cancel", "the pool's end"]
    assert pool.status(job) is JobStatus.PENDING
