"""`Idempotency-Key`: a request again gets the first answer again, and makes no second job."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api, assert_problem
from tests.asgi import Answer
from tests.support import SUCCEEDED, make_parts

OTHER = b'{"type":"email","payload":{"to":"other@example.com"}}'


async def submit(api: Api, body: bytes = SUBMISSION, key: str = "k", **headers: str) -> Answer:
    return await api.client.post("/jobs", body, idempotency_key=key, **headers)


def run(api: Api) -> None:
    job_id = api.parts.receive.receive_nowait()
    api.parts.workers.claim(job_id)
    api.parts.workers.complete(job_id, SUCCEEDED)


async def test_the_same_request_again_gets_the_first_answer_again() -> None:
    api = Api()

    first = await submit(api)
    second = await submit(api)
    run(api)
    third = await submit(api)

    assert "idempotent-replayed" not in first.headers
    for again in (second, third):  # also after the job has completed
        assert (again.status, again.body) == (201, first.body)
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["idempotent-replayed"] == "true"
    assert len(api.parts.store) == 1
    assert api.parts.receive.statistics().current_buffer_used == 0


async def test_a_repetition_that_waits_is_answered_with_the_job_as_it_then_is() -> None:
    api = Api()
    await submit(api)
    run(api)

    answer = await submit(api, prefer="wait=5")

    assert answer.status == 201
    assert answer.headers["idempotent-replayed"] == "true"
    assert answer.json()["status"] == "completed"


async def test_two_requests_at_the_same_instant_make_one_job() -> None:
    api = Api()

    async with (
        api.client.open("POST", "/jobs", headers={"idempotency-key": "k"}) as first,
        api.client.open("POST", "/jobs", headers={"idempotency-key": "k"}) as second,
    ):
        await first.send(SUBMISSION[:9])
        await second.send(SUBMISSION[:9])
        await second.send(SUBMISSION[9:], last=True)
        await first.send(SUBMISSION[9:], last=True)
        answers = [await first.answer(), await second.answer()]

    assert answers[0].body == answers[1].body
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 1
    assert len(api.parts.store) == 1


@pytest.mark.interleavings(10)
async def test_of_many_at_the_same_instant_one_makes_the_job() -> None:
    api = Api()

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(submit, api)

    assert len(api.parts.store) == 1


async def test_a_client_that_left_before_its_answer_repeats_without_a_second_job() -> None:
    api = Api()
    headers = {"idempotency-key": "k", "prefer": "wait=50"}
    async with api.client.open("POST", "/jobs", headers=headers) as exchange:
        await exchange.send(SUBMISSION, last=True)
        await wait_all_tasks_blocked()
        exchange.hang_up()

    answer = await submit(api)

    assert answer.headers["idempotent-replayed"] == "true"
    assert len(api.parts.store) == 1


@pytest.mark.parametrize(
    "other",
    [
        OTHER,
        b'{"type":"email"}',
        b'{"type":"other","payload":{"to":"user@example.com"}}',
        b'{"type":"email","payload":{"to": "user@example.com"}}',
        b'{"type":"email","payload":{"to":"user@example.com"},"delay":1}',
    ],
)
async def test_a_key_that_was_used_with_another_submission_is_422(other: bytes) -> None:
    api = Api()
    await submit(api)

    problem = assert_problem(await submit(api, other), 422)

    assert problem["detail"] == "the key 'k' was used with another submission"
    assert len(api.parts.store) == 1


async def test_white_space_and_order_outside_the_payload_make_no_other_submission() -> None:
    api = Api()
    first = await submit(api)

    second = await submit(api, b' {"payload": {"to":"user@example.com"}, "type" : "email" }')

    assert second.body == first.body
    assert "idempotent-replayed" in second.headers


async def test_other_keys_and_none_make_jobs_of_their_own() -> None:
    api = Api()

    for key in ("k", "K", "kk"):
        assert "idempotent-replayed" not in (await submit(api, key=key)).headers
    await api.client.post("/jobs", SUBMISSION)
    await api.client.post("/jobs", SUBMISSION)

    assert len(api.parts.store) == 5


async def test_a_refused_request_leaves_no_key_behind() -> None:
    api = Api(parts=make_parts(buffer_size=1))
    await api.client.post("/jobs", SUBMISSION)
    assert_problem(await submit(api), 429)
    run(api)

    answer = await submit(api)

    assert answer.status == 201
    assert "idempotent-replayed" not in answer.headers


async def test_a_repetition_is_answered_also_by_a_full_buffer_and_in_a_shutdown() -> None:
    api = Api(parts=make_parts(buffer_size=1))
    first = await submit(api)

    assert (await submit(api)).body == first.body
    api.parts.admission.close()
    assert (await submit(api)).body == first.body
    assert_problem(await submit(api, key="new"), 503)


@pytest.mark.parametrize("how", ["dropped", "deleted"])
async def test_a_key_is_forgotten_with_its_job(how: str) -> None:
    api = Api(parts=make_parts(keep_completed=0 if how == "dropped" else 10))
    first = await submit(api)
    run(api)
    if how == "deleted":
        await api.client.request("DELETE", first.headers["location"])

    second = await submit(api)

    assert "idempotent-replayed" not in second.headers
    assert second.json()["id"] != first.json()["id"]
    assert len(api.parts.store._keys) == 1


@pytest.mark.parametrize("key", ["!", "~" * 255, '"quoted"', "a,b"])
async def test_a_key_is_1_to_255_visible_characters(key: str) -> None:
    api = Api()

    await submit(api, key=key)

    assert "idempotent-replayed" in (await submit(api, key=key)).headers


@pytest.mark.parametrize("key", ["", " ", "a b", "\t", "x" * 256, "é", "\x7f", "\xa0"])
async def test_any_other_key_is_400(key: str) -> None:
    api = Api()

    assert "Idempotency-Key" in assert_problem(await submit(api, key=key), 400)["detail"]
    assert len(api.parts.store) == 0


async def test_two_keys_are_400() -> None:
    headers = {"idempotency-key": "a", "Idempotency-Key": "b"}

    answer = await Api().client.request("POST", "/jobs", body=SUBMISSION, headers=headers)

    assert_problem(answer, 400)


@pytest.mark.parametrize("path", ["/jobs/batch", "/jobs/stream"])
@pytest.mark.parametrize("key", ["k", ""])
async def test_key_for_many_jobs_is_refused_and_keeps_nothing(path: str, key: str) -> None:
    api = Api()

    answer = await api.client.post(path, b"[%s]" % SUBMISSION, idempotency_key=key)

    problem = assert_problem(answer, 400)
    assert problem["detail"].startswith("Idempotency-Key is for POST /jobs only")
    assert problem.get("accepted") == (0 if path == "/jobs/stream" else None)
    assert len(api.parts.store) == 0
