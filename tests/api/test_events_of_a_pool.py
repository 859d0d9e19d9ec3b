"""`GET /events` over a running pool: what happens there is seen, and a stop ends the streams."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.api.test_events import Reader, begin
from tests.asgi import Client
from tests.support import HttpSettings, RunningPool, running_pool
from trio_jobs import JobContext, Snooze
from trio_jobs.access import EXTENSION, Access, Role
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.app import create_app
from trio_jobs.api.feed import GAP, TICK
from trio_jobs.api.pool_source import feed_of


async def sleep(seconds: float) -> None:
    """A handler."""
    await trio.sleep(seconds)


async def fail(_payload: object) -> None:
    """A handler."""
    raise ValueError("no")


async def snooze(seconds: float) -> None:
    """A handler."""
    raise Snooze(seconds)


async def report(message: str, context: JobContext) -> None:
    """A handler."""
    context.progress(1, 2, message)
    await trio.sleep_forever()


FUNCTIONS: dict[str, Callable[..., Awaitable[object]]] = {
    "sleep": sleep,
    "fail": fail,
    "snooze": snooze,
    "report": report,
}


@asynccontextmanager
async def served_pool() -> AsyncIterator[tuple[RunningPool, Client]]:
    """A running pool, and a client of its API."""
    async with running_pool(FUNCTIONS) as running:
        feed = feed_of(running.parts.pool)
        assert feed is not None
        context = ApiContext(
            pool=running.parts.pool,
            http=HttpSettings(payloads="control"),
            shutdown_retry_after=1,
            feed=feed,
        )
        client = Client(create_app(context))
        yield running, client
        running.parts.admission.close()
        feed.source.touch()


@asynccontextmanager
async def stream(client: Client, query: str = "") -> AsyncIterator[Reader]:
    """A stream of events."""
    async with client.open("GET", f"/events{query}") as request:
        assert await request.head() == 200
        yield Reader(request)


async def next_state(reader: Reader) -> Any:  # noqa: ANN401  (it is JSON)
    """The next snapshot; ended jobs before it are passed over."""
    while (event := await anext(reader)).get("event") != "state":
        pass
    return json.loads(event["data"])


async def test_snapshots_together_say_what_the_pool_route_says(autojump_clock: MockClock) -> None:
    async with served_pool() as (running, client):
        running.submit("sleep", b"1000")
        await trio.sleep(3)
        async with stream(client) as reader:
            first = await begin(reader)
            route = (await client.get("/pool")).json()
            running.parts.pool.executor.cancel(first["slots"][0]["id"])
            running.scope.cancel()

    assert first == route
    assert first["boot"] == running.parts.pool.boot
    assert reader.id == f"{first['boot']}-0"
    assert first["types"]["sleep"]["processing"] == 1
    assert first["slots"][0]["running_seconds"] == 3


async def test_reader_sees_progress_and_perhaps_not_its_message(autojump_clock: MockClock) -> None:
    async with served_pool() as (running, client):
        running.submit("report", b'"page 1"')
        await trio.sleep(1)
        withheld = Client(client._app, extensions={EXTENSION: Access(role=Role.READ)})
        states = []
        async with stream(withheld) as reader, stream(client) as control:
            states += [await begin(each) for each in (reader, control)]
        await trio.sleep(1)
        async with stream(client) as control, stream(withheld) as reader:
            states += [await begin(each) for each in (control, reader)][::-1]
        running.scope.cancel()

    progress = [state["slots"][0]["progress"] for state in states]
    assert [each.get("message") for each in progress] == [None, "page 1"] * 2
    assert {each["done"] for each in progress} == {1}


async def test_idle_pool_shows_a_job_at_once_when_it_begins_and_when_it_ends(
    autojump_clock: MockClock,
) -> None:
    async with served_pool() as (running, client), stream(client) as reader:
        await begin(reader)
        await trio.sleep(20)
        began = trio.current_time()
        job = running.submit("sleep", b"0.6")
        await trio.lowlevel.checkpoint()
        while not (state := await next_state(reader))["slots"]:
            pass
        assert [each["id"] for each in state["slots"]] == [job.id]
        assert trio.current_time() - began <= GAP
        assert (await reader.next("ended"))["jobs"][0]["id"] == job.id
        assert trio.current_time() - began == pytest.approx(0.6)
        assert (await next_state(reader))["busy"] == 0
        # The numbers by type have its end, too, within a second.
        while "types" not in (state := await next_state(reader)):
            pass
        assert state["types"]["sleep"]["outcomes"] == {"succeeded": 1}
        assert trio.current_time() - began <= 0.6 + TICK


async def test_job_that_waits_is_shown_and_so_is_its_next_attempt(
    autojump_clock: MockClock,
) -> None:
    async with served_pool() as (running, client), stream(client) as reader:
        await begin(reader)
        running.submit("snooze", b"30")
        while not (state := await next_state(reader))["waiting"]:
            pass
        assert state["busy"] == 0
        assert trio.current_time() <= GAP
        assert state["pending"] == 1
        states = [await next_state(reader) for _ in range(70)]
        assert 30 < trio.current_time() < 75  # one a second, and those of the moves
        assert all(each["waiting"] == 1 for each in states)
        running.scope.cancel()


@pytest.mark.parametrize("streams", [0, 1, 100])
@pytest.mark.parametrize("seconds", [0, 7.3], ids=["idle", "draining"])
async def test_drain_is_seen_to_its_end_and_ends_at_the_same_moment_with_streams(
    autojump_clock: MockClock, seconds: float, streams: int
) -> None:
    answers: list[list[dict[str, str]]] = []

    async def read(client: Client) -> None:
        async with stream(client) as reader:
            answers.append([event async for event in reader])

    async with trio.open_nursery() as nursery:
        async with served_pool() as (running, client):
            for _ in range(streams):
                nursery.start_soon(read, client)
            await trio.sleep(1)
            if seconds:
                running.submit("sleep", f"{seconds}".encode())
            await trio.sleep(0.1)
        assert trio.current_time() == pytest.approx(1 + max(seconds, 0.1))
    assert trio.current_time() == pytest.approx(1 + max(seconds, 0.1))

    assert len(answers) == streams
    for events in answers:
        assert events[-1] == {"event": "bye", "data": '{"reason":"stopped"}'}
        states = [json.loads(each["data"]) for each in events if each.get("event") == "state"]
        assert (states[-1]["status"], states[-1]["busy"]) == ("shutting down", 0)
        assert states[-1]["types"]["sleep"]["processing"] == 0
        draining = [each for each in states if each["status"] == "shutting down" and each["busy"]]
        # At once, and then a second apart, since nothing changes.
        assert len(draining) == (int(seconds) + 1 if seconds else 0)
        ended = [json.loads(each["data"]) for each in events if each.get("event") == "ended"]
        assert sum(len(each["jobs"]) for each in ended) == bool(seconds)


async def test_ended_jobs_of_a_pool_are_those_of_its_store(autojump_clock: MockClock) -> None:
    async with served_pool() as (running, client), stream(client, "?state=0&outcome=failed") as one:
        await anext(one)
        jobs = [running.submit(each, b"0") for each in ("fail", "sleep", "fail")]
        await trio.sleep(1)
        listed = (await client.get("/jobs?outcome=failed")).json()
        data = await one.next("ended")

    assert data["jobs"] == listed
    assert {each["id"] for each in listed} == {jobs[0].id, jobs[2].id}
