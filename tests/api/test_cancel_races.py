"""Cancel against completion, time limit and the end of the pool: one outcome, decided once."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import Api
from tests.asgi import Answer
from tests.support import RunningPool, running_pool
from trio_jobs import Handler, JobStatus, Outcome

SUBMISSION = b'{"type":"work","payload":null}'


def api_over(pool: RunningPool) -> Api:
    """The API of a running pool."""
    return Api(parts=pool.parts)


async def steps(number: int) -> None:
    for _ in range(number):
        await trio.lowlevel.checkpoint()


async def outcome_of(api: Api, job_id: str) -> str:
    answer = await api.client.get(f"/jobs/{job_id}", prefer="wait=60")
    outcome: str = answer.json()["outcome"]
    return outcome


async def cancel(api: Api, job_id: str, **headers: str) -> Answer:
    return await api.client.post(f"/jobs/{job_id}/cancel", b"", **headers)


async def test_a_pending_job_that_is_cancelled_never_runs() -> None:
    ran: list[object] = []
    entered, leave = trio.Event(), trio.Event()

    async def work(payload: object) -> None:
        ran.append(payload)
        entered.set()
        await leave.wait()

    async with running_pool({"work": work}, workers=1) as pool:
        api = api_over(pool)
        ids = [
            (await api.client.post("/jobs", b'{"type":"work","payload":%d}' % n)).json()["id"]
            for n in range(3)
        ]
        await entered.wait()
        assert (await cancel(api, ids[1])).status == 202
        leave.set()
        assert [await outcome_of(api, job_id) for job_id in ids] == [
            "succeeded",
            "cancelled",
            "succeeded",
        ]

    assert ran == [0, 2]


async def test_a_workers_slot_is_free_only_when_the_cancelled_handler_has_unwound() -> None:
    running = 0
    most = 0
    unwind = trio.Event()

    async def work(payload: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            if payload == "slow to leave":
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await unwind.wait()
            running -= 1

    async with running_pool({"work": work}, workers=1) as pool:
        api = api_over(pool)
        body = b'{"type":"work","payload":"slow to leave"}'
        first = (await api.client.post("/jobs", body)).json()["id"]
        second = (await api.client.post("/jobs", SUBMISSION)).json()["id"]
        await wait_all_tasks_blocked()
        await cancel(api, first)
        await wait_all_tasks_blocked()

        assert pool.parts.store.find_nowait(first).status is JobStatus.PROCESSING
        assert pool.parts.store.find_nowait(second).status is JobStatus.PENDING
        unwind.set()
        assert await outcome_of(api, first) == "cancelled"
        assert await outcome_of(api, second) == "succeeded"

    assert most == 1


@pytest.mark.interleavings(40)
async def test_cancel_against_completion_decides_once(scheduler_seed: int) -> None:
    async def work(_: object) -> None:
        await steps(20)

    async with running_pool({"work": work}) as pool:
        api = api_over(pool)
        job_id = (await api.client.post("/jobs", SUBMISSION)).json()["id"]
        await steps(scheduler_seed)
        first = await cancel(api, job_id, prefer="wait=60")
        outcome = await outcome_of(api, job_id)
        again = await cancel(api, job_id)

    assert first.status == (200 if outcome == "cancelled" else 409)
    assert again.status == first.status
    assert outcome in ("cancelled", "succeeded")
    # Who is told "it will be cancelled" is told the truth.
    assert pool.parts.store.find_nowait(job_id).cancel_requested == (outcome == "cancelled")


@pytest.mark.interleavings(20)
async def test_cancel_against_the_time_limit_decides_once(
    scheduler_seed: int, autojump_clock: MockClock
) -> None:
    async def work(_: object) -> None:
        await trio.sleep(60)

    handler = Handler.of(work, timeout=5)
    async with running_pool({"work": handler}) as pool:
        api = api_over(pool)
        job_id = (await api.client.post("/jobs", SUBMISSION)).json()["id"]
        await trio.sleep([4, 5, 5, 6][scheduler_seed % 4])
        await steps(scheduler_seed // 4)
        answer = await cancel(api, job_id, prefer="wait=60")
        outcome = await outcome_of(api, job_id)

    assert answer.status == (200 if outcome == "cancelled" else 409)
    assert outcome in ("cancelled", "timed_out")
    assert trio.current_time() <= 6


@pytest.mark.interleavings(40)
async def test_cancel_against_the_end_of_the_pool_decides_once(scheduler_seed: int) -> None:
    async def work(_: object) -> None:
        await trio.sleep_forever()

    answers: list[Answer] = []
    async with running_pool({"work": work}) as pool:
        api = api_over(pool)
        job_id = (await api.client.post("/jobs", SUBMISSION)).json()["id"]
        await wait_all_tasks_blocked()
        pool.parts.admission.close()

        async def request_cancel(start: int) -> None:
            await steps(start)
            answers.append(await cancel(api, job_id))

        async with trio.open_nursery() as clients:
            clients.start_soon(request_cancel, 5)
            await steps(scheduler_seed)
            pool.scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()

    job = pool.parts.store.find_nowait(job_id)
    if job.status is JobStatus.COMPLETED:
        assert job.ending is not None
        assert job.ending.outcome is Outcome.CANCELLED
    else:
        assert job.status is JobStatus.PENDING  # released
    for answer in answers:
        assert answer.status == 202


@pytest.mark.interleavings(10)
async def test_many_cancels_at_the_same_instant_are_one(scheduler_seed: int) -> None:
    async def work(_: object) -> None:
        await steps(15)

    answers: list[Answer] = []
    async with running_pool({"work": work}) as pool:
        api = api_over(pool)
        job_id = (await api.client.post("/jobs", SUBMISSION)).json()["id"]

        async def request_cancel() -> None:
            answers.append(await cancel(api, job_id, prefer="wait=60"))

        await steps(scheduler_seed)
        async with trio.open_nursery() as clients:
            for _ in range(10):
                clients.start_soon(request_cancel)

    assert len({(answer.status, answer.body) for answer in answers}) == 1
    assert pool.parts.store.statistics().completed == 1
