"""`GET /jobs`: order, filters, pages, and all of them while jobs come and go."""

import json
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.api.support import Api, assert_problem
from tests.asgi import Answer
from tests.support import SUCCEEDED, counting_turns, make_job, make_parts
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome
from trio_jobs.job import Later


def ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    return [job["id"] for job in answer.json()]


def job_id(n: int) -> str:
    return f"01936d3c-0000-7000-8000-{n:012x}"


def fill(api: Api, count: int) -> list[str]:
    """Add that many pending jobs, whose types alternate."""
    for n in range(count):
        api.parts.store.add(make_job(job_id(n), type=("even", "odd")[n % 2]))
    return [job_id(n) for n in range(count)]


def complete(api: Api, *names: str, outcome: Outcome = Outcome.SUCCEEDED) -> None:
    for name in names:
        api.parts.workers.claim(name)
        api.parts.workers.complete(name, Ending(outcome=outcome))


async def test_no_jobs_are_an_empty_array() -> None:
    for target in ("/jobs", "/jobs?limit=5", "/jobs?status=pending"):
        answer = await Api().client.get(target)
        assert (answer.status, answer.body) == (200, b"[]")
        assert answer.headers["content-type"] == "application/json"


async def test_jobs_are_listed_in_the_order_of_insertion() -> None:
    api = Api()
    names = fill(api, 1234)

    assert ids(await api.client.get("/jobs")) == names


async def test_a_listed_job_has_neither_payload_nor_result() -> None:
    api = Api()
    api.parts.store.add(make_job(job_id(1), payload=b'"secret"'))
    api.parts.workers.claim(job_id(1))
    api.parts.workers.complete(job_id(1), SUCCEEDED, duration=0.0)

    [job] = (await api.client.get("/jobs")).json()

    assert set(job) == {
        "attempts",
        "id", "type", "status", "created_at", "started_at", "completed_at", "duration", "outcome"
    }  # fmt: skip


@pytest.mark.parametrize("length", [0, 300, 301, 100_000])
async def test_a_listed_job_says_why_it_failed_in_300_characters(length: int) -> None:
    api = Api(parts=make_parts(keep_completed_bytes=10**6))
    [failed, retrying, waiting] = fill(api, 3)
    error = JobError(type="ValueError", message="\N{SNOWMAN}" * length)
    for name in (failed, retrying):
        api.parts.workers.claim(name)
    api.parts.workers.complete(failed, Ending(outcome=Outcome.FAILED, error=error))
    api.parts.workers.postpone(retrying, Later(seconds=60, error=error))

    listed = {job["id"]: job for job in (await api.client.get("/jobs")).json()}

    cut = error.message if length <= 300 else error.message[:299] + "…"
    assert listed[failed]["error"] == {"type": "ValueError", "message": cut}
    assert listed[retrying]["last_error"] == {"type": "ValueError", "message": cut}
    assert listed[retrying]["attempts"] == 1
    assert "last_error" not in listed[failed]
    assert "error" not in listed[retrying]
    assert not {"error", "last_error"} & set(listed[waiting])
    whole = (await api.client.get(f"/jobs/{failed}")).json()
    assert whole["error"]["message"] == error.message


async def test_filters_of_one_kind_widen_and_of_different_kinds_narrow() -> None:
    api = Api()
    names = fill(api, 8)
    complete(api, names[0], names[1])
    complete(api, names[2], names[3], outcome=Outcome.FAILED)
    api.parts.workers.claim(names[4])

    async def listed(query: str) -> list[int]:
        streamed = ids(await api.client.get(f"/jobs?{query}"))
        assert ids(await api.client.get(f"/jobs?{query}&limit=1000")) == streamed
        return [names.index(name) for name in streamed]

    assert await listed("status=pending") == [5, 6, 7]
    assert await listed("status=pending&status=processing") == [4, 5, 6, 7]
    assert await listed("status=completed") == [0, 1, 2, 3]
    assert await listed("outcome=failed") == [2, 3]
    assert await listed("outcome=failed&outcome=succeeded") == [0, 1, 2, 3]
    assert await listed("outcome=timed_out&outcome=cancelled") == []
    assert await listed("type=odd") == [1, 3, 5, 7]
    assert await listed("type=odd&status=completed&outcome=failed") == [3]
    assert await listed("type=odd&type=even") == [*range(8)]
    assert await listed("type=other") == []
    assert await listed("status=pending&status=pending") == [5, 6, 7]


@pytest.mark.parametrize("type_", ["a&b", "a b", "é", "100%", "+", "\N{GRINNING FACE}", "a=b#c"])
async def test_a_type_of_any_characters_can_be_asked_for_and_paged(type_: str) -> None:
    api = Api()
    for n in range(3):
        api.parts.store.add(make_job(job_id(n), type=type_))
    api.parts.store.add(make_job(job_id(3), type="other"))

    first = await api.client.get(f"/jobs?type={quote(type_, safe='')}&limit=2")
    second = await api.client.get(next_target(first))

    assert ids(first) + ids(second) == [job_id(0), job_id(1), job_id(2)]


def next_target(answer: Answer) -> str:
    target, _, relation = answer.headers["link"].partition("; ")
    assert relation == 'rel="next"'
    assert (target[0], target[-1]) == ("<", ">")
    return target[1:-1]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 1000])
