"""`POST /jobs/{id}/rerun` and `POST /jobs/rerun`: jobs that did not succeed, once more."""

import pytest
import trio

from tests.api.support import SUBMISSION, Api, assert_problem
from tests.api.test_mounted import mount
from tests.asgi import Answer, Client
from tests.support import SUCCEEDED, HandlerRegistry, make_parts, start_workers, take
from trio_jobs import Ending, Handler, Job, JobError, Outcome
from trio_jobs.pool.job_spec import JobSpec

FAILED = Ending(outcome=Outcome.FAILED, error=JobError(type="ValueError", message="no"))
TIMED_OUT = Ending(outcome=Outcome.TIMED_OUT, error=JobError(type="TooSlow", message=""))
CANCELLED = Ending(outcome=Outcome.CANCELLED)
INTERRUPTED = Ending(outcome=Outcome.INTERRUPTED)

UNKNOWN = "01936d3c-0000-7000-8000-000000000000"


def complete(api: Api, job_id: str, ending: Ending = FAILED) -> Job:
    """The job ends, as if a worker had received it."""
    api.parts.receive.receive_nowait()
    api.parts.workers.claim(job_id)
    return api.parts.workers.complete(job_id, ending)


def submit(api: Api, type: str = "email", ending: Ending | None = FAILED) -> str:  # noqa: A002
    """Submit a job, and let it end."""
    job = api.parts.admission.submit(type, b'{"to":1}')
    if ending is not None:
        complete(api, job.id, ending)
    return job.id


async def rerun(api: Api, job_id: str, body: bytes = b"", **headers: str) -> Answer:
    return await api.client.post(f"/jobs/{job_id}/rerun", body, **headers)


def jobs_of(api: Api) -> list[Job]:
    return api.parts.store.page_nowait(limit=100)


@pytest.mark.parametrize("ending", [FAILED, TIMED_OUT, CANCELLED, INTERRUPTED])
async def test_new_job_has_type_and_payload_of_the_old_one_and_each_names_the_other(
    ending: Ending,
) -> None:
    api = Api()
    old_id = submit(api, ending=ending)
    before = api.parts.store.find_nowait(old_id)

    answer = await rerun(api, old_id)

    assert answer.status == 201
    new = answer.json()
    assert answer.headers["location"] == f"/jobs/{new['id']}"
    assert new == {
        "id": new["id"],
        "type": "email",
        "status": "pending",
        "created_at": new["created_at"],
        "rerun_of": old_id,
    }
    shown = (await api.client.get(answer.headers["location"])).json()
    assert shown == new | {"payload": {"to": 1}}
    old = (await api.client.get(f"/jobs/{old_id}")).json()
    assert old["rerun_as"] == new["id"]
    assert old["outcome"] == ending.outcome == before.outcome
    [first, second] = (await api.client.get("/jobs")).json()
    assert (first["rerun_as"], second["rerun_of"]) == (new["id"], old_id)
    assert take(api.parts).id == new["id"]


async def test_completed_rerun_keeps_its_mark_and_can_be_rerun_itself() -> None:
    api = Api()
    ids = [submit(api)]
    for _ in range(3):
        ids.append((await rerun(api, ids[-1])).json()["id"])
        complete(api, ids[-1])

    assert [job.rerun_of for job in jobs_of(api)] == [None, *ids[:-1]]
    assert [job.rerun_as for job in jobs_of(api)] == [*ids[1:], None]


async def test_what_cannot_be_rerun_is_refused_by_its_reason_and_nothing_is_kept() -> None:
    api = Api()
    done, twice = submit(api, ending=SUCCEEDED), submit(api)
    again = (await rerun(api, twice)).json()["id"]
    complete(api, again, SUCCEEDED)
    waits, runs = submit(api, ending=None), submit(api, ending=None)
    api.parts.store.claim(runs)
    jobs = jobs_of(api)

    for job_id, detail in (
        (done, f"job '{done}' has succeeded; it can not be re-run"),
        (twice, f"job '{twice}' was re-run already, as '{again}'"),
        (waits, f"job '{waits}' is pending; only a completed job can be re-run"),
        (runs, f"job '{runs}' is processing; only a completed job can be re-run"),
    ):
        assert assert_problem(await rerun(api, job_id), 409)["detail"] == detail
    assert_problem(await rerun(api, UNKNOWN), 404)
    assert_problem(await rerun(api, "x"), 404)
    assert_problem(await api.client.get(f"/jobs/{done}/rerun"), 405)
    assert jobs_of(api) == jobs


