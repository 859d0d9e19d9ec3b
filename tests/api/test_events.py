"""`GET /events`: snapshots of the pool, and ended jobs, over a pool that each test plays itself."""

import json
import logging
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count, pairwise
from typing import Any, Literal

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import assert_problem
from tests.asgi import Client, OpenRequest
from tests.support import NOON, At, HttpSettings, make_job, make_parts
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome
from trio_jobs.access import EXTENSION, Access, Role
from trio_jobs.access_changes import AccessChanges
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.app import create_app
from trio_jobs.api.event_stream import HEARTBEAT
from trio_jobs.api.feed import GAP, MAX_ENDED, TICK, Feed, Summary
from trio_jobs.pool.ended_jobs import KEPT, EndedJobs
from trio_jobs.tokens import TokenTable

Event = dict[str, str]


class Played:
    """The source of a feed, which a test plays."""

    boot = "0a1b2c3d"

    def __init__(self) -> None:
        self.over = trio.Event()
        self.jobs = EndedJobs(lambda: None)
        self.busy = self.pending = 0
        self.snapshots: list[float] = []
        self.per_second: list[tuple[int, int]] = []
        self.broken = False
        self.filler = ""
        self.since = self.jobs.since
        self.next_change = self.jobs.next_change
        self.touch = self.jobs.touch
        self._ids = (f"{n}" for n in count(1))

    @property
    def last(self) -> int:
        return self.jobs.last

    def state(self, *, withheld: bool) -> dict[str, object]:
        if self.broken:
            raise ZeroDivisionError
        self.snapshots.append(trio.current_time())
        state: dict[str, object] = {"busy": self.busy, "pending": self.pending, "ended": self.last}
        return {**state, "filler": self.filler} if self.filler else state

    def summary(self) -> Summary:
        return {"ended_per_second": self.per_second, "types": {"email": {"ended": self.last}}}

    def end(self, number: int = 1, *, type: str = "email", ok: bool = True) -> None:  # noqa: A002
        """Have so many jobs end."""
        ending = Ending(outcome=Outcome.SUCCEEDED, result=b"null")
        if not ok:
            error = JobError(type="ValueError", message="no")
            ending = Ending(outcome=Outcome.FAILED, error=error)
        for _ in range(number):
            self.jobs.note(_ended(next(self._ids), type, ending))

    def end_pool(self) -> None:
        self.over.set()
        self.jobs.touch()


def _ended(job_id: str, type_: str, ending: Ending) -> Job:
    job = replace(make_job(job_id, type=type_), status=JobStatus.COMPLETED, attempts=1)
    return replace(job, started_at=NOON, completed_at=NOON, duration=0.5, ending=ending)


class Streams:
    """The application over a played pool.

    Attributes:
        pool: The pool.
        feed: What its streams send.
        app: The application.
        client: Of the application.
    """

    def __init__(
        self,
        *,
        limit: int = 100,
        changes: AccessChanges | None = None,
        access: Access | None = None,
        payloads: Literal["read", "control"] = "read",
    ) -> None:
        self.pool = Played()
        self.feed = Feed(self.pool)
        http = HttpSettings(max_event_streams=limit, payloads=payloads)
        context = ApiContext(
            pool=make_parts().pool,
            http=http,
            shutdown_retry_after=1,
            access_changes=changes,
            feed=self.feed,
        )
        extensions = {} if access is None else {EXTENSION: access}
        self.app = create_app(context)
        self.client = Client(self.app, extensions=extensions)

    @asynccontextmanager
    async def open(
        self, query: str = "", *, last: str = "", buffer: int = 0
    ) -> AsyncIterator["Reader"]:
        """Open a stream; leaving the block disconnects."""
        headers = {"Last-Event-ID": last} if last else {}
        target = f"/events{query}"
        async with self.client.open("GET", target, headers=headers, buffer=buffer) as request:
            assert await request.head() == 200
            await request.send(b"", last=True)
            yield Reader(request)


