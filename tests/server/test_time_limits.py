"""Time limits take no answer away, and are not charged while the loop is blocked.

The clock jumps where the loop is blocked; see ``blocked.py``.
"""

import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support import Access
from trio_jobs.server.client_time import ClientTime
from trio_jobs.server.connection import ClientConnection

from .blocked import door, open_client, pass_time, send_at_once
from .serving import (
    AnswerNow,
    Client,
    Fields,
    Receive,
    Scope,
    Send,
    Served,
    answer,
    body_of,
    chunked,
    get,
    now,
    post,
)
from .test_tls import CERTIFICATE

pytestmark = pytest.mark.usefixtures("ways")

LONG = bytes(50_000_000)
# What the log says of clients.
COMPLAINTS = {"client_too_slow", "request_refused", "connection_failed", "connections_cut"}


class Application:
    """Counts the requests that it acts on. ``/flood`` is more than any socket holds."""

    def __init__(self) -> None:
        self.ran = 0
        self.holding = trio.Event()
        self.release = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/lifted":
            body_of(scope).lift(idle_timeout=10)
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.ran += 1
        if scope["path"] == "/hold":
            self.holding.set()
            await self.release.wait()
        await answer(send, LONG if scope["path"] == "/flood" else body)

    def answer_now(
        self, _method: str, target: bytes, _fields: Fields, body: bytes, _access: Access
    ) -> AnswerNow | None:
        if target in {b"/hold", b"/lifted"}:
            return None
        self.ran += 1
        return now(LONG if target == b"/flood" else body)


