"""`GET /jobs`: order, filters, pages, and all of them while jobs come and go."""

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import trio
from msgspec.structs import replace

from tests.api.support import Api, assert_problem
from tests.asgi import Answer
from tests.support import NOON, SUCCEEDED, Parts, counting_turns, make_job, make_parts
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome
from trio_jobs.job import Later
from trio_jobs.pool.job_query import JobQuery, Order


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
        "order=", "order=Newest", "order=newest&order=newest", "order=ended&outcome=succeeded",
        "rerun=", "rerun=false", "rerun=no&rerun=no", "since=", "since=now", "since=7",
        "since=2026-11-29", "since=2026-11-29T08:00:00", "until=2026-11-29T08:00:00+01:00",
        "until=2026-13-29T08:00:00Z", "since=0001-01-01T00:00:00%2B14:00", "until=%00",
        "since=2026-11-29T08:00:00Z&since=2026-11-29T08:00:00Z",
        "order=ended&after=x", "order=ended&after=0000000000000000-x",
        "order=ended&after=8000000000000000-01936d3c-0000-7000-8000-000000000000",
        "after=0000000000000000-",
        "after=%D9%A100000000000000-01936d3c-0000-7000-8000-000000000000",
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


@pytest.mark.parametrize(
    "target",
    [
        "/jobs",
        "/jobs?type=other",
        "/jobs?type=other&limit=1",
        "/jobs?order=newest&type=other&limit=1",
        "/jobs?until=2000-01-01T00:00:00Z&limit=1",
    ],
)
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


