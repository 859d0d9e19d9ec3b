"""`POST /jobs`, and `GET /jobs/{id}` of what it made."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import MAX_BODY_BYTES, SUBMISSION, Api, accept, assert_problem
from tests.server.serving import post, served
from tests.support import NOON, SUCCEEDED, make_parts, start_workers
from trio_jobs import Ending, Job, JobError, Outcome


async def test_a_submitted_job_is_answered_with_exactly_four_fields() -> None:
    api = Api()

    answer = await api.client.post("/jobs", SUBMISSION)

    assert answer.status == 201
    assert answer.headers["content-type"] == "application/json"
    job = answer.json()
    assert job == {
        "id": job["id"],
        "type": "email",
        "status": "pending",
        "created_at": "2026-11-25T12:00:00.000000Z",
    }
    assert answer.headers["location"] == f"/jobs/{job['id']}"


async def test_a_submitted_job_is_in_the_channel_and_in_the_store_and_shown() -> None:
    api = Api()

    submitted = await api.client.post("/jobs", SUBMISSION)

    job_id = api.parts.receive.receive_nowait()
    assert job_id == submitted.json()["id"]
    answer = await api.client.get(submitted.headers["location"])
    assert answer.status == 200
    assert answer.json()["payload"] == {"to": "user@example.com"}
    assert answer.headers["retry-after"] == "1"
    assert "result" not in answer.json()


async def test_a_payload_that_is_left_out_is_null() -> None:
    api = Api()

    job = (await api.client.post("/jobs", b'{"type":"email"}')).json()

    assert (await api.client.get(f"/jobs/{job['id']}")).json()["payload"] is None


async def test_a_succeeded_job_shows_its_result_and_no_error() -> None:
    api = Api()
    job_id = (await api.client.post("/jobs", SUBMISSION)).json()["id"]
    api.parts.workers.claim(job_id)
    ending = Ending(outcome=Outcome.SUCCEEDED, result=b'{"n":1}')
    api.parts.workers.complete(job_id, ending, duration=1.23456789)

    answer = await api.client.get(f"/jobs/{job_id}")

    time = "2026-11-25T12:00:00.000000Z"
    assert answer.json() == {
        "id": job_id,
        "type": "email",
        "status": "completed",
        "created_at": time,
        "started_at": time,
        "completed_at": time,
        "duration": 1.234568,
        "outcome": "succeeded",
        "attempts": 1,
        "payload": {"to": "user@example.com"},
        "result": {"n": 1},
    }
    assert "retry-after" not in answer.headers


ERROR = JobError(type="ValueError", message="no such user")


@pytest.mark.parametrize(
    ("ending", "shown"),
    [
        (SUCCEEDED, {"outcome": "succeeded", "result": None}),
        (
            Ending(outcome=Outcome.FAILED, error=ERROR),
            {"outcome": "failed", "error": {"type": "ValueError", "message": "no such user"}},
        ),
    ],
)
async def test_a_completed_job_shows_its_result_or_its_error(
    ending: Ending, shown: dict[str, object]
) -> None:
    api = Api()
    job_id = (await api.client.post("/jobs", SUBMISSION)).json()["id"]
    api.parts.store.claim(job_id)
    api.parts.store.complete(job_id, ending)

    job = (await api.client.get(f"/jobs/{job_id}")).json()

    assert {name: job[name] for name in ("outcome", "result", "error") if name in job} == shown


async def test_an_unknown_job_is_404() -> None:
    for job_id in ("01936d3c-0000-7000-8000-000000000000", "x", "%00", "..", "a b"):
        assert_problem(await Api().client.get(f"/jobs/{job_id}"), 404)


async def test_a_full_buffer_refuses_the_job_and_shows_nothing_of_it() -> None:
    api = Api(parts=make_parts(buffer_size=1))
    await api.client.post("/jobs", SUBMISSION)

    answer = await api.client.post("/jobs", SUBMISSION)

    problem = assert_problem(answer, 429)
    assert problem["title"] == "Too Many Requests"
    assert int(answer.headers["retry-after"]) == problem["retry_after"] >= 1
    assert len((await api.client.get("/jobs")).json()) == 1
    assert len(api.parts.store) == 1


async def test_a_shutdown_refuses_the_job_without_its_body_and_closes_the_connection() -> None:
    api = Api()
    api.parts.admission.close()

    async with api.client.open("POST", "/jobs") as exchange:
        answer = await exchange.answer()

    assert assert_problem(answer, 503)["retry_after"] == 7
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["connection"] == "close"
    assert len(api.parts.store) == 0


async def test_a_shutdown_while_the_body_arrives_refuses_the_job() -> None:
    api = Api()

    async with api.client.open("POST", "/jobs") as exchange:
        await exchange.send(SUBMISSION[:10])
        api.parts.admission.close()
        await exchange.send(SUBMISSION[10:], last=True)
        assert_problem(await exchange.answer(), 503)

    assert len(api.parts.store) == 0


@pytest.mark.parametrize("pieces", [0, 1, 2])
async def test_a_client_that_leaves_inside_its_body_admits_nothing(
    pieces: int, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api()

    async with api.client.open("POST", "/jobs") as exchange:
        for _ in range(pieces):
            await exchange.send(b'{"type":"email"}')
        await wait_all_tasks_blocked()
        exchange.hang_up()

    assert len(api.parts.store) == 0
    assert api.parts.receive.statistics().current_buffer_used == 0
    assert not caplog.records  # it is an everyday event, no error of ours


async def test_a_client_that_leaves_after_its_body_has_submitted() -> None:
    api = Api()

    async with api.client.open("POST", "/jobs") as exchange:
        await exchange.send(SUBMISSION, last=True)
        exchange.hang_up()

    assert len(api.parts.store) == 1
    assert api.parts.receive.statistics().current_buffer_used == 1


@pytest.mark.interleavings(20)
async def test_a_request_that_is_cancelled_anywhere_leaves_both_id_and_record_or_neither() -> None:
    for steps in range(12):
        api = Api()
        with trio.CancelScope() as scope:
            async with (
                trio.open_nursery() as nursery,
                api.client.open("POST", "/jobs") as exchange,
            ):

                @nursery.start_soon
                async def cancel_later(scope: trio.CancelScope = scope, steps: int = steps) -> None:
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                await exchange.send(SUBMISSION[:5])
                await exchange.send(SUBMISSION[5:], last=True)
                await exchange.answer()

        assert len(api.parts.store) == api.parts.receive.statistics().current_buffer_used


async def test_the_body_may_come_in_any_number_of_pieces() -> None:
    api = Api()

    answer = await api.client.post("/jobs", [bytes([byte]) for byte in SUBMISSION])

    assert answer.status == 201


async def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_413() -> None:
    api = Api()
    head, tail = b'{"type":"email","payload":"', b'"}'
    longest = head + b"x" * (MAX_BODY_BYTES - len(head) - len(tail)) + tail

    assert (await api.client.post("/jobs", longest)).status == 201
    answer = await api.client.post("/jobs", longest + b" ")

    assert assert_problem(answer, 413)["limit"] == MAX_BODY_BYTES
    assert answer.headers["connection"] == "close"
    assert len(api.parts.store) == 1


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_not_read_to_its_end(*, announced: bool) -> None:
    headers = {"content-length": str(MAX_BODY_BYTES + 1)} if announced else {}

    async with Api().client.open("POST", "/jobs", headers=headers) as exchange:
        if not announced:
            await exchange.send(b"x" * (MAX_BODY_BYTES + 1))
        assert_problem(await exchange.answer(), 413)


async def test_a_type_without_a_handler_is_refused_with_the_types_there_are() -> None:
    api = Api({"email": accept, "resize": accept})

    problem = assert_problem(await api.client.post("/jobs", b'{"type":"emial"}'), 400)

    assert problem["types"] == ["email", "resize"]
    assert "emial" in problem["detail"]
    assert "email" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b"[]", "$: expected object, got array"),
        (b"null", "$: expected object, got null"),
        (b'"email"', "$: expected object, got str"),
        (b"{}", "$: object missing required field type"),
        (b'{"type":null}', "$.type: expected str, got null"),
        (b'{"type":7}', "$.type: expected str, got int"),
        (b'{"type":""}', "$.type must be a non-empty string"),
        (b'{"type":"email","paylaod":1}', "$: object contains unknown field paylaod"),
        (b'{"type":"email"} {}', "trailing"),
        (b'{"type":"email",}', "the body is not valid JSON"),
        (b"type=email", "the body is not valid JSON"),
    ],
)
async def test_a_wrong_shape_is_refused_with_what_was_expected(body: bytes, words: str) -> None:
    api = Api()

    problem = assert_problem(await api.client.post("/jobs", body), 400)

    assert words in problem["detail"]
    assert len(api.parts.store) == 0


@pytest.mark.parametrize("media_type", ["application/x-www-form-urlencoded", "text/plain", "?"])
async def test_the_media_type_of_a_submission_does_not_matter(media_type: str) -> None:
    for kind in (media_type, f"{media_type}; charset=utf-16"):
        assert (await Api().client.post("/jobs", SUBMISSION, content_type=kind)).status == 201


async def test_times_have_microseconds_also_when_they_are_zero() -> None:
    moments = iter([NOON, NOON, NOON.replace(microsecond=7)])  # the first one is the start
    api = Api(parts=make_parts(now=lambda: next(moments)))

    times = [(await api.client.post("/jobs", SUBMISSION)).json()["created_at"] for _ in range(2)]

    assert times == ["2026-11-25T12:00:00.000000Z", "2026-11-25T12:00:00.000007Z"]


@pytest.mark.parametrize(
    ("known", "sent", "hint"),
    [
        ("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n", b"gru\\u0308n", True),
        ("x" * 300, b"x" * 5000, False),
    ],
)
async def test_type_that_only_looks_like_another_is_told_apart(
    known: str, sent: bytes, *, hint: bool
) -> None:
    api = Api({known: accept})

    problem = assert_problem(await api.client.post("/jobs", b'{"type":"%s"}' % sent), 400)

    assert problem["detail"].endswith("; 'gru\\u0308n' only looks like 'gr\\xfcn'") == hint


@pytest.mark.parametrize("pipelined", [1, 20])
async def test_clients_that_never_rest_leave_one_worker_its_turns(pipelined: int) -> None:
    parts = make_parts(workers=1, buffer_size=400)
    api = Api(parts=parts)
    requests = post(SUBMISSION, "/jobs") * pipelined

    async def succeed(_: Job) -> Ending:
        return SUCCEEDED

    async def submit_100() -> None:
        client = await server.connect()
        for _ in range(100 // pipelined):
            await client.send(requests)
            statuses.extend([(await client.receive_answer()).status for _ in range(pipelined)])
        client.close()

    statuses: list[int] = []
    async with trio.open_nursery() as pool, served(api.both_ways) as server:
        start_workers(parts, pool, succeed, number=1)
        async with trio.open_nursery() as clients:
            for _ in range(16):
                clients.start_soon(submit_100)
        parts.admission.close()

    assert statuses == [201] * 1600