class BetweenLookAndClock(trio.abc.Instrument):
    """Acts once, where Trio has asked the kernel what has come in, and not yet the clock."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def after_io_wait(self, _timeout: float) -> None:
        trio.lowlevel.remove_instrument(self)
        self._act()


@dataclass
class Stage:
    """An application, a clock that the test moves, and clients that speak TLS or do not.

    A test takes the clock as an argument of its own: pytest-trio looks for it there.
    """

    app: Application
    clock: MockClock
    tls: bool
    caplog: pytest.LogCaptureFixture

    def door(self, **options: Any) -> AbstractAsyncContextManager[Served]:  # noqa: ANN401
        return door(self.app, tls=self.tls, **options)

    async def client(self, server: Served, data: bytes = b"") -> Client:
        """A connection over which so much has been sent."""
        client = await open_client(server, tls=self.tls)
        await client.send(data)
        return client

    async def pass_time(self, seconds: float) -> None:
        await pass_time(self.clock, seconds)

    async def act_at_the_limit(self, act: Callable[[], None]) -> None:
        """Act where 10 s are over by both clocks, within what is charged of one turn."""
        await self.pass_time(9.8)
        self.clock.jump(0.05)
        await wait_all_tasks_blocked()

        def act_and_jump() -> None:
            act()
            self.clock.jump(0.5)

        self.clock.jump(0.09)
        trio.lowlevel.add_instrument(BetweenLookAndClock(act_and_jump))
        await trio.lowlevel.checkpoint()

    def complaints(self) -> list[str]:
        messages = [record.getMessage() for record in self.caplog.records]
        return [message for message in messages if message in COMPLAINTS]


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    return mock_clock


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def stage(
    request: pytest.FixtureRequest, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> Stage:
    caplog.set_level(logging.INFO)
    return Stage(Application(), clock, request.param, caplog)


plain = pytest.mark.parametrize("stage", [False], ids=["plain"], indirect=True)


async def read(client: Client, count: int) -> bytes:
    """So much of what comes, or less at its end."""
    received = bytearray()
    with suppress(trio.BrokenResourceError):
        while len(received) < count and (data := await client.stream.receive_some(16_384)):
            received += data
    return bytes(received)


async def test_requests_that_come_while_the_loop_is_blocked_are_all_answered(
    stage: Stage, clock: MockClock
) -> None:
    """20 connections, idle for 8.5 of their 10 s; then the loop is blocked for 2.5 s."""
    async with stage.door() as server:
        clients = [await stage.client(server) for _ in range(20)]
        for client in clients:
            await client.request(get())
        stage.app.ran = 0
        await stage.pass_time(8.5)

        for client in clients:
            send_at_once(client, post(b"hello"))
        clock.jump(2.5)

        answers = [await client.receive_answer() for client in clients]
        assert [reply.body for reply in answers] == [b"hello"] * 20
        assert stage.app.ran == 20
    assert stage.complaints() == []


async def test_the_idle_time_begins_anew_with_each_request(stage: Stage, clock: MockClock) -> None:
    async with stage.door() as server:
        client = await stage.client(server)
        for _ in range(4):
            assert (await client.request(get())).status == 200
            await stage.pass_time(8.5)
    assert stage.complaints() == []


# What has come in before the loop is blocked, what comes meanwhile, and the answer's body.
HALVES = {
    "first request": (b"", post(b"hello"), b"hello"),
    "head": (b"GET / HT", get()[8:], b""),
    "short body": (post(b"hello")[:-2], b"lo", b"hello"),
    "long body": (post(bytes(100_000))[:-100], bytes(100), bytes(100_000)),
    "chunks": (chunked(b"hello")[:-7], chunked(b"hello")[-7:], b"hello"),
    "lifted body": (post(bytes(100_000), "/lifted")[:-100], bytes(100), bytes(100_000)),
}
halves = pytest.mark.parametrize(("start", "rest", "body"), HALVES.values(), ids=HALVES)


@halves
@pytest.mark.parametrize("blocked", [2.5, 1000.0])
async def test_bytes_that_are_there_beat_a_clock_that_has_run_out(
    stage: Stage, clock: MockClock, start: bytes, rest: bytes, body: bytes, blocked: float
) -> None:
    async with stage.door() as server:
        client = await stage.client(server, start)
        await stage.pass_time(8.5)

        send_at_once(client, rest)
        clock.jump(blocked)

        assert (await client.receive_answer()).body == body
        assert stage.app.ran == 1
    assert stage.complaints() == []


@halves
async def test_bytes_that_come_just_before_the_clock_is_asked_are_seen(
    stage: Stage, clock: MockClock, start: bytes, rest: bytes, body: bytes
) -> None:
    async with stage.door() as server:
        client = await stage.client(server, start)
        await stage.act_at_the_limit(lambda: send_at_once(client, rest))

        assert (await client.receive_answer()).body == body
        assert stage.app.ran == 1


@halves
async def test_time_in_which_the_server_was_not_looking_is_not_the_clients(
    stage: Stage, clock: MockClock, start: bytes, rest: bytes, body: bytes
) -> None:
    """It has come to nothing while the loop was blocked: its time goes on from there."""
    async with stage.door() as server:
        client = await stage.client(server, start)
        await wait_all_tasks_blocked()

        clock.jump(9)
        await stage.pass_time(4)
        clock.jump(1000)
        await stage.pass_time(4)
        await client.send(rest)

        assert (await client.receive_answer()).body == body
        assert stage.app.ran == 1


@halves
async def test_time_in_which_the_server_was_looking_is_the_clients(
    stage: Stage, clock: MockClock, start: bytes, rest: bytes, body: bytes
) -> None:
    async with stage.door() as server:
        await wait_all_tasks_blocked()
        clock.jump(1000)  # a limit that begins after it is no longer for it
        await wait_all_tasks_blocked()
        client = await stage.client(server, start)

        await stage.pass_time(4)
        clock.jump(1000)
        await stage.pass_time(7)

        if start:
            assert (await client.receive_answer()).status == 408
        client.transport.socket.shutdown(trio.socket.SHUT_WR)
        assert await client.receive_rest() == b""
        assert stage.app.ran == 0


async def test_a_client_that_reads_gets_a_long_answer_over_a_loop_that_is_always_blocked(
    stage: Stage,
    clock: MockClock,
) -> None:
    """50 MB; each turn of the loop takes longer than a client may take for 256 KiB."""
    async with stage.door() as server:
        client = await stage.client(server, get("/flood"))
        received = 0
        while received < len(LONG):
            clock.jump(25)
            data = await client.stream.receive_some(1_000_000)
            assert data
            received += len(data)
        await wait_all_tasks_blocked()

        assert stage.app.ran == 1
    assert stage.complaints() == []


@plain
async def test_room_that_is_made_just_before_the_clock_is_asked_is_used(
    stage: Stage, clock: MockClock
) -> None:
    async with stage.door() as server:
        client = await stage.client(server, get("/flood"))

        def read_all() -> None:
            with suppress(BlockingIOError):
                while data := os.read(client.transport.socket.fileno(), 1_000_000):
                    client.ahead(data)

        await stage.act_at_the_limit(read_all)

        assert (await client.receive_answer()).body == LONG
    assert stage.complaints() == []


@pytest.mark.parametrize(("seconds", "cut_off"), [(4, False), (6, True)])
async def test_a_client_that_does_not_read_has_its_time_while_the_server_looks(
    stage: Stage, clock: MockClock, *, seconds: float, cut_off: bool
) -> None:
    async with stage.door() as server:
        client = await stage.client(server, get("/flood"))
        await stage.pass_time(5)
        clock.jump(1000)
        await stage.pass_time(seconds)

        assert (len(await read(client, len(LONG))) < len(LONG)) is cut_off
    assert stage.complaints() == ["client_too_slow"] * cut_off


@pytest.mark.parametrize("stage", [True], ids=["tls"], indirect=True)
async def test_a_handshake_goes_on_after_the_loop_was_blocked(
    stage: Stage, clock: MockClock
) -> None:
    async with stage.door() as server:
        raw = await server.connect()
        await wait_all_tasks_blocked()
        clock.jump(9)
        await stage.pass_time(2)
        clock.jump(1000)
        await stage.pass_time(2)

        context = ssl.create_default_context(cafile=CERTIFICATE)
        stream = trio.SSLStream(raw.stream, context, server_hostname="localhost")
        await stream.do_handshake()
        assert (await Client(stream).request(get())).status == 200


@plain
async def test_an_early_answer_is_not_taken_away_by_a_blocked_loop(
    stage: Stage, clock: MockClock
) -> None:
    """What the client is still sending is read, however late: else a reset destroys the answer."""
    async with stage.door(max_body_bytes=1000, tcp=True) as server:
        for _ in range(5):
            client = await server.connect()
            head = get("/", "Content-Length: 3000000", method="POST")
            await client.send(head)
            await wait_all_tasks_blocked()
            for _ in range(30):
                clock.jump(25)
                await client.send(bytes(100_000))

            assert (await client.receive_answer()).status == 413


# What a connection has done before the stop, and what is in its socket as it comes.
AT_THE_STOP = {
    "first request": (b"", post(b"hello")),
    "next request": (get(), post(b"hello")),
    "half a request": (get(), post(b"hello")[:-2]),
    "half a head": (get(), post(b"hello")[:7]),
}


@pytest.mark.parametrize("lately", [False, True], ids=["before it", "as it comes"])
@pytest.mark.parametrize(("first", "there"), AT_THE_STOP.values(), ids=AT_THE_STOP)
async def test_the_stop_ends_no_connection_with_a_request_in_its_socket(
    stage: Stage,
    clock: MockClock,
    first: bytes,
    there: bytes,
    monkeypatch: pytest.MonkeyPatch,
    *,
    lately: bool,
) -> None:
    finish = ClientConnection.finish

    def send_and_finish(connection: ClientConnection) -> None:
        if lately:
            send_at_once(client, there)
        finish(connection)

    monkeypatch.setattr(ClientConnection, "finish", send_and_finish)
    async with stage.door() as server:
        client = await stage.client(server)
        if first:
            await client.request(first)
        await wait_all_tasks_blocked()
        stage.app.ran = 0

        if not lately:
            send_at_once(client, there)
        server.closing.set()
        await wait_all_tasks_blocked()
        if rest := post(b"hello")[len(there) :]:
            await client.send(rest)

        reply = await client.receive_answer()
        assert reply.body == b"hello"
        assert stage.app.ran == 1
        if lately or rest:
            assert reply.headers["connection"] == "close"
        assert await client.receive_rest() == b""


@plain
async def test_the_stop_reads_what_a_client_has_sent_that_it_has_just_let_in(
    stage: Stage, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task has not had its first step: it is neither idle nor busy."""
    async with stage.door() as server:
        started = ClientConnection.run

        async def run(connection: ClientConnection) -> None:
            if not server.closing.is_set():
                server.closing.set()
                while not connection._context.stopping:
                    await trio.lowlevel.checkpoint()
            await started(connection)

        monkeypatch.setattr(ClientConnection, "run", run)
        client = await server.connect()

        reply = await client.request(post(b"hello"))
        assert (reply.body, reply.headers["connection"]) == (b"hello", "close")
        assert stage.app.ran == 1


