"""``"key"`` in items of a batch and in lines of a stream: the same thing as `Idempotency-Key`."""

from datetime import timedelta

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api, assert_problem
from tests.asgi import Answer
from tests.support import NOON, make_parts, noon, take
from trio_jobs.api.submission_json import parse_item


def item(key: str | None = None, payload: int = 1, **members: object) -> dict[str, object]:
    named = {} if key is None else {"key": key}
    return {"type": "email", "payload": payload, **named, **members}


async def batch(api: Api, *items: dict[str, object]) -> Answer:
    return await api.client.request("POST", "/jobs/batch", json=items)


async def stream(api: Api, *items: dict[str, object]) -> Answer:
    lines = [msgspec.json.encode(each) + b"\n" for each in items]
    return await api.client.post("/jobs/stream", b"".join(lines))


def payloads(api: Api) -> list[int]:
    return [int(job.payload) for job in api.parts.store.page_nowait(limit=1_000)]


async def test_the_same_batch_again_gets_the_first_answer_again() -> None:
    api = Api()
    items = [item("a"), item(payload=2), item("b", delay=90)]

    first = await batch(api, *items)
    second = await batch(api, *items)

    assert first.status == second.status == 201
    assert [second.json()[n] for n in (0, 2)] == [first.json()[n] for n in (0, 2)]
    assert second.json()[1]["id"] != first.json()[1]["id"]  # it has no key
    assert len(api.parts.store) == 4


async def test_a_repetition_is_answered_as_at_first_also_when_the_date_is_past() -> None:
    time = NOON
    api = Api(parts=make_parts(now=lambda: time))
    items = [item("a"), item("b", run_at="2026-11-25T12:01:00Z")]

    first = await batch(api, *items)
    take(api.parts)
    time += timedelta(hours=1)
    second = await batch(api, *items, item(payload=7))

    assert second.json()[:2] == first.json()
    assert second.json()[2]["created_at"] == "2026-11-25T13:00:00.000000Z"


async def test_a_key_means_the_same_in_each_route() -> None:
    api = Api()
    single = await api.client.post("/jobs", SUBMISSION, idempotency_key="k")
    same = {**msgspec.json.decode(SUBMISSION), "key": "k"}

    in_batch = await batch(api, same)
    in_stream = await stream(api, same)

    assert in_batch.json() == [single.json()]
    assert (in_stream.status, in_stream.json()) == (201, {"accepted": 1})
    assert len(api.parts.store) == 1


async def test_a_known_key_with_another_job_refuses_the_batch_and_names_each_index() -> None:
    api = Api()
    await batch(api, item("a"), item("b"))

    answer = await batch(api, item("new"), item("a", 2), item("b"), item("b", delay=1))

    problem = assert_problem(answer, 422)
    assert problem["index"] == [1, 3]
    assert problem["detail"] == "item 1: the key 'a' was used with another submission"
    assert len(api.parts.store) == 2


async def test_a_key_twice_in_a_batch_is_one_job_or_a_fault() -> None:
    api = Api()

    answer = await batch(api, item("a"), item(payload=2), item("a"))
    problem = assert_problem(await batch(api, item("c"), item("c", 2), item("c", 3)), 422)

    assert answer.json()[0] == answer.json()[2]
    assert payloads(api) == [1, 2]
    assert problem["index"] == [1, 2]


async def test_only_new_jobs_of_a_batch_need_room() -> None:
    api = Api(parts=make_parts(buffer_size=2, workers=1))
    first = await batch(api, item("a"), item("b"))

    assert (await batch(api, item("a"), item("b"))).json() == first.json()
    assert_problem(await batch(api, item("a"), item("c")), 429)
    assert len(api.parts.store) == 2


@pytest.mark.parametrize("send", [batch, stream])
@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, None, 7, ["k"]])
async def test_another_key_is_400(send: object, key: object) -> None:
    api = Api()
    bad = {"type": "email", "key": key}

    answer = await (batch if send is batch else stream)(api, item("a"), bad)

    problem = assert_problem(answer, 400)
    assert "$.key" in problem["detail"]
    assert len(api.parts.store) == (0 if send is batch else 1)


@pytest.mark.parametrize("send", [batch, stream])
async def test_a_key_twice_in_an_item_is_400(send: object) -> None:
    text = b'{"key":"a","type":"email","key":"b"}'
    path, body = ("batch", b"[%b]" % text) if send is batch else ("stream", text)

    problem = assert_problem(await Api().client.post(f"/jobs/{path}", body), 400)

    assert "more than once" in problem["detail"]


async def test_key_in_the_body_of_a_single_submission_is_unknown() -> None:
    body = b'{"type":"email","key":"k"}'

    assert "key" in assert_problem(await Api().client.post("/jobs", body), 400)["detail"]


async def test_the_same_stream_again_makes_jobs_only_of_lines_without_a_key() -> None:
    api = Api()
    lines = [item(f"k{n}", n) for n in range(50)]

    first = await stream(api, *lines)
    second = await stream(api, item(payload=100), *lines[:25], item(payload=101), *lines[25:])

    assert (first.json(), second.json()) == ({"accepted": 50}, {"accepted": 52})
    assert payloads(api) == [*range(50), 100, 101]


async def test_a_key_twice_in_a_stream_is_one_job() -> None:
    api = Api()

    answer = await stream(api, item("a"), item("a"), item("b", 2), item("a"), item("b", 2))

    assert answer.json() == {"accepted": 5}
    assert payloads(api) == [1, 2]


async def test_a_reused_key_ends_the_stream_at_its_line() -> None:
    api = Api()
    await stream(api, item("a"))

    text = b"\n" + b"\n".join(
        msgspec.json.encode(each)
        for each in (item("b", 2), item("a"), item("c", 3), item("c", 4), item("d", 5))
    )
    problem = assert_problem(await api.client.post("/jobs/stream", text), 422)

    assert (problem["accepted"], problem["line"]) == (3, 5)
    assert problem["detail"] == "the key 'c' was used with another submission"
    assert payloads(api) == [1, 2, 3]


async def test_lines_with_known_keys_need_no_room() -> None:
    api = Api(parts=make_parts(buffer_size=2, workers=1))
    lines = [item(f"k{n}", n) for n in range(2)]
    await batch(api, *lines)

    assert (await stream(api, *lines)).json() == {"accepted": 2}


async def test_another_clients_job_with_the_key_is_found_by_a_line_that_waited_for_room() -> None:
    api = Api(parts=make_parts(buffer_size=2, workers=1))
    await batch(api, item(payload=8), item(payload=9))
    answers: list[Answer] = []

    async def upload() -> None:
        answers.append(await stream(api, item("a"), item("b", 2)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        await wait_all_tasks_blocked()
        for _ in range(2):
            take(api.parts)
        # The stream has not had its turn yet.
        text = msgspec.json.encode(item("a"))
        api.parts.admission.submit_all([parse_item(text, api.context.pool.handlers, noon)])
        await wait_all_tasks_blocked()
        take(api.parts)

    assert answers[0].json() == {"accepted": 2}
    assert payloads(api) == [8, 9, 1, 2]


@pytest.mark.interleavings(10)
async def test_of_many_clients_with_the_same_keys_each_key_makes_one_job() -> None:
    api = Api(parts=make_parts(buffer_size=10_000))
    lines = [item(f"k{n}", n) for n in range(30)]

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(stream, api, *lines)
            nursery.start_soon(batch, api, *lines)

    assert sorted(payloads(api)) == [*range(30)]
