"""`POST /jobs/batch`: all or none, and others get their turns meanwhile."""

import json

import pytest
import trio

from tests.api.support import SUBMISSION, Api, accept, assert_problem
from tests.support import make_parts


def batch(*items: bytes) -> bytes:
    return b"[" + b",".join(items) + b"]"


async def test_a_batch_is_answered_with_its_jobs_in_the_same_order() -> None:
    api = Api()

    answer = await api.client.post(
        "/jobs/batch", batch(*(b'{"type":"t%d","payload":%d}' % (n, n) for n in range(100)))
    )

    assert answer.status == 201
    jobs = answer.json()
    assert [job["type"] for job in jobs] == [f"t{n}" for n in range(100)]
    assert all(set(job) == {"id", "type", "status", "created_at"} for job in jobs)
    assert [job["id"] for job in jobs] == [api.parts.receive.receive_nowait() for _ in range(100)]
    assert [job.payload for job in api.parts.store.page_nowait(limit=1000)] == [
        b"%d" % n for n in range(100)
    ]


async def test_a_batch_that_fits_exactly_is_taken_and_then_only_an_empty_one() -> None:
    api = Api(parts=make_parts(buffer_size=3))

    assert (await api.client.post("/jobs/batch", batch(*[SUBMISSION] * 3))).status == 201
    assert api.parts.pool.capacity.free == 0
    answer = await api.client.post("/jobs/batch", b"[]")
    assert (answer.status, answer.body) == (201, b"[]")


async def test_without_room_for_all_nothing_is_kept() -> None:
    api = Api(parts=make_parts(buffer_size=3))
    api.parts.admission.submit("email", b"null")

    answer = await api.client.post("/jobs/batch", batch(*[SUBMISSION] * 3))

    assert_problem(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1
    assert len(api.parts.store) == 1
    assert api.parts.pool.capacity.free == 2


async def test_a_batch_that_can_never_fit_is_refused_with_the_limit() -> None:
    api = Api(parts=make_parts(buffer_size=3))

    problem = assert_problem(await api.client.post("/jobs/batch", batch(*[SUBMISSION] * 4)), 400)

    assert problem["limit"] == 3
    assert "at most 3 jobs" in problem["detail"]
    assert len(api.parts.store) == 0


async def test_bad_items_are_all_named_and_nothing_is_kept() -> None:
    api = Api({"email": accept})
    items = [SUBMISSION] * 6
    items[1] = b'{"type":7}'
    items[3] = b'{"type":"emial"}'
    items[5] = b'{"type":"email","payload":"\xff"}'

    problem = assert_problem(await api.client.post("/jobs/batch", batch(*items)), 400)

    assert problem["index"] == [1, 3, 5]
    assert "item 1: $.type: expected str, got int" in problem["detail"]
    assert "item 3: no handler for type 'emial'" in problem["detail"]
    assert "item 5: $.payload" in problem["detail"]
    assert len(api.parts.store) == 0


async def test_of_very_many_bad_items_the_answer_stays_readable() -> None:
    api = Api(parts=make_parts(buffer_size=10_000))

    problem = assert_problem(await api.client.post("/jobs/batch", batch(*[b"0"] * 4000)), 400)

    assert problem["index"] == [*range(4000)]
    assert len(problem["detail"]) < 2000


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"{}", b'"x"', SUBMISSION, b"[", b"[,]", b"[{]", b"[1,]", b"[] []", b"[\xff]",
        b"[" * 20_000, b"[" * 5000 + b"]" * 5000, "[]".encode("utf-16"), b"\xef\xbb\xbf[]",
    ],
)  # fmt: skip
async def test_what_is_no_array_is_400(body: bytes) -> None:
    api = Api(max_body_bytes=1_000_000)

    assert_problem(await api.client.post("/jobs/batch", body), 400)
    assert len(api.parts.store) == 0


async def test_a_shutdown_before_or_during_a_batch_keeps_nothing_of_it() -> None:
    api = Api()

    async with api.client.open("POST", "/jobs/batch") as exchange:
        await exchange.send(b"[")
        api.parts.admission.close()
        await exchange.send(SUBMISSION + b"]", last=True)
        assert_problem(await exchange.answer(), 503)
    assert_problem(await api.client.post("/jobs/batch", batch(SUBMISSION)), 503)

    assert len(api.parts.store) == 0


async def test_other_tasks_run_while_a_batch_is_checked_and_answered() -> None:
    api = Api(parts=make_parts(buffer_size=10_000), max_body_bytes=10_000_000)
    turns_before = turns_after = 0

    async with (
        trio.open_nursery() as nursery,
        api.client.open("POST", "/jobs/batch", buffer=10) as exchange,
    ):
        await exchange.send(batch(*[SUBMISSION] * 10_000), last=True)

        @nursery.start_soon
        async def count() -> None:
            nonlocal turns_before, turns_after
            while True:
                await trio.lowlevel.checkpoint()
                if len(api.parts.store) == 0:
                    turns_before += 1
                else:
                    assert len(api.parts.store) == 10_000
                    turns_after += 1

        answer = await exchange.answer()
        nursery.cancel_scope.cancel()

    assert len(json.loads(answer.body)) == 10_000
    assert turns_before >= 10
    assert turns_after >= 10