async def test_the_stop_leaves_a_request_behind_an_answer_that_promised_to_read_it(
    stage: Stage,
    clock: MockClock,
) -> None:
    """The first answer has begun before the stop, so it could not say that it is the last."""
    async with stage.door() as server:
        client = await stage.client(server, get("/flood") + post(b"hello") + post(b"too much"))
        await wait_all_tasks_blocked()

        server.closing.set()
        await wait_all_tasks_blocked()

        first, second = await client.receive_answer(), await client.receive_answer()
        assert (first.body, "connection" in first.headers) == (LONG, False)
        assert (second.body, second.headers["connection"]) == (b"hello", "close")
        await stage.pass_time(3)  # the server reads on for 2 s: something follows
        assert await client.receive_rest() == b""
        assert stage.app.ran == 2


async def test_the_stop_cuts_nobody_while_the_loop_is_blocked(
    stage: Stage, clock: MockClock
) -> None:
    async with stage.door() as server:
        held, reading = [await stage.client(server) for _ in range(2)]
        await held.send(get("/hold"))
        await reading.send(get("/flood"))
        await stage.app.holding.wait()
        server.closing.set()
        await stage.pass_time(5)

        clock.jump(1000)
        stage.app.release.set()

        assert (await held.receive_answer()).status == 200
        assert (await reading.receive_answer()).body == LONG
        await server.ended.wait()
    assert stage.complaints() == []