class Reader(AsyncIterator[Event]):
    """Takes the answer of a stream apart."""

    def __init__(self, request: OpenRequest) -> None:
        self.request = request
        self.id = ""
        self._text = ""

    async def __anext__(self) -> Event:
        """The next event, a comment among them; its fields, and ``""`` for a comment's text."""
        while "\n\n" not in self._text:
            self._text += (await anext(self.request.pieces())).decode()
        block, _, self._text = self._text.partition("\n\n")
        event: Event = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")
        self.id = event.get("id", self.id)
        return event

    async def next(self, kind: str) -> Any:  # noqa: ANN401  (it is JSON)
        """The data of the next event, which is of this kind."""
        event = await anext(self)
        assert event.get("event") == kind, event
        return json.loads(event["data"])

    async def rest(self) -> list[Event]:
        """All events until the answer is complete."""
        return [event async for event in self]


@pytest.fixture
async def streams() -> Streams:
    """The application over a played pool."""
    return Streams()


async def begin(reader: Reader) -> Any:  # noqa: ANN401  (it is JSON)
    """Read the beginning of a stream; its first snapshot."""
    first = await anext(reader)
    assert first["retry"] == "2000"
    return await reader.next("state")


async def read_all(reader: Reader) -> None:
    """Read a stream for ever."""
    async for _ in reader:
        pass


# Snapshots.


@pytest.mark.parametrize("readers", [1, 5])
@pytest.mark.parametrize(("rate", "a_second"), [(0, 0), (1, 1), (10_000, 4)])
async def test_so_many_changes_a_second_make_so_many_snapshots(
    streams: Streams, autojump_clock: MockClock, rate: int, a_second: int, readers: int
) -> None:
    pool, seconds, steps = streams.pool, 20, max(min(rate, 100), 1)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        for _ in range(readers):
            reader = await stack.enter_async_context(streams.open())
            await begin(reader)
            nursery.start_soon(read_all, reader)
        await trio.sleep(0.6)
        pool.snapshots.clear()
        for _ in range(seconds * steps):
            await trio.sleep(1 / steps)
            pool.end(rate // steps)
        made = pool.snapshots.copy()
        nursery.cancel_scope.cancel()

    assert len(made) in (a_second * seconds, a_second * seconds - 1)
    assert all(later - sooner > 0.999 * GAP for sooner, later in pairwise(made))


async def test_nothing_is_made_while_nobody_looks(
    streams: Streams, autojump_clock: MockClock
) -> None:
    pool = streams.pool
    async with streams.open() as reader:
        await begin(reader)
    made = len(pool.snapshots)
    pool.busy = 1
    for _ in range(100):
        pool.end()
        await trio.sleep(0.1)

    assert len(pool.snapshots) == made
    assert pool.jobs.next_change() is not None


async def test_change_is_sent_at_once_after_a_pause_and_a_gap_later_after_another(
    streams: Streams,
    autojump_clock: MockClock,
) -> None:
    async with streams.open() as reader:
        await begin(reader)
        await trio.sleep(5)
        times = []
        for _ in range(3):
            streams.pool.end()
            await reader.next("ended")
            await reader.next("state")
            times.append(trio.current_time())

    assert [time - times[0] for time in times] == [0, GAP, 2 * GAP]


async def test_change_during_a_send_is_not_forgotten(
    streams: Streams, autojump_clock: MockClock
) -> None:
    async with streams.open() as reader:
        await anext(reader)
        await wait_all_tasks_blocked()  # the first snapshot is made, and on its way
        streams.pool.end()

        assert (await reader.next("state"))["ended"] == 0
        await reader.next("ended")
        assert (await reader.next("state"))["ended"] == 1


@pytest.mark.parametrize("running", [True, False], ids=["running", "pending"])
async def test_while_jobs_run_or_wait_and_nothing_changes_there_is_one_a_second(
    streams: Streams, autojump_clock: MockClock, *, running: bool
) -> None:
    streams.pool.busy, streams.pool.pending = int(running), int(not running)
    async with streams.open() as reader:
        await begin(reader)
        began = trio.current_time()
        for n in range(1, 6):
            await reader.next("state")
            assert trio.current_time() - began == pytest.approx(n * TICK)


async def test_state_has_its_summary_once_a_second_and_after_the_last_change(
    streams: Streams, autojump_clock: MockClock
) -> None:
    pool = streams.pool
    async with streams.open("?outcome=failed") as reader:
        types = [(await begin(reader)).get("types")]
        for _ in range(5):
            pool.end()
            types.append((await reader.next("state")).get("types"))
        assert pool.snapshots[-1] == TICK + GAP
        types.append((await reader.next("state")).get("types"))
        assert trio.current_time() == 2 * TICK

        first, *rest = [each and each["email"]["ended"] for each in types]
        assert (first, rest) == (0, [None, None, None, 4, None, 5])
        assert (await anext(reader)) == {"": "", "id": "0a1b2c3d-5"}


async def test_last_minute_fades_once_a_second_after_the_last_end(
    streams: Streams, autojump_clock: MockClock
) -> None:
    pool = streams.pool
    pool.per_second = [(0, 0), (3, 1)]
    async with streams.open() as reader:
        await begin(reader)
        for n in range(1, 60):
            assert (await reader.next("state"))["ended_per_second"] == [[0, 0], [3, 1]]
            assert trio.current_time() == pytest.approx(n * TICK)
        pool.per_second = [(0, 0), (0, 0)]
        await reader.next("state")
        assert await anext(reader) == {"": "", "id": "0a1b2c3d-0"}  # then there is silence


async def test_summary_that_is_due_within_a_gap_waits_for_its_end(
    streams: Streams, autojump_clock: MockClock
) -> None:
    async with streams.open("?outcome=failed") as reader:
        await begin(reader)
        await trio.sleep(TICK - GAP / 2)
        streams.pool.end()
        assert "types" not in await reader.next("state")

        state = await reader.next("state")

        assert trio.current_time() == TICK + GAP / 2
        assert state["types"] == {"email": {"ended": 1}}
        assert await anext(reader) == {"": "", "id": "0a1b2c3d-1"}


async def test_all_streams_send_the_same_and_a_new_one_gets_the_last_if_it_is_fresh(
    streams: Streams,
    autojump_clock: MockClock,
) -> None:
    pool = streams.pool
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(streams.open()) for _ in range(3)]
        assert [await begin(reader) for reader in readers] == [
            {
                "busy": 0,
                "pending": 0,
                "ended": 0,
                "ended_per_second": [],
                "types": {"email": {"ended": 0}},
            }
        ] * 3
        assert len(pool.snapshots) == 1
        await trio.sleep(0.1)
        pool.end()
        late = await stack.enter_async_context(streams.open())
        assert (await begin(late))["ended"] == 0
        assert len(pool.snapshots) == 1
        for reader in readers:
            await reader.next("ended")
        for reader in (*readers, late):  # the late one's position is behind this job
            assert await reader.next("state") == {"busy": 0, "pending": 0, "ended": 1}
        assert pool.snapshots == [0, GAP]
        await trio.sleep(3)
        latest = await stack.enter_async_context(streams.open())
        await begin(latest)
        assert len(pool.snapshots) == 4  # and one for the summary


