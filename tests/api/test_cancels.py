"""`POST /jobs/cancel`: many jobs at once, while they run, end and come in."""

import threading

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api, assert_problem
from tests.api.test_openapi import document, validator
from tests.api.test_over_a_file import DurableApi
from tests.asgi import Answer
from tests.durable import TIMEOUT
from tests.support import RunningPool, counting_turns, make_job, running_pool
from trio_jobs import Handler, Outcome
from trio_jobs.job import Job, Later


async def cancel(api: Api | DurableApi, filters: object) -> Answer:
    return await api.client.post("/jobs/cancel", msgspec.json.encode(filters))


def job_id(n: int) -> str:
    return f"01936d3c-0000-7000-8000-{n:012x}"


def outcomes(pool: RunningPool, jobs: list[Job]) -> list[Outcome | None]:
    return [pool.outcome(job) for job in jobs]


async def test_jobs_of_a_type_are_cancelled_and_no_others() -> None:
    entered = 0

    async def work(_payload: object) -> None:
        nonlocal entered
        entered += 1
        await trio.sleep_forever()

    async def other(_payload: object) -> None:
        await trio.lowlevel.checkpoint()

    async with running_pool({"work": work, "other": other}, workers=2) as pool:
        jobs = [pool.submit("work") for _ in range(5)]
        others = [pool.submit("other") for _ in range(3)]
        await wait_all_tasks_blocked()

        answer = await cancel(Api(parts=pool.parts), {"type": ["work"]})

        assert (answer.status, answer.json()) == (202, {"accepted": 5})
        await wait_all_tasks_blocked()
        assert outcomes(pool, jobs) == [Outcome.CANCELLED] * 5
        assert outcomes(pool, others) == [Outcome.SUCCEEDED] * 3
        again = await cancel(Api(parts=pool.parts), {"type": ["work"]})
        assert (again.status, again.json()) == (202, {"accepted": 0})
    assert entered == 2


async def test_pending_jobs_alone_are_cancelled_also_waiting_ones() -> None:
    go_on = trio.Event()

    async def work(_payload: object) -> None:
        await go_on.wait()

    async with running_pool({"work": work}, workers=1) as pool:
        api = Api(parts=pool.parts)
        running = pool.submit("work")
        await wait_all_tasks_blocked()
        pending = [pool.submit("work") for _ in range(2)]
        later = await api.client.post("/jobs", b'{"type":"work","delay":60}')

        answer = await cancel(api, {"status": ["pending"]})
        go_on.set()
        await wait_all_tasks_blocked()

        assert answer.json() == {"accepted": 3}
        assert outcomes(pool, [running, *pending]) == [Outcome.SUCCEEDED, *[Outcome.CANCELLED] * 2]
        waited = (await api.client.get(later.headers["location"])).json()
        assert waited["outcome"] == "cancelled"


async def test_running_jobs_alone_are_cancelled_and_a_thread_ends_when_it_returns() -> None:
    leave = threading.Event()

    def block(_payload: object) -> None:
        leave.wait()

    async with running_pool({"block": Handler.of(block)}, workers=1) as pool:
        first, second = pool.submit("block"), pool.submit("block")
        while pool.status(first) != "processing":
            await trio.lowlevel.checkpoint()

        answer = await cancel(Api(parts=pool.parts), {"status": ["processing"]})
        before = pool.outcome(first)
        leave.set()

    assert answer.json() == {"accepted": 1}
    assert before is None
    assert outcomes(pool, [first, second]) == [Outcome.CANCELLED, Outcome.SUCCEEDED]


async def test_closed_pool_still_cancels() -> None:
    async def work(_payload: object) -> None:
        await trio.sleep_forever()

    async with running_pool({"work": work}, workers=1) as pool:
        jobs = [pool.submit("work") for _ in range(3)]
        pool.parts.admission.close()
        await wait_all_tasks_blocked()
        assert (await cancel(Api(parts=pool.parts), {"type": ["work"]})).json() == {"accepted": 3}

    assert outcomes(pool, jobs) == [Outcome.CANCELLED] * 3