async def test_the_stop_is_over_in_time_if_the_loop_is_not_blocked(
    stage: Stage, clock: MockClock
) -> None:
    async with stage.door() as server:
        await stage.client(server, get("/hold"))
        await stage.app.holding.wait()
        server.closing.set()
        await stage.pass_time(5)
        clock.jump(1000)
        await stage.pass_time(6)

        assert server.ended.is_set()
    assert stage.complaints() == ["connections_cut"]


async def test_a_client_that_reads_is_not_cut_off_for_how_slowly_it_reads(
    stage: Stage, clock: MockClock
) -> None:
    """It takes longer than it may take nothing, until the kernel tells of room."""
    async with stage.door() as server:
        client = await stage.client(server, get("/flood"))
        await wait_all_tasks_blocked()
        for _ in range(24):
            client.ahead(await read(client, 30_000))
            await stage.pass_time(3)

        assert (await client.receive_answer()).body == LONG
    assert stage.complaints() == []


async def test_a_client_that_reads_a_bit_now_and_then_does_not_hold_its_connection_for_ever(
    stage: Stage, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each 256 KiB have a time in all, here 15 s, of which it needs 24."""
    monkeypatch.setattr("trio_jobs.server.transport._TIMES_IN_ALL", 1.5)
    async with stage.door() as server:
        client = await stage.client(server, get("/flood"))
        await wait_all_tasks_blocked()
        for _ in range(40):
            if server.connections():
                await read(client, 30_000)
                await stage.pass_time(3)

        assert server.connections() == 0
    assert stage.complaints() == ["client_too_slow"]


# So that not this limit cuts who does not read.
PATIENT: dict[str, Any] = {"send_timeout": 1000, "graceful_timeout": 10}


async def test_the_stop_waits_for_a_client_that_reads(stage: Stage, clock: MockClock) -> None:
    async with stage.door(**PATIENT, last_moment=trio.sleep_forever) as server:
        client = await stage.client(server, get("/flood"))
        await wait_all_tasks_blocked()
        server.closing.set()
        for _ in range(6):
            await stage.pass_time(8)
            client.ahead(await read(client, 300_000))

        assert (await client.receive_answer()).body == LONG
        await server.ended.wait()
    assert stage.complaints() == []


async def test_the_stop_cuts_a_client_that_reads_no_more(stage: Stage, clock: MockClock) -> None:
    """And before it one beside it that has never read."""
    async with stage.door(**PATIENT, last_moment=trio.sleep_forever) as server:
        silent, client = [await stage.client(server) for _ in range(2)]
        for one in silent, client:
            await one.send(get("/flood"))
        await wait_all_tasks_blocked()
        server.closing.set()
        while server.connections() == 2:
            await read(client, 100_000)
            await stage.pass_time(1)
        assert not server.ended.is_set()
        while not server.ended.is_set():
            await stage.pass_time(1)

        assert len(await read(silent, len(LONG))) < len(LONG)
    assert stage.complaints() == ["connections_cut"] * 2


async def test_the_last_moment_cuts_also_a_client_that_reads(
    stage: Stage, clock: MockClock
) -> None:
    moment = trio.Event()
    async with stage.door(**PATIENT, last_moment=moment.wait) as server:
        client = await stage.client(server, get("/flood"))
        await wait_all_tasks_blocked()
        server.closing.set()
        await stage.pass_time(9)
        await read(client, 1_000_000)
        await stage.pass_time(2)
        assert server.connections() == 1

        moment.set()
        await server.ended.wait()
    assert stage.complaints() == ["connections_cut"]


@pytest.fixture
async def time(clock: MockClock) -> AsyncIterator[ClientTime]:
    """The clock by itself, in a loop that turns only when the test says so."""
    time = ClientTime()
    with time.running():
        await wait_all_tasks_blocked()
        yield time


async def test_client_time_is_trios_clock_while_the_loop_turns(
    time: ClientTime, clock: MockClock
) -> None:
    began = time.now()
    await pass_time(clock, 50)

    assert time.now() - began == pytest.approx(50)
    assert time.lag == pytest.approx(0)


@pytest.mark.parametrize("blocked", [0.2, 7.0, 1000.0])
async def test_a_turn_counts_as_a_tenth_of_a_second(
    time: ClientTime, clock: MockClock, blocked: float
) -> None:
    began = time.now()
    clock.jump(blocked)
    assert time.now() - began == pytest.approx(0.1)  # at once
    await wait_all_tasks_blocked()
    assert time.now() - began == pytest.approx(0.1)  # and when the turn is over
    await pass_time(clock, 1)
    assert time.now() - began == pytest.approx(1.1)


async def test_a_wait_that_ends_too_late_counts_as_long_as_it_should_have_been(
    time: ClientTime, clock: MockClock
) -> None:
    """The process was frozen, or a thread has held the interpreter lock."""
    await trio.lowlevel.checkpoint()
    began = time.now()
    time.before_io_wait(3)
    clock.jump(1000)
    time.after_io_wait(3)

    assert time.now() - began == pytest.approx(3.1)


async def test_client_time_never_goes_back(time: ClientTime, clock: MockClock) -> None:
    last = time.now()
    for seconds in (0.0, 0.05, 0.1, 0.15, 30.0, 0.0, 0.1) * 5:
        clock.jump(seconds)
        assert time.now() >= last - 1e-9
        last = time.now()
        await trio.lowlevel.checkpoint()


async def test_a_deadline_is_over_when_both_clocks_say_so(
    time: ClientTime, clock: MockClock
) -> None:
    deadline = time.now() + 5
    clock.jump(100)
    await wait_all_tasks_blocked()
    with time.scope(deadline) as scope:
        await pass_time(clock, 4.8)
    assert not scope.cancel_called
    assert not time.passed(deadline)
    with time.scope(deadline) as scope:
        await pass_time(clock, 0.3)
    assert scope.cancelled_caught
    assert time.passed(deadline)