class Clock:
    """A wall clock that the test sets."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def parts_at(clock: Clock) -> Parts:
    return make_parts(now=clock)


async def pages_of(api: Api, query: str) -> list[str]:
    """All jobs of a listing, read page by page."""
    answer = await api.client.get(f"/jobs?{query}")
    found = ids(answer)
    while "link" in answer.headers:
        answer = await api.client.get(next_target(answer))
        found += ids(answer)
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_newest_jobs_come_first(limit: int) -> None:
    api = Api()
    names = fill(api, 200)
    complete(api, *names[10:20], outcome=Outcome.FAILED)

    assert await pages_of(api, f"order=newest&limit={limit}") == names[::-1]
    assert await pages_of(api, f"order=newest&type=odd&limit={limit}") == names[::-2]
    failed = f"order=newest&outcome=failed&limit={limit}"
    assert await pages_of(api, failed) == names[19:9:-1]
    assert ids(await api.client.get("/jobs?order=newest")) == names[::-1]
    assert ids(await api.client.get(f"/jobs?order=newest&after={names[2]}")) == names[1::-1]
    assert ids(await api.client.get("/jobs?order=oldest")) == names


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_jobs_without_success_come_in_the_order_of_their_ends(limit: int) -> None:
    clock = Clock()
    api = Api(parts=parts_at(clock))
    names = fill(api, 9)
    ends = [4, 8, 1, 7, 2]
    for number in ends:
        clock.advance(1)
        complete(api, names[number], outcome=Outcome.FAILED)
    complete(api, names[0], names[3])
    expected = [names[number] for number in reversed(ends)]

    assert await pages_of(api, f"order=ended&limit={limit}") == expected
    assert ids(await api.client.get("/jobs?order=ended")) == expected
    odd = [name for name in expected if names.index(name) % 2]
    assert await pages_of(api, f"order=ended&type=odd&limit={limit}") == odd
    # The id of a job in the order is a place in it, too.
    assert ids(await api.client.get(f"/jobs?order=ended&after={expected[1]}")) == expected[2:]


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_ends_at_the_same_time_are_all_there_once(limit: int) -> None:
    api = Api()
    names = fill(api, 20)
    complete(api, *names[::-1], outcome=Outcome.TIMED_OUT)

    assert await pages_of(api, f"order=ended&limit={limit}") == names[::-1]


async def test_ends_have_their_order_even_if_the_clock_is_set_back() -> None:
    clock = Clock()
    api = Api(parts=parts_at(clock))
    names = fill(api, 600)
    api.parts.store._now = lambda: NOON + timedelta(hours=1)
    complete(api, *names[:300], outcome=Outcome.FAILED)
    api.parts.store._now = clock
    for name in names[300:]:
        clock.advance(1)
        complete(api, name, outcome=Outcome.FAILED)

    assert await pages_of(api, "order=ended&limit=7") == names[299::-1] + names[:299:-1]


async def test_page_goes_on_at_its_place_when_its_last_job_is_deleted_and_others_end() -> None:
    clock = Clock()
    api = Api(parts=parts_at(clock))
    names = fill(api, 10)
    for name in names[:6]:
        clock.advance(1)
        complete(api, name, outcome=Outcome.FAILED)

    first = await api.client.get("/jobs?order=ended&limit=2")
    for name in ids(first):
        assert (await api.client.request("DELETE", f"/jobs/{name}")).status == 204
    clock.advance(1)
    complete(api, *names[6:8], outcome=Outcome.FAILED)
    second = await api.client.get(next_target(first))

    assert ids(first) == [names[5], names[4]]
    assert ids(second) == [names[3], names[2]]


async def test_deleted_and_dropped_jobs_are_in_no_order() -> None:
    api = Api(parts=make_parts(keep_failed=3))
    names = fill(api, 8)
    complete(api, *names[:6], outcome=Outcome.FAILED)
    assert (await api.client.request("DELETE", f"/jobs/{names[4]}")).status == 204

    assert ids(await api.client.get("/jobs?order=ended")) == [names[5], names[3]]
    newest = [names[each] for each in (7, 6, 5, 3)]
    assert ids(await api.client.get("/jobs?order=newest")) == newest


@pytest.mark.parametrize("number", [0, 1, 2, 9])
async def test_id_alone_is_no_place_among_ends_without_its_job(number: int) -> None:
    api = Api()
    names = fill(api, 3)
    complete(api, names[1])
    api.parts.workers.claim(names[2])

    answer = await api.client.get(f"/jobs?order=ended&after={job_id(number)}")

    assert "Link" in assert_problem(answer, 404)["detail"]


async def test_place_among_ends_begins_the_other_orders_at_its_job() -> None:
    api = Api()
    names = fill(api, 5)
    place = f"0000000000000001-{names[2].upper()}"

    assert ids(await api.client.get(f"/jobs?after={place}")) == names[3:]
    assert ids(await api.client.get(f"/jobs?order=newest&after={place}")) == names[1::-1]
    assert ids(await api.client.get(f"/jobs?order=ended&after={place}")) == []


async def test_times_bound_a_listing() -> None:
    clock = Clock()
    api = Api(parts=parts_at(clock))
    names = []
    for n in range(6):
        names.append(job_id(n))
        api.parts.store.add(replace(make_job(job_id(n)), created_at=clock()))
        clock.advance(60)
    complete(api, *names[:3], outcome=Outcome.FAILED)  # at 12:06
    clock.advance(60)
    complete(api, *names[3:5], outcome=Outcome.FAILED)

    async def listed(query: str) -> list[int]:
        found = await pages_of(api, f"{query}&limit=1")
        assert ids(await api.client.get(f"/jobs?{query}")) == found
        return [names.index(name) for name in found]

    day = f"{NOON:%Y-%m-%d}"
    assert await listed(f"since={day}T12:02:00Z") == [2, 3, 4, 5]
    assert await listed(f"until={day}T12:02:00Z") == [0, 1]
    assert await listed(f"since={day}T13:01:00%2B01:00&until={day}T12:03:00.000001Z") == [1, 2, 3]
    assert await listed(f"order=newest&since={day}T12:04:00Z") == [5, 4]
    assert await listed(f"order=ended&since={day}T12:07:00Z") == [4, 3]
    assert await listed(f"order=ended&until={day}T12:07:00Z") == [2, 1, 0]
    assert await listed("since=0001-01-01T00:00:00Z&until=9999-12-31T23:59:59.999999Z") == [
        *range(6)
    ]
    assert await listed("since=9999-12-31T00:00:00Z") == []
    assert await listed(f"since={day}T12:05:00Z&until={day}T12:01:00Z") == []


async def test_jobs_that_were_rerun_can_be_left_out() -> None:
    api = Api()
    names = fill(api, 4)
    complete(api, *names, outcome=Outcome.FAILED)
    again = (await api.client.post(f"/jobs/{names[2]}/rerun")).json()["id"]

    left = [names[0], names[1], names[3]]
    assert ids(await api.client.get("/jobs?rerun=no")) == sorted([*left, again])
    assert await pages_of(api, "order=ended&rerun=no&limit=2") == left[::-1]
    assert ids(await api.client.get("/jobs?order=ended&rerun=yes")) == names[::-1]


@pytest.mark.interleavings(10)
@pytest.mark.parametrize("order", ["newest", "ended"])
async def test_backward_listings_have_what_stays_once_while_others_come_and_go(order: str) -> None:
    api = Api(parts=make_parts(keep_failed=2000))
    names = fill(api, 3000)
    complete(api, *names[:2000], outcome=Outcome.FAILED)
    staying = set(names[1000:2000])

    async def come_and_go() -> None:
        for n, name in enumerate(names[2000:]):
            complete(api, name, outcome=Outcome.FAILED)  # drops the oldest one
            api.parts.store.add(make_job(job_id(1_000_000 + n)))
            if n % 25 == 0:
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_and_go)
        listed = ids(await api.client.get(f"/jobs?order={order}"))

    assert len(set(listed)) == len(listed)
    assert staying <= set(listed)
    assert listed == sorted(listed, reverse=True)


@pytest.mark.parametrize("more", ["", "&limit=5"])
async def test_store_hears_which_jobs_are_wanted(
    more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A store with a long history need not read all of it.
    api = Api()
    asked: list[JobQuery] = []
    page = api.parts.store.page

    async def asking_page(query: JobQuery, *, after: str | None, limit: int) -> list[Job]:
        asked.append(query)
        return await page(query, after=after, limit=limit)

    monkeypatch.setattr(api.parts.store, "page", asking_page)
    await api.client.get(f"/jobs?outcome=failed&outcome=cancelled{more}")
    await api.client.get(f"/jobs?type=test&type=a&status=pending{more}")
    await api.client.get(f"/jobs?{more}")

    await api.client.get(f"/jobs?order=ended&rerun=no&since=2026-11-29T00:00:00Z{more}")

    assert asked == [
        JobQuery(outcomes={Outcome.FAILED, Outcome.CANCELLED}),
        JobQuery(types={"test", "a"}, statuses={JobStatus.PENDING}),
        JobQuery(),
        JobQuery(order=Order.ENDED, rerun=False, since=datetime(2026, 11, 29, tzinfo=UTC)),
    ]
