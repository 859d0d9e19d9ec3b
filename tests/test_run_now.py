"""A job that waits for a time begins at once if somebody wants that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api, assert_problem
from tests.api.test_openapi import document, validator
from tests.stores.test_durable_store import filled, in_file
from tests.support import NOON, SUCCEEDED, Later, make_job, running_pool
from trio_jobs import (
    DurableJobs,
    Handler,
    InvalidTransitionError,
    JobNotFoundError,
    Jobs,
    JobStatus,
    Outcome,
    RetryPolicy,
    ShuttingDownError,
    StoreTimeoutError,
    StoreWriteError,
    open_jobs,
)

WEEK = 604_800
RETRY = RetryPolicy(attempts=2, base=WEEK, cap=WEEK, jitter=False)


class FailsOnce:
    """A handler whose first call fails."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, _payload: object) -> float:
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError("not yet")
        return trio.current_time()


async def note(_payload: object) -> float:
    return trio.current_time()


@asynccontextmanager
async def either(path: Path | None, **handlers: object) -> AsyncIterator[Jobs | DurableJobs]:
    async with open_jobs({"note": note, **handlers}, path=path) as jobs:
        yield jobs


async def submit(jobs: Jobs | DurableJobs, type_: str, delay: float | None = None) -> str:
    if isinstance(jobs, Jobs):
        return jobs.submit(type_, delay=delay).id
    return (await jobs.submit(type_, delay=delay)).id


async def status_of(jobs: Jobs | DurableJobs, job_id: str) -> tuple[JobStatus, bool]:
    job = jobs.get(job_id) if isinstance(jobs, Jobs) else await jobs.get(job_id)
    return job.status, job.run_at is not None


@pytest.mark.parametrize("durable", [False, True])
async def test_delayed_and_retrying_jobs_begin_at_once(durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db" if durable else None
    async with either(path, flaky=Handler.of(FailsOnce(), retry=RETRY)) as jobs:
        delayed, retried = await submit(jobs, "note", WEEK), await submit(jobs, "flaky")
        while await status_of(jobs, retried) != (JobStatus.PENDING, True):  # noqa: ASYNC110
            await trio.sleep(0.001)
        for job_id in (delayed, retried):
            with assert_checkpoints():
                job = await jobs.run_now(job_id)
            # With a file it may have begun while its time was written.
            assert job.run_at is None or job.run_at - job.created_at < timedelta(minutes=5)
            ended = await jobs.wait(job_id)
            assert ended.outcome is Outcome.SUCCEEDED
            assert ended.attempts == (1 if job_id == delayed else 2)


async def test_it_begins_after_those_that_are_due_already(autojump_clock: MockClock) -> None:
    async with open_jobs({"note": note}, workers=1) as jobs:
        first, second = jobs.submit("note", delay=5), jobs.submit("note", delay=WEEK)
        await trio.sleep(2)
        await jobs.run_now(second.id)

        assert await jobs.result(second.id) == 2
        assert await jobs.result(first.id) == 5


async def wait_for_ever(_payload: object) -> None:
    await trio.sleep_forever()


async def test_only_a_job_that_waits_for_a_time_is_taken(autojump_clock: MockClock) -> None:
    slow = Handler.of(wait_for_ever, max_running=1)
    async with open_jobs({"slow": slow, "note": note}, workers=2) as jobs:
        ended = jobs.submit("note")
        await jobs.wait(ended.id)
        running = jobs.submit("slow")
        await wait_all_tasks_blocked()
        held = jobs.submit("slow")
        await wait_all_tasks_blocked()
        buffered = jobs.submit("note")
        for job_id, status in (
            (running.id, "processing"),
            (held.id, "pending"),
            (buffered.id, "pending"),
            (ended.id, "completed"),
        ):
            before = jobs.get(job_id)
            with pytest.raises(InvalidTransitionError, match=f"is {status}, and waits for no time"):
                await jobs.run_now(job_id)
            assert jobs.get(job_id) == before
        with pytest.raises(JobNotFoundError):
            await jobs.run_now(make_job("a").id)
        for job in (held, running):
            jobs.cancel(job.id)


async def test_held_job_keeps_its_turn(autojump_clock: MockClock) -> None:
    begun: list[object] = []

    async def sleep(number: object) -> None:
        begun.append(number)
        await trio.sleep(10)

    handlers = {"slow": Handler.of(sleep, max_running=1)}
    async with open_jobs(handlers, workers=3) as jobs:
        jobs.submit("slow", 0)
        held = [jobs.submit("slow", number, delay=number) for number in (1, 2)]
        await trio.sleep(5)  # both are due, and held
        for job in reversed(held):
            assert (await jobs.run_now(job.id)).run_at == job.run_at
            await wait_all_tasks_blocked()
        await jobs.drain()

    assert begun == [0, 1, 2]
    assert trio.current_time() == 30


async def test_second_request_and_one_behind_a_cancel_change_nothing(
    autojump_clock: MockClock,
) -> None:
    async with open_jobs({"slow": wait_for_ever, "note": note}, workers=1) as jobs:
        running = jobs.submit("slow")
        await wait_all_tasks_blocked()
        job, cancelled = jobs.submit("note", delay=WEEK), jobs.submit("note", delay=WEEK)
        first = await jobs.run_now(job.id)
        await trio.sleep(3)
        assert await jobs.run_now(job.id) == first
        before = jobs.cancel(cancelled.id)
        assert await jobs.run_now(cancelled.id) == before
        jobs.cancel(running.id)
        ended = await jobs.wait(job.id), await jobs.wait(cancelled.id)

    assert [each.outcome for each in ended] == [Outcome.SUCCEEDED, Outcome.CANCELLED]


async def test_closed_pool_begins_none(autojump_clock: MockClock) -> None:
    async with open_jobs({"note": note}) as jobs:
        job = jobs.submit("note", delay=WEEK)
        await jobs.drain()
        with pytest.raises(ShuttingDownError):
            await jobs.run_now(job.id)
        assert jobs.get(job.id).run_at == job.run_at


async def test_over_http_it_is_accepted_refused_and_described() -> None:
    async with running_pool({"default": note}) as running:
        api = Api(parts=running.parts)
        delayed = (await api.client.post("/jobs", b'{"type":"a","delay":90}')).json()["id"]
        plain = (await api.client.post("/jobs", SUBMISSION)).json()["id"]

        answer = await api.client.post(f"/jobs/{delayed}/run-now")
        await wait_all_tasks_blocked()
        ended = await api.client.post(f"/jobs/{plain}/run-now")
        unknown = await api.client.post(f"/jobs/{'0' * 8}-0000-7000-8000-{'0' * 12}/run-now")
        job = (await api.client.get(f"/jobs/{delayed}")).json()
        running.parts.admission.close()
        closed = await api.client.post(f"/jobs/{delayed}/run-now")

    assert answer.status == 202
    validator(await document(), "Job").validate(answer.json())
    assert answer.json()["status"] == "pending"
    assert job["outcome"] == "succeeded"
    assert_problem(ended, 409)
    assert_problem(unknown, 404)
    assert_problem(closed, 503)


# With a file. ----------------------------------------------------------------------------------

DELAYED = NOON + timedelta(weeks=1)


async def test_new_time_is_on_the_disk_before_the_answer() -> None:
    store, journal = filled(replace(make_job("a"), run_at=DELAYED))
    noted: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: store.make_due("a", noted=noted.append))
        await wait_all_tasks_blocked()
        assert (noted, in_file(journal).run_at) == (["a"], DELAYED)
        journal.commit()

    assert in_file(journal).run_at == NOON