async def test_body_a_key_and_parameters_are_refused_and_nothing_is_kept() -> None:
    api = Api()
    job_id = submit(api)

    for body in (b"{}", b'{"payload":1}', b"x"):
        problem = assert_problem(await rerun(api, job_id, body), 400)
        assert problem["detail"].startswith("a re-run takes no body")
    problem = assert_problem(await rerun(api, job_id, idempotency_key="k"), 400)
    assert "Idempotency-Key" in problem["detail"]
    assert_problem(await rerun(api, job_id, content_encoding="gzip"), 415)
    assert_problem(await rerun(api, job_id, b" " * 10_001), 413)
    assert_problem(await api.client.post(f"/jobs/{job_id}/rerun?x=1"), 400)
    assert len(jobs_of(api)) == 1
    assert (await rerun(api, job_id, b" \n")).status == 201


async def test_full_buffer_refuses_it_as_any_job_and_it_can_be_tried_again() -> None:
    api = Api(parts=make_parts(buffer_size=1))
    job_id = submit(api)
    submit(api, ending=None)

    problem = assert_problem(await rerun(api, job_id), 429)

    assert problem["detail"].startswith("no room in the buffer; nothing was kept")
    assert api.parts.store.find_nowait(job_id).rerun_as is None
    take(api.parts)
    assert (await rerun(api, job_id)).status == 201


@pytest.mark.parametrize("all_workers_have_ended", [False, True])
async def test_closed_pool_refuses_it_and_the_old_job_is_as_it_was(
    all_workers_have_ended: bool,
) -> None:
    api = Api()
    job_id = submit(api)
    if all_workers_have_ended:
        api.parts.receive.close()
    else:
        api.parts.admission.close()

    assert_problem(await rerun(api, job_id), 503)
    assert_problem(await rerun(api, UNKNOWN), 503)

    [job] = jobs_of(api)
    assert job.rerun_as is None


async def test_of_simultaneous_requests_one_makes_the_job_and_the_others_hear_of_it() -> None:
    api = Api()
    job_id = submit(api)
    answers: list[Answer] = []

    async def ask() -> None:
        answers.append(await rerun(api, job_id))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)

    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409, 409]
    [new_id] = [answer.json()["id"] for answer in answers if answer.status == 201]
    assert [job.id for job in jobs_of(api)] == [job_id, new_id]
    for answer in answers:
        assert new_id in answer.body.decode()


async def test_client_can_wait_for_the_new_job(autojump_clock: trio.abc.Clock) -> None:
    api = Api()
    job_id = submit(api)

    async def process(_: Job) -> Ending:
        await trio.sleep(3)
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        start_workers(api.parts, nursery, process)
        answer = await rerun(api, job_id, prefer="wait=10")
        api.parts.admission.close()

    assert answer.status == 201
    assert answer.headers["preference-applied"] == "wait=10"
    job = answer.json()
    assert (job["outcome"], job["rerun_of"], job["payload"]) == ("succeeded", job_id, {"to": 1})
    assert answer.headers["location"] == f"/jobs/{job['id']}"


async def test_rerun_of_a_job_with_a_key_leaves_the_key_to_the_old_one() -> None:
    api = Api()
    job_id = (await api.client.post("/jobs", SUBMISSION, idempotency_key="k")).json()["id"]
    complete(api, job_id)

    new_id = (await rerun(api, job_id)).json()["id"]

    assert api.parts.store.find_nowait(new_id).key is None
    again = await api.client.post("/jobs", SUBMISSION, idempotency_key="k")
    assert again.json()["id"] == job_id
    assert again.headers["idempotent-replayed"] == "true"


async def test_type_without_a_handler_and_a_payload_that_it_refuses_are_named() -> None:
    async def take_text(payload: str) -> None: ...

    api = Api({"email": take_text})
    gone, number = submit(api, "gone"), submit(api, "email")
    text = api.parts.admission.submit("email", b'"x"').id
    complete(api, text)

    for job_id, detail in ((gone, "no handler for type 'gone'"), (number, "Expected `str`")):
        problem = assert_problem(await rerun(api, job_id), 409)
        assert problem["detail"].startswith(f"job '{job_id}' can not be re-run: ")
        assert detail in problem["detail"]
    assert (await rerun(api, text)).status == 201


async def test_limited_type_refuses_a_rerun_as_it_refuses_a_job() -> None:
    async def handle(_: object) -> None: ...

    handlers = HandlerRegistry({"slow": Handler.of(handle, max_running=1)})
    api = Api(parts=make_parts(handlers, max_waiting=0))
    job_id = submit(api, "slow")
    running = submit(api, "slow", ending=None)
    api.parts.workers.claim(running)

    problem = assert_problem(await rerun(api, job_id), 429)

    assert "of their type" in problem["detail"]
    api.parts.workers.complete(running, SUCCEEDED)
    assert (await rerun(api, job_id)).status == 201


