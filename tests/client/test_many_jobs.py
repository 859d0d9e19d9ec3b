"""`submit_many` and `as_completed`: keys, turns, and how many requests there are at a time."""

import itertools
import json
from collections.abc import AsyncIterable

import anyio
import httpx
import pytest

from tests.client.fake_server import FakeServer
from tests.client.support import URL, on_both_loops, problem, scripted
from trio_jobs.client import AsyncClient, Job, JobForgottenError, RefusedError

# What the client promises, and the reference says.
MOST_LOOKS = 32


def client_of(server: httpx.AsyncBaseTransport) -> AsyncClient:
    return AsyncClient(URL, http=httpx.AsyncClient(transport=server))


async def put_into(found: list[str], arrivals: AsyncIterable[Job]) -> None:
    async for job in arrivals:
        found.append(job.id)  # noqa: PERF401 - what came before an error counts


@on_both_loops
async def test_jobs_are_submitted_in_one_request_each_with_a_key() -> None:
    server = FakeServer()
    client = client_of(server)

    jobs = await client.submit_many(("email", n) for n in range(100))

    assert [server.jobs[job.id][1] for job in jobs] == [*range(100)]
    assert len(server.keys) == 100


@on_both_loops
async def test_lost_answers_double_nothing() -> None:
    server = FakeServer()
    server.lose = itertools.cycle([True, True, False])

    jobs = await client_of(server).submit_many([("email", 1), ("email", 2)])

    assert [*server.jobs] == [job.id for job in jobs]


@on_both_loops
async def test_keys_of_the_caller_count_from_one() -> None:
    server = FakeServer()

    for _ in range(2):
        await client_of(server).submit_many([("a", 1), ("b", 2)], key=lambda n: f"run-{n}")

    assert [*server.keys] == ["run-1", "run-2"]
    assert len(server.jobs) == 2


@on_both_loops
async def test_refused_batch_is_refused_as_a_whole() -> None:
    client, script = scripted(problem(400, "item 1: no handler for 'nope'"))

    with pytest.raises(RefusedError, match="item 1: no handler"):
        await client.submit_many([("email", 1), ("nope", 2)])

    assert script.lines == ["POST /jobs/batch"]
    assert [item["type"] for item in json.loads(script.requests[0].content)] == ["email", "nope"]


@on_both_loops
async def test_no_jobs_need_no_request() -> None:
    client, script = scripted(problem(400))

    assert await client.submit_many([]) == []
    async with client.as_completed([]) as arrivals:
        assert [job async for job in arrivals] == []

    assert script.requests == []


@on_both_loops
async def test_payload_without_json_submits_nothing() -> None:
    client, script = scripted(problem(400))

    with pytest.raises(ValueError, match="the payload"):
        await client.submit_many([("email", 1), ("email", object())])
    assert script.requests == []


@on_both_loops
async def test_answer_of_another_server_is_refused() -> None:
    client, _ = scripted(httpx.Response(200, text="[1]"))

    with pytest.raises(RefusedError, match=r"^200: the answer is no jobs: "):
        await client.submit_many([("email", 1)])


@on_both_loops
async def test_jobs_come_in_the_order_of_their_ends() -> None:
    server = FakeServer()
    ids = [server.add(seconds) for seconds in (30, 10, 20, 70)]

    async with client_of(server).as_completed(ids) as arrivals:
        found = [(job.id, anyio.current_time() // 1) async for job in arrivals]

    assert found == [(ids[1], 10), (ids[2], 20), (ids[0], 30), (ids[3], 70)]


@on_both_loops
async def test_many_jobs_need_few_requests_at_a_time() -> None:
    server = FakeServer()
    ids = [server.add(n % 20) for n in range(500)]

    async with client_of(server).as_completed(ids) as arrivals:
        found = [job.id async for job in arrivals]

    assert sorted(found) == sorted(ids)
    assert server.peak == MOST_LOOKS
    # The last ends after 19 s; a job out of turn waits for a round of a second a look.
    assert anyio.current_time() < 19 + 500 / MOST_LOOKS + 2
    assert len(server.looks) < 500 + MOST_LOOKS * 40


@on_both_loops
async def test_jobs_that_end_in_order_come_without_delay() -> None:
    server = FakeServer()
    ids = [server.add(0.1 * n) for n in range(200)]

    async with client_of(server).as_completed(ids) as arrivals:
        found = [job.id async for job in arrivals]

    assert len(found) == 200
    assert anyio.current_time() < 21


@on_both_loops
async def test_server_that_lets_nobody_wait_is_asked_once_a_second() -> None:
    server = FakeServer()
    server.max_waiters = 0
    ids = [server.add(20) for _ in range(2)]

    async with client_of(server).as_completed(ids) as arrivals:
        assert len([job async for job in arrivals]) == 2

    assert len(server.looks) <= 2 * 22


@on_both_loops
async def test_many_waits_of_one_client_take_turns_and_leave_room_for_others() -> None:
    server = FakeServer()
    client = client_of(server)
    ids = [server.add(120 if n < 50 else 1) for n in range(100)]
    ends: dict[str, float] = {}

    async def wait(job_id: str) -> None:
        await client.wait(job_id)
        ends[job_id] = anyio.current_time()

    async with anyio.create_task_group() as tasks:
        for job_id in ids:
            tasks.start_soon(wait, job_id)

    assert server.peak == MOST_LOOKS
    # Those that are done do not wait for those that are not.
    assert max(ends[job_id] for job_id in ids[50:]) < 40


@on_both_loops
async def test_forgotten_job_is_told_after_the_others() -> None:
    server = FakeServer()
    ids = [server.add(5), "gone", server.add(8)]
    found: list[str] = []

    async with client_of(server).as_completed(ids) as arrivals:
        with pytest.raises(JobForgottenError, match="'gone'"):
            await put_into(found, arrivals)

    assert found == [ids[0], ids[2]]


@on_both_loops
async def test_time_for_all_of_them_is_over() -> None:
    server = FakeServer()
    ids = [server.add(5), server.add(50)]
    found: list[str] = []

    async with client_of(server).as_completed(ids, timeout=20) as arrivals:
        with pytest.raises(TimeoutError):
            await put_into(found, arrivals)

    assert found == ids[:1]
    assert anyio.current_time() == 20


@on_both_loops
async def test_job_that_is_named_twice_comes_twice() -> None:
    server = FakeServer()
    job_id = server.add(1)

    async with client_of(server).as_completed([job_id, job_id]) as arrivals:
        assert [job.id async for job in arrivals] == [job_id] * 2


@on_both_loops
async def test_loop_that_is_left_leaves_no_request() -> None:
    server = FakeServer()
    ids = [server.add(n) for n in range(100)]

    async with client_of(server).as_completed(ids) as arrivals:
        async for _ in arrivals:
            break

    assert server._requests == 0


@on_both_loops
async def test_lost_looks_are_repeated() -> None:
    server = FakeServer()
    ids = [server.add(n / 10) for n in range(100)]

    server.lose = itertools.cycle([False, False, True])

    async with client_of(server).as_completed(ids) as arrivals:
        assert sorted([job.id async for job in arrivals]) == sorted(ids)