async def test_full_disk_takes_the_time_back_from_a_crash_alone() -> None:
    store, journal = filled(replace(make_job("a"), run_at=DELAYED))
    errors: list[StoreWriteError] = []

    async def make_due() -> None:
        try:
            await store.make_due("a", noted=lambda _: None)
        except StoreWriteError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make_due)
        await wait_all_tasks_blocked()
        store.claim("a")
        journal.refuse()

    assert errors[0].kept == "the job is due, but a crash can take that back"
    assert in_file(journal).run_at == DELAYED
    journal.commit()  # of the claim, and of the job as it is
    assert in_file(journal).status is JobStatus.PROCESSING
    store.postpone("a", Later(seconds=5))
    journal.commit()
    assert in_file(journal).run_at == NOON + timedelta(seconds=5)


async def test_slow_disk_leaves_it_unknown(autojump_clock: MockClock) -> None:
    store, journal = filled(replace(make_job("a"), run_at=DELAYED))

    with pytest.raises(StoreTimeoutError):
        await store.make_due("a", noted=lambda _: None)
    journal.commit()

    assert in_file(journal).run_at == NOON


async def test_job_that_is_not_in_memory_is_refused() -> None:
    store, journal = filled(replace(make_job("a"), run_at=DELAYED))
    store.claim("a")
    store.complete("a", SUCCEEDED)
    with pytest.raises(JobNotFoundError):
        await store.make_due("b", noted=print)
    async with trio.open_nursery() as nursery:

        async def refused() -> None:
            with pytest.raises(InvalidTransitionError, match="is completed"):
                await store.make_due("a", noted=print)

        nursery.start_soon(refused)
        await wait_all_tasks_blocked()
        journal.commit()
        await wait_all_tasks_blocked()
        journal.commit()
