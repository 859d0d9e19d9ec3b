"""`Prefer: wait=N`: the answer is held until the job has completed, and no longer than asked."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api, assert_problem
from tests.asgi import Answer
from tests.support import SUCCEEDED, make_job, make_parts
from trio_jobs.api.prefer_wait import preferred_wait
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.testing.steps import At

ID = "01936d3c-0000-7000-8000-000000000001"


def begin(api: Api) -> None:
    api.parts.store.add(make_job(ID, payload=b'"x"'))
    api.parts.workers.claim(ID)


async def get(api: Api, got: list[Answer], prefer: str = "wait=10") -> None:
    got.append(await api.client.get(f"/jobs/{ID}", prefer=prefer))


async def test_a_get_that_waits_is_answered_when_the_job_completes(
    autojump_clock: MockClock,
) -> None:
    api = Api()
    begin(api)
    got: list[Answer] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, api, got)
        await trio.sleep(4)
        assert got == []
        api.parts.workers.complete(ID, SUCCEEDED)
        await wait_all_tasks_blocked()

        [answer] = got
    assert answer.status == 200
    assert answer.json()["status"] == "completed"
    assert answer.json()["result"] is None
    assert answer.headers["preference-applied"] == "wait=10"
    assert "retry-after" not in answer.headers
    assert trio.current_time() == 4


async def test_whatever_step_the_job_completes_at_the_waiting_get_is_answered_then(
    autojump_clock: MockClock,
) -> None:
    step, steps = 0, 1
    while step < steps:
        step += 1
        api = Api()
        begin(api)
        got: list[Answer] = []
        completed_at: list[float] = []

        def complete(api: Api = api, completed_at: list[float] = completed_at) -> None:
            api.parts.workers.complete(ID, SUCCEEDED)
            completed_at.append(trio.current_time())

        with At(step, complete) as at:
            await get(api, got)

        assert [trio.current_time()] == completed_at, f"step {step}"
        steps = at.steps
    assert step > 5


async def test_a_get_whose_time_is_up_is_answered_with_the_job_as_it_is(
    autojump_clock: MockClock,
) -> None:
    api = Api()
    begin(api)
    got: list[Answer] = []

    await get(api, got)

    assert trio.current_time() == 10
    assert got[0].json()["status"] == "processing"
    assert got[0].headers["preference-applied"] == "wait=10"
    assert got[0].headers["retry-after"] == "1"
    assert api.parts.waiters.count == 0


@pytest.mark.parametrize(("asked", "held"), [("60", 60), ("61", 60), ("9" * 3000, 60), ("0", 0)])
async def test_a_wait_is_capped_and_the_answer_says_so(
    asked: str, held: int, autojump_clock: MockClock
) -> None:
    api = Api()
    begin(api)
    got: list[Answer] = []

    await get(api, got, f"wait={asked}")

    assert trio.current_time() == held
    assert got[0].headers["preference-applied"] == f"wait={held}"


async def test_a_job_that_has_completed_or_is_unknown_is_answered_at_once() -> None:
    api = Api()
    got: list[Answer] = []
    await get(api, got)
    assert_problem(got.pop(), 404)
    begin(api)
    api.parts.workers.complete(ID, SUCCEEDED)

    await get(api, got)

    assert got[0].json()["status"] == "completed"
    assert got[0].headers["preference-applied"] == "wait=10"


async def test_a_waiter_gets_the_job_also_when_it_is_dropped_at_once() -> None:
    api = Api(parts=make_parts(keep_completed=0))
    begin(api)
    got: list[Answer] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, api, got)
        await wait_all_tasks_blocked()
        api.parts.workers.complete(ID, SUCCEEDED)
        assert len(api.parts.store) == 0

    assert got[0].json()["payload"] == "x"
    assert got[0].json()["status"] == "completed"


@pytest.mark.parametrize("completes", [True, False])
async def test_a_wait_ends_with_its_job_or_with_the_pool_and_not_with_the_admission(
    *, completes: bool
) -> None:
    api = Api()
    begin(api)
    got: list[Answer] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, api, got)
        await wait_all_tasks_blocked()
        api.parts.admission.close()
        await wait_all_tasks_blocked()
        assert got == []
        if completes:
            api.parts.workers.complete(ID, SUCCEEDED)
        else:
            api.parts.workers.release(ID)
            api.parts.waiters.end()

    assert got[0].json()["status"] == ("completed" if completes else "pending")
    await get(api, got)
    assert len(got) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_hangs_up_leaves_nothing_behind(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api()
    begin(api)
    target = f"/jobs/{ID}" if method == "GET" else "/jobs"
    for _ in range(3):
        async with api.client.open(method, target, headers={"prefer": "wait=50"}) as exchange:
            await exchange.send(SUBMISSION, last=True)
            await wait_all_tasks_blocked()
            assert api.parts.waiters.count == 1
            exchange.hang_up()

        assert api.parts.waiters.count == 0
        assert not api.parts.waiters.completions
    assert not caplog.records


async def test_a_submission_that_waits_is_answered_with_all_of_the_completed_job() -> None:
    api = Api()
    got: list[Answer] = []

    async def submit() -> None:
        got.append(await api.client.post("/jobs", SUBMISSION, prefer="wait=5"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit)
        await wait_all_tasks_blocked()
        job_id = api.parts.receive.receive_nowait()
        api.parts.workers.claim(job_id)
        api.parts.workers.complete(job_id, SUCCEEDED)

    [answer] = got
    assert answer.status == 201
    assert answer.headers["location"] == f"/jobs/{job_id}"
    assert answer.headers["preference-applied"] == "wait=5"
    assert answer.json() == (await api.client.get(f"/jobs/{job_id}")).json()
    assert answer.json()["status"] == "completed"


async def test_a_submission_whose_time_is_up_is_answered_with_all_of_the_job_as_it_is(
    autojump_clock: MockClock,
) -> None:
    api = Api()

    answer = await api.client.post("/jobs", SUBMISSION, prefer="wait=5")

    assert trio.current_time() == 5
    assert answer.status == 201
    assert answer.json()["status"] == "pending"
    assert answer.json()["payload"] == {"to": "user@example.com"}


async def test_with_too_many_waiters_the_preference_is_ignored_and_the_job_is_in() -> None:
    api = Api(parts=make_parts(max_waiters=1))
    begin(api)

    with api.parts.waiters.subscribe(ID):
        submitted = await api.client.post("/jobs", SUBMISSION, prefer="wait=5")
        got = await api.client.get(f"/jobs/{ID}", prefer="wait=5")

    assert submitted.status == 201
    assert len(submitted.json()) == 4
    assert got.json()["status"] == "processing"
    for answer in (submitted, got):
        assert "preference-applied" not in answer.headers
    assert len(api.parts.store) == 2


async def test_many_clients_can_wait_for_many_jobs(autojump_clock: MockClock) -> None:
    api = Api()
    jobs = [job.id for job in api.parts.admission.submit_all([JobSpec("email", b"1")] * 50)]
    done: list[str] = []

    async def wait_for(job_id: str) -> None:
        answer = await api.client.get(f"/jobs/{job_id}", prefer="wait=60")
        assert answer.json()["status"] == "completed"
        done.append(job_id)

    async with trio.open_nursery() as nursery:
        for job_id in jobs * 10:
            nursery.start_soon(wait_for, job_id)
        await wait_all_tasks_blocked()
        assert api.parts.waiters.count == 500
        for n, job_id in enumerate(jobs, start=1):
            api.parts.workers.claim(job_id)
            api.parts.workers.complete(job_id, SUCCEEDED)
            await wait_all_tasks_blocked()
            assert len(done) == 10 * n

    assert trio.current_time() == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["wait=5"], 5),
        (["wait=0"], 0),
        (["Wait = 5"], 5),
        (['wait="5"'], 5),
        (["wait=5; foo"], 5),
        (["wait=5;x=y, respond-async"], 5),
        (["respond-async, wait=5"], 5),
        (["respond-async", "wait=5"], 5),
        (["wait=5, wait=7"], 5),
        (["wait=5", "wait=7"], 5),
        (['return="a, wait=9", wait=5'], 5),
        (["handling=lenient; wait=9, wait=5"], 5),
        (["wait=007"], 7),
        (["wait"], None),
        (["wait="], None),
        (["wait=x"], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=\xb2"], None),
        (["wait=x, wait=5"], None),
        (["await=5"], None),
        (["waiting"], None),
        ([""], None),
        ([",,;,=,"], None),
        (['"'], None),
        (['wait="5'], 5),
        (["wait=" + "9" * 5000], 999_999_999),
    ],
)
def test_preferences_are_read_as_rfc_7240_says(headers: list[str], seconds: int | None) -> None:
    assert preferred_wait(headers) == seconds