@pytest.mark.parametrize("query", ["", "&type=odd", "&status=pending&type=even"])
async def test_the_pages_together_are_the_listing(limit: int, query: str) -> None:
    api = Api()
    fill(api, 14)
    everything = ids(await api.client.get(f"/jobs?{query[1:]}"))

    answer = await api.client.get(f"/jobs?limit={limit}{query}")
    found = ids(answer)
    pages = 1
    while "link" in answer.headers:
        answer = await api.client.get(next_target(answer))
        found += ids(answer)
        pages += 1

    assert found == everything
    assert pages == -(-len(everything) // limit)


async def test_after_a_job_that_was_dropped_meanwhile_the_next_ones_follow() -> None:
    api = Api(parts=make_parts(keep_completed=0))
    names = fill(api, 5)
    complete(api, names[2])

    assert ids(await api.client.get(f"/jobs?after={names[2].upper()}")) == names[3:]
    assert ids(await api.client.get(f"/jobs?limit=1&after={names[2]}")) == [names[3]]


async def test_after_the_last_job_there_is_nothing_and_no_next_page() -> None:
    api = Api()
    names = fill(api, 2)

    for query in (f"after={names[-1]}", f"after={names[-1]}&limit=1"):
        answer = await api.client.get(f"/jobs?{query}")
        assert ids(answer) == []
        assert "link" not in answer.headers


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=-1", "limit=1001", "limit=", "limit=x", "limit=1.0", "limit=%D9%A1",
        "limit=1e2", "limit=+1", "limit=%201", "limit=" + "9" * 5000, "limit=1&limit=1",
        "after=", "after=x", "after=7", "after=%00", "limit=1;after=x",
        "after=01936d3c-0000-7000-8000-000000000000&after=01936d3c-0000-7000-8000-000000000000",
        "status=", "status=done", "status=Pending", "status=pending,processing", "outcome=ok",
        "outcome=", "type=", "Status=pending", "page=2", "=", "=x", "limt=5", "a", "\xff", "%ff=1",
        "type=%ff", "type=%c0%af", "type=\xff", "status[]=pending", "&".join(["type=a"] * 5000),
    ],
)  # fmt: skip
async def test_a_bad_query_is_400(query: str, caplog: pytest.LogCaptureFixture) -> None:
    problem = assert_problem(await Api().client.get(f"/jobs?{query}"), 400)

    assert len(problem["detail"]) < 500
    if query == "status=done":
        words = "status must be one of pending, processing, completed, got 'done'"
        assert problem["detail"] == words
    assert not caplog.records


@pytest.mark.interleavings(10)
async def test_jobs_that_are_there_throughout_are_listed_once_while_others_come_and_go() -> None:
    api = Api(parts=make_parts(keep_completed=300))
    names = fill(api, 3000)
    staying = set(names[1::2])

    async def come_and_go() -> None:
        for n, name in enumerate(names[0::2]):
            complete(api, name)
            api.parts.store.add(make_job(job_id(1_000_000 + n)))
            if n % 25 == 0:
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_and_go)
        listed = ids(await api.client.get("/jobs"))

    assert len(api.parts.store) == 3000 + 300
    assert len(set(listed)) == len(listed)
    assert staying <= set(listed)
    assert listed == sorted(listed)


async def test_the_listing_goes_out_in_pieces_of_bounded_size() -> None:
    api = Api()
    fill(api, 5000)

    async with api.client.open("GET", "/jobs") as exchange:
        await exchange.head()
        pieces = [piece async for piece in exchange.pieces()]

    assert len(json.loads(b"".join(pieces))) == 5000
    assert max(map(len, pieces)) < 150_000


@pytest.mark.parametrize("target", ["/jobs", "/jobs?type=other", "/jobs?type=other&limit=1"])
async def test_other_tasks_run_between_the_pieces_of_a_listing(target: str) -> None:
    api = Api()
    fill(api, 10_000)

    async with counting_turns() as turns:
        assert (await api.client.get(target)).status == 200

    assert len(turns) >= 10


async def test_a_client_that_leaves_a_listing_early_ends_it() -> None:
    api = Api()
    fill(api, 5000)

    async with api.client.open("GET", "/jobs") as exchange:
        await exchange.head()
        async for piece in exchange.pieces():
            assert piece.startswith(b"[")
            break

    assert (await api.client.get("/health")).status == 200


@pytest.mark.parametrize("more", ["", "&limit=5"])
async def test_store_hears_which_jobs_are_wanted(
    more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A store with a long history need not read all of it.
    api = Api()
    asked: list[dict[str, set[str]]] = []
    page = api.parts.store.page

    async def asking_page(*, after: str | None, limit: int, **wanted: Collection[Any]) -> list[Job]:
        asked.append({name: set(values) for name, values in wanted.items() if values})
        return await page(after=after, limit=limit, **wanted)

    monkeypatch.setattr(api.parts.store, "page", asking_page)
    await api.client.get(f"/jobs?outcome=failed&outcome=cancelled{more}")
    await api.client.get(f"/jobs?type=test&type=a&status=pending{more}")
    await api.client.get(f"/jobs?{more}")

    assert asked == [
        {"outcomes": {Outcome.FAILED, Outcome.CANCELLED}},
        {"types": {"test", "a"}, "statuses": {JobStatus.PENDING}},
        {},
    ]
