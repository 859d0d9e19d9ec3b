"""Clients that send slowly, or do not read, or say nothing: closed in time, nobody else waits."""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from tests.support import Access
from trio_jobs.server.transport import Transport

from .blocked import door, pass_time
from .serving import (
    START,
    AnswerNow,
    Client,
    Fields,
    Receive,
    Scope,
    Send,
    Served,
    answer,
    echo,
    get,
    http_only,
    now,
    part,
    post,
    served,
    timeouts,
)

pytestmark = pytest.mark.usefixtures("ways")

# Only the time of a client that has begun a request is short: a busy machine may let a while pass
# before the first byte.
QUICK = timeouts(0.2) | {"keep_alive_timeout": 1000}
LONG = bytes(50_000_000)


class Flood:
    """Answers ``/flood`` with more than any socket holds."""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answer(send, LONG if scope["path"] == "/flood" else b"x")

    def answer_now(
        self, _method: str, target: bytes, _fields: Fields, _body: bytes, _access: Access
    ) -> AnswerNow | None:
        return now(LONG if target == b"/flood" else b"x")


flood = Flood()


@pytest.mark.parametrize("requests", [0, 1, 2])
async def test_an_idle_connection_is_closed_in_time_also_between_requests(
    requests: int, mock_clock: MockClock
) -> None:
    async with door(echo, tls=False, keep_alive_timeout=10) as server:
        client = await server.connect()
        for _ in range(requests):
            await client.request(get())

        await pass_time(mock_clock, 9)
        assert server.connections() == 1
        await pass_time(mock_clock, 2)
        assert await client.receive_rest() == b""


async def drip(client: Client, data: bytes) -> None:
    """Send a byte now and then, until the server has enough of it."""
    try:
        for start in range(len(data)):
            await client.send(data[start : start + 1])
            await trio.sleep(0.01)
    except trio.BrokenResourceError:
        pass


# What comes at once, and what then comes a byte now and then.
SLOW = {
    "silent headers": (b"GET / HT", b""),
    "dripping target": (b"G", b"ET /" + b"x" * 1000),
    "dripping headers": (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n" * 100),
    "silent body": (post(bytes(100))[:-50], b""),
    "dripping body": (post(bytes(1000))[:-999], bytes(998)),
    "dripping long body": (post(bytes(100_000))[:-99_999], bytes(1000)),
    "dripping chunks": (
        get("/", "Transfer-Encoding: chunked", method="POST"),
        b"1\r\nx\r\n" * 100,
    ),
}


@pytest.mark.parametrize("first", [b"", get()], ids=["first request", "second request"])
@pytest.mark.parametrize(("start", "drops"), SLOW.values(), ids=SLOW.keys())
async def test_a_slow_request_is_a_408_and_the_connection_closes(
    first: bytes, start: bytes, drops: bytes
) -> None:
    async with served(echo, **QUICK) as server, trio.open_nursery() as nursery:
        client = await server.connect()
        if first:
            await client.request(first)
        await client.send(start)
        nursery.start_soon(drip, client, drops)

        reply = await client.receive_answer()

        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert reply.json()["detail"].endswith("did not arrive in time")
        nursery.cancel_scope.cancel()


async def test_a_client_that_pipelines_and_does_not_read_is_closed() -> None:
    async with served(flood, **QUICK) as server:
        client = await server.connect()

        with pytest.raises(trio.BrokenResourceError):
            await client.send(get() * 1_000_000)


async def test_a_client_that_does_not_take_its_refusal_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send_all = Transport.send_all

    async def find_the_socket_full(transport: Transport, data: bytes) -> None:
        """Stands for answers before this one that have filled the socket up to the last byte."""
        with suppress(BlockingIOError):
            for _ in range(10_000):
                transport._sock.send(bytes(65_536))
        await send_all(transport, data)

    monkeypatch.setattr(Transport, "send_all", find_the_socket_full)
    monkeypatch.setattr("trio_jobs.server.connection._LINGER_SECONDS", 0.1)
    async with served(echo, **QUICK) as server:
        await server.connect(b"NONSENSE\r\n\r\n")

        await server.wait_alone()


async def test_a_client_that_does_not_go_on_after_an_early_answer_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it still sends is read, so that the answer reaches it; but not for ever."""
    monkeypatch.setattr("trio_jobs.server.connection._LINGER_SECONDS", 0.1)
    async with served(echo, max_body_bytes=1000) as server:
        client = await server.connect()
        reply = await client.request(get("/", "Content-Length: 5000000", method="POST"))

        assert reply.status == 413
        await server.wait_alone()


@pytest.mark.parametrize("notices", [True, False])
async def test_a_cut_off_client_cancels_what_answers_it(
    mock_clock: MockClock, *, notices: bool
) -> None:
    ended = trio.Event()

    @http_only
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        try:
            with suppress(OSError):
                while True:
                    await send(part(LONG, more=True))
            if not notices:
                await trio.sleep_forever()
        finally:
            ended.set()

    async with door(app, tls=False) as server:
        await server.connect(get())
        await pass_time(mock_clock, 11)

        assert ended.is_set()


async def test_a_client_that_leaves_frees_its_descriptor_at_once() -> None:
    async with served(echo) as server:
        clients = [await server.connect() for _ in range(20)]
        for client in clients:
            await client.request(get())

        for client in clients:
            client.close()

        await server.wait_alone()


@pytest.mark.proof
async def test_slow_clients_of_every_kind_hold_up_nobody() -> None:
    """There are 80 of them, and requests on fresh connections meanwhile."""
    starts = [b"", b"GET / HTTP/1.1\r\n", post(bytes(100))[:-50], post(bytes(100))[:-99]]
    drops = [b"", b"X: y\r\n" * 100, b"", bytes(90)]

    async def be_slow(server: Served, start: bytes, drops: bytes) -> None:
        client = await server.connect()
        if start:
            await client.send(start)
        await drip(client, drops)
        rest = await client.receive_rest()
        client.close()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")

    async with served(flood, **timeouts(1)) as server, trio.open_nursery() as nursery:
        for start, more in zip(starts, drops, strict=True):
            for _ in range(20):
                nursery.start_soon(be_slow, server, start, more)
        for _ in range(5):
            await server.connect(get("/flood"))

        for _ in range(20):
            with trio.fail_after(30):  # normally a few milliseconds
                assert (await server.request(post(b"x"))).status == 200