async def test_slow_reader_skips_snapshots_and_delays_nobody(
    streams: Streams, autojump_clock: MockClock
) -> None:
    pool = streams.pool
    async with trio.open_nursery() as nursery, streams.open() as slow, streams.open() as quick:
        await begin(slow)
        await begin(quick)
        nursery.start_soon(read_all, quick)
        await trio.sleep(1.1 * GAP)
        for _ in range(100):
            pool.end(5)
            await trio.sleep(GAP)
        made = len(pool.snapshots)
        await slow.next("ended")
        assert (await slow.next("state"))["ended"] == 5

        ended = await slow.next("ended")
        state = await slow.next("state")
        nursery.cancel_scope.cancel()

    assert made > 90
    assert state["ended"] == 500
    assert (len(ended["jobs"]), ended["missed"]) == (MAX_ENDED, 500 - 5 - MAX_ENDED)
    assert [job["id"] for job in ended["jobs"]] == [f"{n}" for n in range(501 - MAX_ENDED, 501)]


async def test_heartbeat_after_15_seconds_of_silence(
    streams: Streams, autojump_clock: MockClock
) -> None:
    async with streams.open("?state=0") as reader:
        first = await anext(reader)
        began = trio.current_time()
        beats = [(await anext(reader), trio.current_time() - began) for _ in range(2)]
        await trio.sleep(5)
        streams.pool.end()
        await reader.next("ended")
        at = trio.current_time()
        last = await anext(reader)

    assert first == {"retry": "2000", "id": "0a1b2c3d-0"}
    beat = {"": "", "id": "0a1b2c3d-0"}
    assert beats == [(beat, HEARTBEAT), (beat, 2 * HEARTBEAT)]
    assert (last, trio.current_time() - at) == ({"": "", "id": "0a1b2c3d-1"}, HEARTBEAT)