async def test_location_begins_with_the_mount_and_upper_case_is_the_same_job() -> None:
    api = Api()
    mounted = Client(mount(api.app, at="/v1"))
    job_id = submit(api)

    answer = await mounted.post(f"/v1/jobs/{job_id.upper()}/rerun")

    assert answer.status == 201
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"


async def test_rerun_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    job_id = submit(api)

    with caplog.at_level("INFO"):
        new = (await rerun(api, job_id)).json()

    [record] = [each for each in caplog.records if each.message == "job_rerun"]
    assert record.__dict__["rerun_of"] == job_id
    assert record.__dict__["job_id"] == new["id"]
    assert record.__dict__["job_type"] == "email"


# Many together.


async def rerun_many(api: Api, body: bytes = b"{}", **headers: str) -> Answer:
    return await api.client.post("/jobs/rerun", body, **headers)


def reruns(api: Api) -> list[str | None]:
    return [job.rerun_of for job in jobs_of(api) if job.rerun_of]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", [0, 1, 4, 6]),
        (b' {"outcome":["failed"]}\n', [0, 4, 6]),
        (b'{"outcome":["timed_out","failed","failed"]}', [0, 1, 4, 6]),
        (b'{"outcome":["cancelled"]}', [2]),
        (b'{"type":["b"]}', [4]),
        (b'{"type":["b","a"],"outcome":["failed","cancelled"]}', [0, 2, 4, 6]),
        (b'{"type":["B","\\u00e9"]}', []),
        (b'{"limit":2}', [0, 1]),
        (b'{"limit":2.0}', [0, 1]),
        (b'{"limit":2,"outcome":["failed"],"type":["a"]}', [0, 6]),
        (b'{"limit":99999999999999999999999}', [0, 1, 4, 6]),
    ],
)
async def test_filters_select_those_that_did_not_succeed_oldest_first(
    body: bytes, expected: list[int]
) -> None:
    api = Api()
    ids = [
        submit(api, "a"),
        submit(api, "a", TIMED_OUT),
        submit(api, "a", CANCELLED),
        submit(api, "a", SUCCEEDED),
        submit(api, "b"),
        submit(api, "a"),
        submit(api, "a"),
    ]
    api.parts.store.delete_nowait(ids[5])

    answer = await rerun_many(api, body)

    assert (answer.status, answer.json()) == (201, {"accepted": len(expected)})
    assert reruns(api) == [ids[n] for n in expected]
    assert api.parts.pool.schedule.count == len(expected)
    assert api.parts.admission.buffered == 0
    for job in jobs_of(api)[6:]:
        assert (job.status, job.waiting, job.payload) == ("pending", "delayed", b'{"to":1}')
        assert job.run_at == job.created_at


async def test_each_job_is_rerun_once_and_its_rerun_when_that_has_failed() -> None:
    api = Api()
    ids = [submit(api) for _ in range(3)]
    await rerun(api, ids[1])

    assert (await rerun_many(api)).json() == {"accepted": 2}
    assert (await rerun_many(api)).json() == {"accepted": 0}
    complete(api, jobs_of(api)[3].id)
    assert (await rerun_many(api)).json() == {"accepted": 1}

    assert reruns(api) == [ids[1], ids[0], ids[2], jobs_of(api)[3].id]


BAD_FILTERS = {
    b"": "the body is empty; JSON was expected",
    b"[]": "$: expected object, got array",
    b"null": "$: expected object, got null",
    b"{} {}": "the body is not valid JSON",
    b'{"outcome":[]}': "$.outcome must be a list of one or more non-empty texts, got []",
    b'{"outcome":["succeeded"]}': "$.outcome must be some of failed, timed_out, interrupted",
    b'{"outcome":["failed","Failed"]}': "$.outcome must be some of failed, timed_out, interrupted",
    b'{"outcome":"failed"}': "$.outcome: expected array, got str",
    b'{"outcome":null}': "$.outcome: expected array, got null",
    b'{"outcome":["\xff"]}': "the body is not valid JSON",
    b'{"type":[]}': "$.type must be a list of one or more non-empty texts, got []",
    b'{"type":["a",""]}': "$.type must be a list of one or more non-empty texts, got ['a', '']",
    b'{"type":[1]}': "$.type[0]: expected str, got int",
    b'{"limit":0}': "$.limit must be an integer of at least 1, got 0",
    b'{"limit":-1}': "$.limit must be an integer of at least 1, got -1",
    b'{"limit":true}': "$.limit: expected int | float, got bool",
    b'{"limit":1.5}': "$.limit must be an integer of at least 1, got 1.5",
    b'{"limit":"1"}': "$.limit: expected int | float, got str",
    b'{"limit":1%s}' % (b"0" * 5000): "$.limit: integer value out of range",
    b'{"limit":' + b"[" * 5000: "$.limit: expected int | float, got array",
    b'{"limit":1,"limit":2}': "$: object contains a field more than once",
    b'{"type":["a"],"limit":1,"type":["b"]}': "$: object contains a field more than once",
    b'{"types":["a"]}': "$: object contains unknown field types",
    b'{"status":"completed"}': "$: object contains unknown field status",
}


