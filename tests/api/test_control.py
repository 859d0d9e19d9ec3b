"""`POST` of `/pool/workers`, `/pool/intake`, `/pool/pause` and `/pool/resume`."""

import logging

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api, assert_problem
from tests.api.test_openapi import document, validator
from tests.api.test_over_a_file import DurableApi
from tests.asgi import Answer
from tests.durable import TIMEOUT, make_durable_parts
from tests.support import At, make_parts, running_pool, start_workers, take
from trio_jobs import Ending, Handler, Job, Outcome


async def set_workers(api: Api, body: object) -> Answer:
    return await api.client.post("/pool/workers", msgspec.json.encode(body))


async def test_number_of_workers_changes_and_the_answer_says_for_how_long() -> None:
    go_on = trio.Event()

    async def work(_payload: object) -> None:
        await go_on.wait()

    async with running_pool({"work": work}, workers=2) as pool:
        api = Api(parts=pool.parts)
        for _ in range(10):
            pool.submit("work")

        more = await set_workers(api, {"workers": 5})
        await wait_all_tasks_blocked()
        fewer = await set_workers(api, {"workers": 2})
        ready = await api.client.get("/health/ready")
        go_on.set()
        await wait_all_tasks_blocked()
        later = await api.client.get("/health/ready")

    assert (more.status, more.json()) == (200, {"workers": 5, "leaving": 0, "until": "restart"})
    assert (fewer.status, fewer.json()) == (200, {"workers": 2, "leaving": 3, "until": "restart"})
    assert [ready.json()[name] for name in ("workers", "leaving", "busy")] == [2, 3, 5]
    assert [later.json()[name] for name in ("workers", "leaving", "busy")] == [2, 0, 0]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/pool/workers", {"workers": 3}),
        ("/pool/intake", {"open": False}),
        ("/pool/intake", {"open": True}),
        ("/pool/pause", {"type": ["work"]}),
        ("/pool/resume", {"all": True}),
    ],
)
async def test_streams_of_events_show_a_change_at_once(path: str, body: object) -> None:
    async with running_pool({"work": lambda _: None}, workers=2) as pool:
        observation = pool.parts.pool.observation
        assert observation is not None
        changed = observation.ended.next_change()

        answer = await post(Api(parts=pool.parts), path, body)

        assert answer.status == 200
        assert changed.is_set()


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"workers": 0}, "$.workers must be an integer from 1 to 100000, got 0"),
        ({"workers": 100_001}, "$.workers must be an integer from 1 to 100000, got 100001"),
        ({"workers": 1.5}, "$.workers must be an integer from 1 to 100000, got 1.5"),
        ({"workers": True}, "$.workers must be an integer from 1 to 100000, got True"),
        ({"workers": "4"}, "$.workers must be an integer from 1 to 100000, got '4'"),
        ({}, "$: object missing required field workers"),
        ({"workers": 2, "worker": 1}, "$: object contains unknown field worker"),
        ([2], "$: expected object, got array"),
    ],
)
async def test_number_out_of_range_is_refused_and_changes_nothing(
    body: object, detail: str
) -> None:
    async with running_pool({}, workers=2) as pool:
        answer = await set_workers(Api(parts=pool.parts), body)

        assert assert_problem(answer, 400)["detail"] == detail
        assert pool.workers == 2


async def test_repeated_key_is_refused() -> None:
    async with running_pool({}, workers=2) as pool:
        body = b'{"workers":3,"workers":4}'
        answer = await Api(parts=pool.parts).client.post("/pool/workers", body)

        assert "more than once" in assert_problem(answer, 400)["detail"]


async def test_whole_number_may_have_a_point() -> None:
    async with running_pool({}, workers=2) as pool:
        answer = await set_workers(Api(parts=pool.parts), {"workers": 3.0})

        assert answer.json()["workers"] == pool.workers == 3


async def test_stopping_server_keeps_its_number_of_workers() -> None:
    async with running_pool({}, workers=2) as pool:
        api = Api(parts=pool.parts)
        pool.parts.admission.close()

        answer = await set_workers(api, {"workers": 3})

    detail = "shutting down: the number of workers stays as it is"
    assert assert_problem(answer, 409)["detail"] == detail


async def test_document_has_the_range_of_the_setting() -> None:
    described = await document(Api())

    schema = described["paths"]["/pool/workers"]["post"]["requestBody"]["content"]
    number = schema["application/json"]["schema"]["properties"]["workers"]
    assert number == {"type": "integer", "minimum": 1, "maximum": 100_000}


# Intake. ---------------------------------------------------------------------------------------