# Ended jobs.


async def test_ended_jobs_come_as_in_lists(streams: Streams, autojump_clock: MockClock) -> None:
    async with streams.open("?state=0") as reader:
        await anext(reader)
        streams.pool.end(ok=False)

        data = await reader.next("ended")

    noon = "2026-11-25T12:00:00.000000Z"
    times = dict.fromkeys(("created_at", "started_at", "completed_at"), noon)
    job = {"id": "1", "type": "email", "status": "completed", "duration": 0.5, "attempts": 1}
    error = {"type": "ValueError", "message": "no"}
    assert data == {
        "missed": 0,
        "jobs": [{**job, **times, "outcome": "failed", "error": error}],
    }
    assert reader.id == "0a1b2c3d-1"


async def test_reader_from_whom_messages_are_withheld_sees_none(autojump_clock: MockClock) -> None:
    streams = Streams(access=Access(role=Role.READ), payloads="control")
    control = Streams(access=Access(role=Role.CONTROL), payloads="control")
    errors = []
    for each in (streams, control):
        async with each.open("?state=0") as reader:
            await anext(reader)
            each.pool.end(ok=False)
            [job] = (await reader.next("ended"))["jobs"]
            errors.append((job["error"], job.get("withheld", False)))

    assert errors == [
        ({"type": "ValueError"}, True),
        ({"type": "ValueError", "message": "no"}, False),
    ]


async def test_stream_without_state_gets_every_job_and_makes_no_snapshot(
    streams: Streams, autojump_clock: MockClock
) -> None:
    pool = streams.pool
    async with streams.open("?state=0") as reader:
        await anext(reader)
        got: list[str] = []
        for _ in range(4):
            pool.end(250)
            while len(got) < pool.last:
                data = await reader.next("ended")
                assert data["missed"] == 0
                assert 0 < len(data["jobs"]) <= MAX_ENDED
                got += [job["id"] for job in data["jobs"]]
                assert reader.id == f"0a1b2c3d-{len(got)}"

    assert got == [f"{n}" for n in range(1, 1001)]
    assert pool.snapshots == []


async def test_slow_reader_without_state_learns_how_many_the_ring_has_lost(
    streams: Streams,
    autojump_clock: MockClock,
) -> None:
    async with streams.open("?state=0") as reader:
        await anext(reader)
        streams.pool.end(KEPT + 300)

        data = await reader.next("ended")

    assert data["missed"] == 300
    assert data["jobs"][0]["id"] == "301"
    assert reader.id == f"0a1b2c3d-{300 + MAX_ENDED}"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("type=email", {"email ok", "email bad"}),
        ("type=email&type=sms", {"email ok", "email bad", "sms ok", "sms bad"}),
        ("outcome=failed", {"email bad", "sms bad", "push bad"}),
        ("outcome=failed&type=sms&outcome=timed_out", {"sms bad"}),
        ("outcome=succeeded&type=push&state=1", {"push ok"}),
    ],
)
async def test_types_and_outcomes_filter_ended_jobs(
    streams: Streams, autojump_clock: MockClock, query: str, wanted: set[str]
) -> None:
    async with streams.open(f"?{query}&state=0" if "state" not in query else f"?{query}") as reader:
        await anext(reader)
        for type_ in ("email", "sms", "push"):
            for ok in (True, False):
                streams.pool.end(type=type_, ok=ok)
        while (event := await anext(reader)).get("event") != "ended":
            pass
        data = json.loads(event["data"])

    words = {"succeeded": "ok", "failed": "bad"}
    assert {f"{job['type']} {words[job['outcome']]}" for job in data["jobs"]} == wanted
    assert data["missed"] == 0


