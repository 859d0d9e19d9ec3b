"""`POST /jobs/stream` over the real HTTP server: how long its client may be silent.

The clock jumps where the loop is blocked; see `tests.server.blocked`.
"""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import Api
from tests.api.test_stream import LINE
from tests.server.blocked import door, open_client, pass_time, send_at_once
from tests.server.serving import Client, Served, chunked, get
from tests.support import make_parts, take

UPLOAD = chunked(LINE, LINE, path="/jobs/stream")
START, REST = UPLOAD[:-40], UPLOAD[-40:]  # in the middle of the second line


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    return mock_clock


async def begin(server: Served) -> Client:
    client = await server.connect()
    await client.send(START)
    await wait_all_tasks_blocked()
    return client


async def test_lines_that_come_while_the_loop_is_blocked_are_taken(clock: MockClock) -> None:
    api = Api()
    async with door(api.app, tls=False) as server:
        client = await begin(server)
        await pass_time(clock, 29)
        send_at_once(client, REST)
        clock.jump(1000)

        reply = await client.receive_answer()

    assert (reply.status, reply.json()) == (201, {"accepted": 2})


async def test_time_in_which_the_loop_is_blocked_is_not_the_clients(clock: MockClock) -> None:
    api = Api()
    async with door(api.app, tls=False) as server:
        client = await begin(server)
        await pass_time(clock, 20)
        clock.jump(1000)
        await pass_time(clock, 9)

        assert (await client.request(REST)).json() == {"accepted": 2}


async def test_a_client_that_is_silent_while_the_server_reads_is_refused(clock: MockClock) -> None:
    api = Api()
    async with door(api.app, tls=False) as server:
        client = await begin(server)
        clock.jump(1000)
        await pass_time(clock, 31)

        reply = await client.receive_answer()

    assert (reply.status, reply.json()["accepted"]) == (408, 1)
    assert reply.json()["detail"] == "nothing was received for 30 s"
    assert reply.headers["connection"] == "close"


async def test_a_client_may_be_silent_while_its_lines_wait_for_room(clock: MockClock) -> None:
    api = Api(parts=make_parts(buffer_size=1))
    async with door(api.app, tls=False) as server:
        client = await server.connect()
        await client.send(chunked(LINE, LINE, LINE, path="/jobs/stream")[:-5])
        await pass_time(clock, 100)
        assert len(api.parts.store) == 1

        for _ in range(2):
            take(api.parts)
            await wait_all_tasks_blocked()
        await pass_time(clock, 20)

        assert (await client.request(b"0\r\n\r\n")).json() == {"accepted": 3}


EXPECTS = get("/jobs/stream", "Transfer-Encoding: chunked", "Expect: 100-continue", method="POST")


def chunked_part(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


MUCH = chunked_part(LINE * 1000) * 11


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def begin_much(
    server: Served, head: bytes, much: bytes = MUCH, *, tls: bool = False
) -> Client:
    """A client that sends more than anybody holds ahead, and has read the answers so far."""
    client = await open_client(server, tls=tls)
    await client.send(head)
    if head == EXPECTS:
        assert (await client.receive_answer()).status == 100

    await send_as_taken(server, client, much)
    return client


async def send_as_taken(server: Served, client: Client, data: bytes) -> None:
    """Send as much as the server takes by now, and the rest as it takes it."""

    @server.nursery.start_soon
    async def send() -> None:
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            await client.send(data)

    await wait_all_tasks_blocked()


async def test_a_stream_whose_client_is_gone_ends_although_its_bytes_still_come(
    clock: MockClock, *, tls: bool
) -> None:
    api = Api(parts=make_parts(buffer_size=1))
    async with door(api.app, tls=tls, tcp=True) as server:
        client = await begin_much(server, EXPECTS, tls=tls)
        client.close()
        await pass_time(clock, 0.9)
        assert server.connections() == 1  # nothing shows it

        await pass_time(clock, 1)
        assert server.connections() == 0
    assert len(api.parts.store) == 1


async def test_a_client_that_goes_later_is_found_out_too(clock: MockClock, *, tls: bool) -> None:
    api = Api(parts=make_parts(buffer_size=1))
    async with door(api.app, tls=tls, tcp=True) as server:
        client = await begin_much(server, EXPECTS, tls=tls)
        await pass_time(clock, 8)
        for _ in range(3):
            assert (await client.receive_answer()).status == 100
        client.close()
        await pass_time(clock, 6)
        assert server.connections() == 1

        await pass_time(clock, 3)
        assert server.connections() == 0


async def test_a_client_that_waits_gets_few_interim_answers_and_its_answer(
    clock: MockClock, *, tls: bool
) -> None:
    """Go's net/http fails a request at the sixth. Room appears now and then meanwhile."""
    api = Api(parts=make_parts(buffer_size=1))
    async with door(api.app, tls=tls) as server:
        client = await begin_much(server, EXPECTS, tls=tls)
        for _ in range(100):
            take(api.parts)
            await pass_time(clock, 0.4)
        api.parts.admission.close()
        replies = [await client.receive_answer() for _ in range(5)]

    assert [reply.status for reply in replies] == [100, 100, 100, 100, 503]
    assert replies[-1].json()["accepted"] == len(api.parts.store) == 101


async def test_interim_answers_stay_apart_when_lines_wait_now_and_then(clock: MockClock) -> None:
    """Those that were due while no line waited are not made up for."""
    api = Api(parts=make_parts(buffer_size=1))
    large = chunked_part(LINE.strip() + 9_000 * b" " + b"\n") * 60
    async with door(api.app, tls=False) as server:
        client = await begin_much(server, EXPECTS, large)
        await pass_time(clock, 1.2)
        for _ in range(60):
            take(api.parts)
            await wait_all_tasks_blocked()
        await pass_time(clock, 20)
        await send_as_taken(server, client, large)
        await pass_time(clock, 0.3)
        api.parts.admission.close()
        replies = [await client.receive_answer() for _ in range(3)]

    assert [reply.status for reply in replies] == [100, 100, 503]


async def test_a_client_that_has_not_asked_gets_no_interim_answer(clock: MockClock) -> None:
    api = Api(parts=make_parts(buffer_size=1))
    async with door(api.app, tls=False) as server:
        client = await begin_much(server, EXPECTS.replace(b"Expect", b"X-Expect"), tls=False)
        await pass_time(clock, 20)
        api.parts.admission.close()
        reply = await client.receive_answer()

    assert (reply.status, reply.json()["accepted"]) == (503, 1)