LINE = SUBMISSION + b"\n"
SUBMISSIONS = [
    ("/jobs", SUBMISSION),
    ("/jobs", b'{"type":"email","payload":1,"delay":60}'),
    ("/jobs/batch", b"[%b,%b]" % (SUBMISSION, SUBMISSION)),
    ("/jobs/stream", LINE * 2),
]


async def post(api: Api | DurableApi, path: str, body: object) -> Answer:
    return await api.client.post(path, msgspec.json.encode(body))


@pytest.mark.parametrize(("path", "body"), SUBMISSIONS)
async def test_paused_intake_refuses_each_submission_and_keeps_nothing(
    path: str, body: bytes
) -> None:
    api = Api()
    paused = await post(api, "/pool/intake", {"open": False})

    refused = await api.client.post(path, body)
    kept = len(api.parts.store)
    opened = await post(api, "/pool/intake", {"open": True})
    taken = await api.client.post(path, body)

    assert (paused.status, paused.json()) == (200, {"intake": "paused", "until": "restart"})
    problem = assert_problem(refused, 503)
    assert (problem["reason"], problem["retry_after"]) == ("paused", 30)
    assert refused.headers["retry-after"] == "30"
    kept_text = "0 jobs are in" if path == "/jobs/stream" else "nothing was kept"
    assert problem["detail"] == f"the intake is paused; {kept_text}; try again in 30 s"
    assert (kept, opened.json()["intake"], taken.status) == (0, "open", 201)


async def test_paused_intake_refuses_reruns_and_reads_go_on() -> None:
    api = Api()
    api.parts.admission.submit("email", b"1")
    job = take(api.parts)
    failed = api.parts.admission.submit("email", b"2")
    api.parts.receive.receive_nowait()
    api.parts.workers.claim(failed.id)
    api.parts.workers.complete(failed.id, Ending(outcome=Outcome.FAILED))
    await post(api, "/pool/intake", {"open": False})

    one = await api.client.post(f"/jobs/{failed.id}/rerun")
    many = await post(api, "/jobs/rerun", {})
    none = await post(api, "/jobs/rerun", {"type": ["other"]})

    assert assert_problem(one, 503)["reason"] == "paused"
    assert assert_problem(many, 503)["reason"] == "paused"
    assert none.json() == {"accepted": 0}
    assert (await api.client.get(f"/jobs/{job.id}")).status == 200
    ready = await api.client.get("/health/ready")
    assert (ready.status, ready.json()["intake"]) == (200, "paused")
    assert len(api.parts.store) == 2


async def test_known_key_gets_its_answer_from_a_paused_intake() -> None:
    api = Api()
    keyed = b'{"type":"email","payload":1,"key":"k"}'
    first = await api.client.post("/jobs", SUBMISSION, idempotency_key="one")
    await api.client.post("/jobs/batch", b"[%b]" % keyed)
    await post(api, "/pool/intake", {"open": False})

    again = await api.client.post("/jobs", SUBMISSION, idempotency_key="one")
    new = await api.client.post("/jobs", SUBMISSION, idempotency_key="two")
    batch = await api.client.post("/jobs/batch", b"[%b]" % keyed)
    mixed = await api.client.post("/jobs/batch", b"[%b,%b]" % (keyed, SUBMISSION))
    stream = await api.client.post("/jobs/stream", keyed + b"\n" + LINE)

    assert (again.status, again.json()["id"]) == (201, first.json()["id"])
    assert assert_problem(new, 503)["reason"] == "paused"
    assert batch.status == 201
    assert assert_problem(mixed, 503)["reason"] == "paused"
    problem = assert_problem(stream, 503)
    assert (problem["reason"], problem["accepted"]) == ("paused", 1)
    assert len(api.parts.store) == 2


async def test_jobs_that_are_in_go_on_and_so_do_retries(autojump_clock: MockClock) -> None:
    assert autojump_clock
    async with running_pool({"work": succeed_later}, workers=1) as pool:
        api = Api(parts=pool.parts)
        jobs = [pool.submit("work") for _ in range(3)]
        later = pool.parts.admission.submit("work", b"null", 50.0)
        await post(api, "/pool/intake", {"open": False})
        await trio.sleep(100)

        assert {pool.outcome(job) for job in [*jobs, later]} == {Outcome.SUCCEEDED}


async def succeed_later(_payload: object) -> None:
    await trio.sleep(1)