async def test_jobs_that_a_client_does_not_want_move_its_position(
    streams: Streams, autojump_clock: MockClock
) -> None:
    async with streams.open("?state=0&type=sms") as reader:
        await anext(reader)
        streams.pool.end(7)
        assert await anext(reader) == {"": "", "id": "0a1b2c3d-7"}
        streams.pool.end(type="sms")
        streams.pool.end(2)
        assert len((await reader.next("ended"))["jobs"]) == 1

    assert reader.id == "0a1b2c3d-10"


# Resuming.


async def resumed(streams: Streams, last: str, query: str = "?state=0") -> list[Event]:
    """The events of a stream that begins so, until the pool ends."""
    async with streams.open(query, last=last) as reader:
        streams.pool.end_pool()
        return await reader.rest()


@pytest.mark.parametrize("behind", [0, 1, MAX_ENDED, MAX_ENDED + 1, KEPT - 1, KEPT])
async def test_resume_within_the_ring_misses_nothing(
    streams: Streams, autojump_clock: MockClock, behind: int
) -> None:
    streams.pool.end(KEPT + 500)
    last = KEPT + 500 - behind

    first, *ended, bye = await resumed(streams, f"0a1b2c3d-{last}")

    jobs = [job["id"] for event in ended for job in json.loads(event["data"])["jobs"]]
    assert jobs == [f"{n}" for n in range(last + 1, KEPT + 501)]
    assert {json.loads(event["data"])["missed"] for event in ended} <= {0}
    assert first == {"retry": "2000", "id": f"0a1b2c3d-{last}"}
    assert bye["event"] == "bye"


@pytest.mark.parametrize("beyond", [1, 7, 500])
async def test_resume_beyond_the_ring_counts_what_is_lost(
    streams: Streams, autojump_clock: MockClock, beyond: int
) -> None:
    streams.pool.end(KEPT + 500)

    _, first, *rest, _ = await resumed(streams, f"0a1b2c3d-{500 - beyond}")

    assert json.loads(first["data"])["missed"] == beyond
    assert len(rest) == math.ceil(KEPT / MAX_ENDED) - 1


async def test_resume_with_state_has_the_last_jobs_and_their_number(
    streams: Streams, autojump_clock: MockClock
) -> None:
    streams.pool.end(100)

    _, ended, state, bye = await resumed(streams, "0a1b2c3d-10", "")

    data = json.loads(ended["data"])
    assert (len(data["jobs"]), data["missed"]) == (MAX_ENDED, 90 - MAX_ENDED)
    assert state["event"] == "state"
    assert state["id"] == "0a1b2c3d-100"
    assert bye["event"] == "bye"


@pytest.mark.parametrize(
    "last",
    [
        "ffffffff-3",
        "0a1b2c3d-11",
        "0a1b2c3d-99999999999999999999999",
        "0a1b2c3d-" + "9" * 5000,
        "0a1b2c3d-",
        "0a1b2c3d--1",
        "0a1b2c3d-\xb2",
        "0a1b2c3d",
        "-3",
        "garbage",
        "\xff",
    ],
)
async def test_id_of_another_start_or_garbage_is_a_reset(
    streams: Streams, autojump_clock: MockClock, last: str
) -> None:
    streams.pool.end(10)

    reset, first, bye = await resumed(streams, last)

    assert reset == {"event": "reset", "data": "{}"}
    assert first == {"retry": "2000", "id": "0a1b2c3d-10"}
    assert bye["event"] == "bye"


async def test_stream_that_resumes_nothing_begins_now(
    streams: Streams, autojump_clock: MockClock
) -> None:
    streams.pool.end(10)

    first, bye = await resumed(streams, "")

    assert first["id"] == "0a1b2c3d-10"
    assert bye["event"] == "bye"


# The end.