@pytest.mark.parametrize(("body", "detail"), BAD_FILTERS.items(), ids=range(len(BAD_FILTERS)))
async def test_what_is_no_filter_is_refused_by_name_and_nothing_is_kept(
    body: bytes, detail: str
) -> None:
    api = Api()
    submit(api)

    problem = assert_problem(await rerun_many(api, body), 400)

    assert problem["detail"].startswith(detail)
    assert len(jobs_of(api)) == 1


async def test_key_an_encoding_a_long_body_and_parameters_are_refused_for_many_too() -> None:
    api = Api()
    submit(api)

    assert_problem(await rerun_many(api, idempotency_key="k"), 400)
    assert_problem(await rerun_many(api, content_encoding="gzip"), 415)
    assert_problem(await rerun_many(api, b"{}" + b" " * 10_000), 413)
    assert_problem(await api.client.post("/jobs/rerun?limit=1", b"{}"), 400)
    assert_problem(await api.client.get("/jobs/rerun"), 405)
    assert len(jobs_of(api)) == 1


async def test_all_or_none_within_what_may_wait() -> None:
    api = Api(parts=make_parts(max_waiting=3))
    ids = [submit(api) for _ in range(4)]

    problem = assert_problem(await rerun_many(api), 429)

    assert problem["detail"].startswith(
        "4 jobs to re-run, and 3 more may wait (a limit takes the oldest); nothing was kept"
    )
    assert len(jobs_of(api)) == 4
    assert (await rerun_many(api, b'{"limit":3}')).json() == {"accepted": 3}
    assert reruns(api) == ids[:3]
    assert_problem(await rerun_many(api), 429)


@pytest.mark.parametrize("all_workers_have_ended", [False, True])
async def test_closed_pool_refuses_many(all_workers_have_ended: bool) -> None:
    api = Api()
    submit(api)
    if all_workers_have_ended:
        api.parts.receive.close()
    else:
        api.parts.admission.close()

    assert_problem(await rerun_many(api), 503)

    [job] = jobs_of(api)
    assert job.rerun_as is None
    assert api.parts.pool.schedule.count == 0


async def test_one_job_that_no_handler_takes_refuses_all_and_is_named() -> None:
    async def take_text(payload: str) -> None: ...

    api = Api({"email": take_text, "any": take_anything})
    submit(api, "any")
    bad = submit(api, "email")

    problem = assert_problem(await rerun_many(api), 409)

    assert problem["detail"].startswith(f"job '{bad}' can not be re-run: Expected `str`")
    assert len(jobs_of(api)) == 2
    assert (await rerun_many(api, b'{"limit":1}')).json() == {"accepted": 1}


async def take_anything(_: object) -> None:
    """A handler for any payload."""


async def test_many_are_logged_as_one_line(caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    with caplog.at_level("INFO"):
        await rerun_many(api)
        submit(api)
        submit(api)
        await rerun_many(api)

    [record] = [each for each in caplog.records if each.message == "jobs_rerun"]
    assert record.__dict__["count"] == 2


@pytest.mark.proof
async def test_two_thousand_failures_are_rerun_into_a_buffer_of_a_hundred(
    autojump_clock: trio.abc.Clock,
) -> None:
    api = Api(parts=make_parts(workers=1, buffer_size=100))
    mended = False
    order: list[str | None] = []

    async def process(job: Job) -> Ending:
        order.append(job.rerun_of)
        await trio.sleep(0.1)
        return SUCCEEDED if mended else FAILED

    async with trio.open_nursery() as nursery:
        start_workers(api.parts, nursery, process)
        ids: list[str] = []
        while len(ids) < 2000:
            [job] = await api.parts.admission.admit_up_to([JobSpec("email", b"1")])
            ids.append(job.id)
        await trio.sleep(100)
        mended = True
        order.clear()

        assert (await rerun_many(api)).json() == {"accepted": 2000}
        await trio.sleep(1)
        beside = (await api.client.post("/jobs", SUBMISSION, prefer="wait=60")).json()
        assert beside["outcome"] == "succeeded"
        await trio.sleep(300)

        api.parts.admission.close()
    assert [each for each in order if each] == ids
    assert api.parts.pool.schedule.count == 0