async def test_stream_that_waits_for_room_ends_when_the_intake_is_paused() -> None:
    api = Api(parts=make_parts(buffer_size=3))
    async with trio.open_nursery() as nursery:
        start_workers(api.parts, nursery, number=1)
        async with api.client.open("POST", "/jobs/stream") as exchange:
            await exchange.send(LINE * 10)
            await wait_all_tasks_blocked()
            free = api.parts.capacity.free
            await post(api, "/pool/intake", {"open": False})
            answer = await exchange.answer()

        problem = assert_problem(answer, 503)
        assert (problem["reason"], problem["accepted"]) == ("paused", len(api.parts.store))
        assert problem["accepted"] < 10
        assert (free, api.parts.capacity.free) == (free, free)
        nursery.cancel_scope.cancel()


async def test_accepted_is_true_whenever_the_pause_comes() -> None:
    async def succeed(_job: Job) -> Ending:
        await trio.lowlevel.checkpoint()
        return Ending(outcome=Outcome.SUCCEEDED, result=b"null")

    step, steps = 0, 1
    while step < steps:
        step += 1
        api = Api(parts=make_parts(buffer_size=3))
        intake = api.parts.admission.intake
        in_by_then: list[int] = []

        def pause(api: Api = api, in_by_then: list[int] = in_by_then) -> None:
            api.parts.admission.intake.pause()
            in_by_then.append(len(api.parts.store))

        async with trio.open_nursery() as nursery:
            start_workers(api.parts, nursery, succeed, number=1)
            with At(step, pause) as at:
                answer = await api.client.post("/jobs/stream", [LINE * 10, LINE * 9])
            api.parts.admission.close()

        steps = at.steps
        accepted = answer.json()["accepted"]
        assert accepted == len(api.parts.store), f"step {step}"
        if not intake.is_open:
            assert accepted == in_by_then[0], f"step {step}"  # none came in after the pause
        assert api.parts.store.statistics().completed == accepted, f"step {step}"
        assert (answer.status, accepted) == (201, 19) or answer.status == 503, f"step {step}"
    assert step > 50


# Types. ----------------------------------------------------------------------------------------


async def test_types_are_paused_and_resumed() -> None:
    async with running_pool({"a": succeed_later, "b": succeed_later}) as pool:
        api = Api(parts=pool.parts)
        answers = [
            await post(api, "/pool/pause", {"type": ["b"]}),
            await post(api, "/pool/pause", {"type": ["b", "a"]}),
            await post(api, "/pool/resume", {"type": ["b"]}),
            await post(api, "/pool/pause", {"all": True}),
            await post(api, "/pool/resume", {"all": True}),
        ]
        pool.scope.cancel()

    assert {answer.status for answer in answers} == {200}
    found = [answer.json()["paused"] for answer in answers]
    assert found == [["b"], ["a", "b"], ["a"], ["a", "b"], []]
    assert {answer.json()["until"] for answer in answers} == {"restart"}


async def test_held_jobs_are_counted() -> None:
    async with running_pool({"a": succeed_later}) as pool:
        api = Api(parts=pool.parts)
        await post(api, "/pool/pause", {"type": ["a"]})
        for _ in range(3):
            await api.client.post("/jobs", b'{"type":"a"}')
        await wait_all_tasks_blocked()
        state = (await api.client.get("/pool")).json()
        described = await document(api)
        pool.scope.cancel()

    assert (state["paused"], state["held"], state["waiting"], state["pending"]) == (["a"], 3, 3, 3)
    validator(described, "PoolState").validate(state)


@pytest.mark.parametrize("path", ["/pool/pause", "/pool/resume"])
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"type": ["c"]}, "$.type: must be types with a handler ('a', 'b'), got 'c'"),
        ({"type": ["a", "c"]}, "$.type: must be types with a handler ('a', 'b'), got 'c'"),
        ({"type": [""]}, "$.type: must be types with a handler ('a', 'b'), got ''"),
        ({"type": []}, '$: must be {"type": ["...", ...]} or {"all": true}'),
        ({}, '$: must be {"type": ["...", ...]} or {"all": true}'),
        ({"all": False}, '$: must be {"type": ["...", ...]} or {"all": true}'),
        ({"all": True, "type": ["a"]}, '$: must be {"type": ["...", ...]} or {"all": true}'),
        ({"all": 1}, "$.all: expected bool, got int"),
        ({"type": "a"}, "$.type: expected array, got str"),
        ({"typ": ["a"]}, "$: object contains unknown field typ"),
    ],
)
async def test_types_that_cannot_be_paused_are_refused(
    path: str, body: object, detail: str
) -> None:
    async with running_pool({"a": succeed_later, "b": succeed_later}) as pool:
        api = Api(parts=pool.parts)
        answer = await post(api, path, body)
        described = (await api.client.get("/openapi.json")).json()

        assert assert_problem(answer, 400)["detail"] == detail
        assert pool.paused.types == []
        # The description does not know the handlers.
        names_a_type = detail.endswith("got 'c'")
        assert validator(described, "SomeTypes").is_valid(body) == names_a_type