async def test_streams_end_with_bye_when_the_pool_has_ended(
    streams: Streams, autojump_clock: MockClock
) -> None:
    pool = streams.pool
    pool.busy = 1
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(streams.open()) for _ in range(20)]
        programs = [await stack.enter_async_context(streams.open("?state=0")) for _ in range(3)]
        for reader in readers:
            await begin(reader)
        await trio.sleep(0.1)
        pool.end(3)
        await trio.sleep(0.1)  # all wait for the gap to end
        pool.end(2)
        pool.busy = 0
        pool.end_pool()
        rests = [await reader.rest() for reader in readers]
        others = [await reader.rest() for reader in programs]

        assert trio.current_time() == pytest.approx(0.2)

    for ended, state, bye in rests:
        assert len(json.loads(ended["data"])["jobs"]) == 5
        assert json.loads(state["data"]) == {
            "busy": 0,
            "pending": 0,
            "ended": 5,
            "ended_per_second": [],
            "types": {"email": {"ended": 5}},
        }
        assert bye == {"event": "bye", "data": '{"reason":"stopped"}'}
    for _, ended, bye in others:
        assert len(json.loads(ended["data"])["jobs"]) == 5
        assert bye["event"] == "bye"
    assert len(pool.snapshots) == 2
    assert streams.feed.streams == 0


async def test_stream_of_an_ended_pool_has_its_state_and_bye(
    streams: Streams, autojump_clock: MockClock
) -> None:
    streams.pool.end_pool()
    async with streams.open() as reader:
        await begin(reader)
        [bye] = await reader.rest()

    assert bye["event"] == "bye"


async def test_client_that_leaves_is_noticed_while_nothing_happens(
    streams: Streams, autojump_clock: MockClock
) -> None:
    async with streams.open() as reader:
        await begin(reader)
        await trio.sleep(100)
        assert streams.feed.streams == 1
        at = trio.current_time()

    assert streams.feed.streams == 0
    assert trio.current_time() == at


async def test_client_that_only_stops_sending_gets_a_whole_answer(
    streams: Streams, autojump_clock: MockClock
) -> None:
    async with streams.open() as reader:
        await begin(reader)
        reader.request.stop_sending()

        assert await reader.rest() == []


async def test_stream_leaves_nothing_whatever_step_it_is_cancelled_at(
    streams: Streams, autojump_clock: MockClock
) -> None:
    pool = streams.pool

    async def stream(scope: trio.CancelScope) -> None:
        with scope:
            async with streams.open() as reader:
                await begin(reader)
                pool.end(30)
                await reader.next("ended")
                await reader.next("state")
                await anext(reader)  # the summary
                await anext(reader)  # the heartbeat

    with At(0, lambda: None) as at:
        await stream(trio.CancelScope())
    assert at.steps > 20
    for step in range(1, at.steps + 1):
        async with streams.open() as other:
            await begin(other)
            scope = trio.CancelScope()
            with At(step, scope.cancel):
                await stream(scope)
            assert streams.feed.streams == 1
            while (await anext(other)).get("event"):
                pass  # what has happened; then there is silence

    assert streams.feed.streams == 0


async def test_client_that_leaves_at_any_step_leaves_nothing(
    streams: Streams, autojump_clock: MockClock
) -> None:
    pool = streams.pool

    async def stream(step: int) -> int:
        async with streams.open() as reader:
            with At(step, reader.request.hang_up) as at, suppress(trio.ClosedResourceError):
                await begin(reader)
                pool.end(30)
                await reader.next("ended")
                await reader.next("state")
                await anext(reader)
                await anext(reader)
        assert streams.feed.streams == 0
        return at.steps

    steps = await stream(0)
    for step in range(1, steps + 1):
        await stream(step)


async def test_client_that_loses_its_access_is_told_so(autojump_clock: MockClock) -> None:
    reader_access = Access(role=Role.READ, fingerprint=b"reader")
    other_access = Access(role=Role.READ, fingerprint=b"other")
    tokens = TokenTable([(reader_access, b""), (other_access, b"")])
    changes = AccessChanges(lambda: tokens)
    streams = Streams(changes=changes, access=reader_access)
    async with AsyncExitStack() as stack:
        idle, slow, waiting, program = [
            await stack.enter_async_context(streams.open(query))
            for query in ("", "", "", "?state=0")
        ]
        for reader in (idle, slow, waiting):
            await begin(reader)
        await anext(program)
        changes.note()  # of a token that is not theirs
        await trio.sleep(1)
        streams.pool.end()
        await program.next("ended")
        for reader in (idle, waiting):
            await reader.next("ended")
            await reader.next("state")
        streams.pool.end()  # for `waiting` and `idle` the gap goes on
        await wait_all_tasks_blocked()
        at = trio.current_time()

        tokens = TokenTable([(other_access, b"")])
        changes.note()
        rests = [await reader.rest() for reader in (idle, waiting, program)]
        await slow.next("ended")  # it is in the middle of this one
        await slow.next("state")
        rests.append(await slow.rest())

        assert trio.current_time() == at
    bye = {"event": "bye", "data": '{"reason":"access_lost"}'}
    assert rests == [[bye]] * 4
    assert streams.feed.streams == 0


