"""`POST /pool/workers`: control of the pool while it runs."""

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import Api, assert_problem
from tests.api.test_openapi import document
from tests.asgi import Answer
from tests.support import running_pool


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