@pytest.mark.parametrize(
    ("path", "body", "what"),
    [
        ("/pool/intake", {"open": False}, "the intake"),
        ("/pool/intake", {"open": True}, "the intake"),
        ("/pool/pause", {"all": True}, "a type"),
        ("/pool/resume", {"all": True}, "a type"),
    ],
)
async def test_stopping_server_changes_nothing(path: str, body: object, what: str) -> None:
    api = Api()
    api.parts.admission.close()

    answer = await post(api, path, body)

    assert assert_problem(answer, 409)["detail"] == f"shutting down: {what} stays as it is"


async def test_acts_of_a_person_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running_pool({"a": succeed_later, "b": succeed_later}, workers=2) as pool:
        api = Api(parts=pool.parts)
        await post(api, "/pool/workers", {"workers": 3})
        await post(api, "/pool/workers", {"workers": 0})
        await post(api, "/pool/intake", {"open": False})
        await post(api, "/pool/intake", {"open": True})
        await post(api, "/pool/pause", {"all": True})
        await post(api, "/pool/resume", {"type": ["a"]})
        pool.scope.cancel()

    lines = [record for record in caplog.records if record.msg == "operator_action"]
    assert [(vars(line)["action"], vars(line).get("type")) for line in lines] == [
        ("set_workers", None),
        ("pause_intake", None),
        ("resume_intake", None),
        ("pause_types", "a,b"),
        ("resume_types", "a"),
    ]
    assert (vars(lines[0])["workers"], vars(lines[0])["before"]) == (3, 2)


# With a file. ----------------------------------------------------------------------------------


async def test_pause_over_a_file_is_answered_when_it_is_written() -> None:
    api = DurableApi(make_durable_parts({"a": Handler.of(succeed_later)}))
    answers: list[Answer] = []

    async def pause() -> None:
        answers.append(await post(api, "/pool/pause", {"type": ["a"]}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pause)
        await wait_all_tasks_blocked()
        assert (answers, api.parts.journal.marks) == ([], {})
        assert api.parts.pool.paused.types == ["a"]  # it has taken effect
        api.parts.journal.commit()

    assert answers[0].json() == {"paused": ["a"], "until": "resume"}
    assert api.parts.journal.marks == {"paused": '["a"]'}


async def test_disk_that_does_not_answer_leaves_it_unknown_whether_the_pause_stays(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert autojump_clock
    api = DurableApi(make_durable_parts({"a": Handler.of(succeed_later)}))
    began = trio.current_time()

    answer = await post(api, "/pool/pause", {"type": ["a"]})

    assert trio.current_time() == began + TIMEOUT
    assert_problem(answer, 504)
    assert api.parts.pool.paused.types == ["a"]
    [line] = [record for record in caplog.records if record.msg == "operator_action"]
    assert vars(line)["unknown"] is True
    api.parts.journal.commit()
    assert api.parts.journal.marks == {"paused": '["a"]'}


async def test_full_disk_pauses_all_the_same_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    api = DurableApi(make_durable_parts({"a": Handler.of(succeed_later)}))
    answers: list[Answer] = []

    async def pause() -> None:
        answers.append(await post(api, "/pool/pause", {"type": ["a"]}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pause)
        await wait_all_tasks_blocked()
        api.parts.journal.refuse()

    problem = assert_problem(answers[0], 507)
    assert "the change holds, but a restart can take it back" in problem["detail"]
    assert api.parts.pool.paused.types == ["a"]
    [line] = [record for record in caplog.records if record.msg == "operator_action"]
    assert (vars(line)["action"], vars(line)["type"]) == ("pause_types", "a")
    api.parts.journal.commit()
    assert api.parts.journal.marks == {"paused": '["a"]'}


@pytest.mark.parametrize(("path", "body"), SUBMISSIONS)
async def test_paused_intake_over_a_file_refuses_each_submission(path: str, body: bytes) -> None:
    api = DurableApi()
    await post(api, "/pool/intake", {"open": False})

    refused = await api.client.post(path, body)

    assert assert_problem(refused, 503)["reason"] == "paused"
    assert (api.parts.journal.entries, api.parts.pool.capacity.free) == ([], 100)