# Faults.


async def test_bug_in_a_snapshot_is_logged_once_and_ends_the_streams(
    streams: Streams, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    pool = streams.pool
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(streams.open()) for _ in range(3)]
        program = await stack.enter_async_context(streams.open("?state=0"))
        await anext(program)
        for reader in readers:
            await begin(reader)
        pool.broken = True
        pool.end()
        rests = [await reader.rest() for reader in readers]
        refused = await streams.client.get("/events")
        await program.next("ended")
        errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
        pool.broken = False
        async with streams.open() as again:
            await begin(again)

    assert rests == [[]] * 3
    assert_problem(refused, 500)
    assert [each.message for each in errors] == ["feed_failed"]
    assert errors[0].exc_info
    assert streams.feed.streams == 0


# What a client may ask for.


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("status=pending", "unknown query parameter 'status'; known: type, outcome, state"),
        ("outcome=bad", "outcome must be one of"),
        ("type=", "type must not be empty"),
        ("state=2", "state must be 0 or 1, got '2'"),
        ("state=", "state must be 0 or 1, got ''"),
        ("state=0&state=0", "query parameter 'state' is repeated"),
        ("%ff=1", "the query string cannot be read"),
    ],
)
async def test_bad_parameters_are_refused(
    streams: Streams, autojump_clock: MockClock, query: str, detail: str
) -> None:
    answer = await streams.client.get(f"/events?{query}")

    assert assert_problem(answer, 400)["detail"].startswith(detail)


async def test_headers_say_that_nobody_may_keep_or_hold_back_the_answer(
    streams: Streams, autojump_clock: MockClock
) -> None:
    head = await streams.client.request("HEAD", "/events")
    streams.pool.end_pool()
    whole = await streams.client.get("/events")

    for answer in (head, whole):
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-store"
        assert "content-length" not in answer.headers
    assert head.body == b""
    assert streams.feed.streams == 0


async def test_streams_beyond_the_limit_are_refused(autojump_clock: MockClock) -> None:
    streams = Streams(limit=2)
    async with streams.open() as first:
        await begin(first)
        async with streams.open("?state=0"):
            answer = await streams.client.get("/events")
            head = await streams.client.request("HEAD", "/events")
        async with streams.open():
            pass

    problem = assert_problem(answer, 503)
    assert problem["detail"] == "2 streams of events are open already; try again in 10 s"
    assert problem["retry_after"] == 10
    assert answer.headers["retry-after"] == head.headers["retry-after"] == "10"


async def test_no_more_streams_open_at_the_same_moment_than_the_limit(
    autojump_clock: MockClock,
) -> None:
    streams = Streams(limit=3)
    statuses: list[int] = []

    async def open_one() -> None:
        async with streams.client.open("GET", "/events") as request:
            statuses.append(await request.head())
            await trio.sleep(60)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(open_one)

    assert sorted(statuses) == [200] * 3 + [503] * 7


@pytest.mark.parametrize("observed", [True, False])
async def test_server_without_events_says_so(
    streams: Streams, autojump_clock: MockClock, *, observed: bool
) -> None:
    context = ApiContext(
        pool=make_parts().pool,
        http=HttpSettings(max_event_streams=0 if observed else 100),
        shutdown_retry_after=1,
        feed=streams.feed if observed else None,
    )

    answer = await Client(create_app(context)).get("/events")

    detail = "http.max_event_streams is 0" if observed else "it does not count its jobs"
    assert assert_problem(answer, 404)["detail"] == f"this server has no /events: {detail}"


async def test_body_of_a_request_is_dropped(streams: Streams, autojump_clock: MockClock) -> None:
    async with streams.client.open("GET", "/events") as request:
        await request.head()
        for _ in range(5):
            await request.send(b"x" * 1000)
        reader = Reader(request)
        await begin(reader)
        streams.pool.end()
        await reader.next("ended")