@pytest.mark.interleavings(20)
async def test_each_job_ends_once_while_many_come_run_and_are_cancelled() -> None:
    async def work(_payload: object) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()

    async with running_pool({"work": work, "other": work}, workers=3, buffer_size=1000) as pool:
        api = Api(parts=pool.parts)
        jobs = [pool.submit("work") for _ in range(500)]
        others = [pool.submit("other") for _ in range(20)]
        accepted = (await cancel(api, {"type": ["work"]})).json()["accepted"]

    ended = outcomes(pool, jobs)
    assert set(ended) <= {Outcome.SUCCEEDED, Outcome.CANCELLED}
    # A job that was asked for in its last step has ended well.
    assert 0 < ended.count(Outcome.CANCELLED) <= accepted <= 500
    assert outcomes(pool, others) == [Outcome.SUCCEEDED] * 20


async def test_other_tasks_run_meanwhile() -> None:
    api = Api()
    for n in range(5_000):
        api.parts.store.add(make_job(job_id(n)))
    api.parts.store.claim(job_id(0))
    api.parts.store.postpone(job_id(0), Later(seconds=60))

    async with counting_turns() as turns:
        assert (await cancel(api, {"type": ["test"]})).json() == {"accepted": 5_000}

    assert len(turns) >= 10
    assert all(job.cancel_requested for job in api.parts.store.page_nowait(limit=5_000))


@pytest.mark.parametrize(
    "filters",
    [
        {"type": ["a"]},
        {"status": ["pending", "processing"], "type": ["a", "b"]},
        {"status": ["pending", "pending"]},
        {},
        {"type": []},
        {"type": [""]},
        {"type": "a"},
        {"type": None},
        {"status": []},
        {"status": ["completed"]},
        {"status": [1]},
        {"limit": 5},
        [],
        None,
    ],
)
async def test_filters_are_taken_if_the_document_says_so(filters: object) -> None:
    api = Api()

    answer = await cancel(api, filters)

    described = await document(api)
    checked = validator(described, "CancelFilters")
    assert checked.is_valid(filters) == (answer.status == 202), answer
    if answer.status != 202:
        assert_problem(answer, 400)


@pytest.mark.parametrize("body", [b"", b"x", b'{"type":["a"],"type":["b"]}', b'{"type":["\xff"]}'])
async def test_a_bad_body_is_400(body: bytes) -> None:
    assert_problem(await Api().client.post("/jobs/cancel", body), 400)


async def test_over_a_file_the_answer_comes_when_the_requests_are_on_the_disk() -> None:
    api = DurableApi()

    async with trio.open_nursery() as nursery:
        submitted = api.post(nursery, "/jobs/batch", b"[%b,%b]" % (SUBMISSION, SUBMISSION))
        await wait_all_tasks_blocked()
        api.parts.journal.commit()
        await wait_all_tasks_blocked()
        answers = api.post(nursery, "/jobs/cancel", b'{"type":["email"]}')
        await wait_all_tasks_blocked()
        before = list(answers)
        api.parts.journal.commit()

    assert before == []
    assert (answers[0].status, answers[0].json()) == (202, {"accepted": 2})
    jobs = [api.parts.in_file(job["id"]) for job in submitted[0].json()]
    assert all(job is not None and job.cancel_requested for job in jobs)


async def test_over_a_disk_that_hangs_it_is_504_and_has_taken_effect(
    autojump_clock: MockClock,
) -> None:
    api = DurableApi()

    async with trio.open_nursery() as nursery:
        submitted = api.post(nursery, "/jobs", SUBMISSION)
        await wait_all_tasks_blocked()
        api.parts.journal.commit()
    started = autojump_clock.current_time()

    answer = await cancel(api, {"status": ["pending"]})

    assert_problem(answer, 504)
    assert autojump_clock.current_time() - started == TIMEOUT
    job = api.parts.pool.store.find_nowait(submitted[0].json()["id"])
    assert job.cancel_requested
