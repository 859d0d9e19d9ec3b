"""A pipe: one request whose body and answer flow at the same time.

The clock jumps in the tests about pauses; see ``blocked.py``.
"""

import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support import Problem
from trio_jobs.server.pause import Pause
from trio_jobs.server.request_head import SHORT_BODY
from trio_jobs.server.tls import load_certificate

from .blocked import door, open_client, pass_time, send_at_once
from .serving import (
    START,
    Client,
    Receive,
    Scope,
    Send,
    Served,
    body_of,
    get,
    http_only,
    part,
    post,
    served,
)
from .test_time_limits import read
from .test_tls import CERTIFICATE, KEY, connect

CHUNKED = "Transfer-Encoding: chunked"
PIPE = get("/", CHUNKED, method="POST")
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Pipes:
    """Answers each piece of the body with its length, or with so many bytes.

    Two tasks serve a POST: one reads, the other sends.

    Attributes:
        patience: The method of each request, and the kernel's limit meanwhile, in milliseconds.
    """

    def __init__(self, *, answer_size: int = 0) -> None:
        self._answer_size = answer_size
        self.patience: list[tuple[str, int]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        http = body_of(scope)._http
        assert http.transport.pause is None
        if scope["method"] == "POST":
            await body_of(scope).open_pipe(idle_timeout=30)
        if http.client is not None:
            timeout = http.transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            self.patience.append((scope["method"], timeout))
        await send(START)
        await send(part(b"\n", more=True))
        pieces, answers = trio.open_memory_channel[bytes](2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take, receive, pieces)
            async for each in answers:
                await send(part(bytes(self._answer_size) or b"%d\n" % len(each), more=True))
        await send(part(b"end\n"))

    async def _take(self, receive: Receive, pieces: trio.MemorySendChannel[bytes]) -> None:
        async with pieces:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                more = message["more_body"]
                if message["body"]:
                    await pieces.send(message["body"])


@asynccontextmanager
async def pipe_server(
    app: Any,  # noqa: ANN401 - ASGI applications have many types
    *,
    tls: bool = False,
    **options: Any,  # noqa: ANN401 - settings
) -> AsyncIterator[Served]:
    context = load_certificate(CERTIFICATE, KEY) if tls else None
    async with served(app, tls=context, **options) as server:
        yield server


async def receive_head(client: Client) -> bytes:
    return await client._until(b"\r\n\r\n")


async def receive_piece(client: Client) -> bytes:
    """The next chunk of an answer."""
    length = int((await client._until(b"\r\n")), 16)
    piece = await client._exactly(length)
    await client._exactly(2)
    return piece


@pytest.mark.parametrize("tls", [False, True])
async def test_each_piece_of_the_body_is_answered_before_the_client_sends_the_next(
    *, tls: bool
) -> None:
    async with pipe_server(Pipes(), tls=tls) as server:
        client = await (connect(server) if tls else server.connect())
        await client.send(PIPE)
        head = await receive_head(client)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection" not in head.lower()
        assert await receive_piece(client) == b"\n"
        for size in (1, 10, 60_000):
            await client.send(chunk(bytes(size)))
            taken = 0
            while taken < size:
                taken += int(await receive_piece(client))
        await client.send(END)

        assert await receive_piece(client) == b"end\n"
        assert await receive_piece(client) == b""
        assert (await client.request(get())).status == 200  # over the same connection


async def test_a_client_that_waits_for_permission_gets_it_before_the_head() -> None:
    async with pipe_server(Pipes()) as server:
        client = await server.connect()
        await client.send(get("/", CHUNKED, "Expect: 100-continue", method="POST"))

        assert await receive_head(client) == b"HTTP/1.1 100 "
        assert (await receive_head(client)).startswith(b"HTTP/1.1 200 ")
        await client.send(chunk(b"abc") + END)
        assert await receive_piece(client) == b"\n"
        assert await receive_piece(client) == b"3\n"
        assert await receive_piece(client) == b"end\n"


@pytest.mark.parametrize("length", [0, 10, SHORT_BODY, 3 * SHORT_BODY])
async def test_a_body_of_known_length_may_be_a_pipe(length: int) -> None:
    async with pipe_server(Pipes()) as server:
        client = await server.connect()
        reply = await client.request(post(bytes(length)))
        again = await client.request(post(bytes(length)))

    for each in reply, again:
        *lines, end = each.body.split()
        assert (sum(map(int, lines)), end) == (length, b"end")


async def test_a_client_of_http_1_0_is_answered_until_the_connection_closes() -> None:
    body = bytes(3 * SHORT_BODY)
    async with pipe_server(Pipes()) as server:
        head = get("/", f"Content-Length: {len(body)}", method="POST", version="1.0")
        reply = await server.request(head + body)

    assert "transfer-encoding" not in reply.headers
    *lines, end = reply.body.split()
    assert (sum(map(int, lines)), end) == (len(body), b"end")


async def test_the_connection_closes_after_so_many_pipes_whose_bodies_had_arrived() -> None:
    async with pipe_server(Pipes(), max_requests_per_connection=2) as server:
        client = await server.connect()
        long = post(bytes(2 * SHORT_BODY))

        replies = [await client.request(post(b"x")), await client.request(long)]
        replies.append(await client.request(post(b"x")))

        # The head of the second one came while its client was sending.
        assert ["connection" in reply.headers for reply in replies] == [False, False, True]
        assert await client.receive_rest() == b""


async def test_an_answer_that_ends_before_the_body_is_complete_and_the_last() -> None:
    @http_only
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await body_of(scope).open_pipe(idle_timeout=30)
        await send(START)
        await send(part(b"end\n"))

    async with pipe_server(app) as server:
        client = await server.connect()
        await client.send(PIPE + chunk(bytes(100)))

        reply = await client.receive_answer()
        assert reply.body == b"end\n"
        assert await client.receive_rest() == b""


async def test_a_client_that_disconnects_before_its_pipe_opens_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, go_on = trio.Event(), trio.Event()

    @http_only
    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        begun.set()
        await go_on.wait()
        await body_of(scope).open_pipe(idle_timeout=30)

    async with pipe_server(app) as server:
        client = await server.connect(get("/", CHUNKED, "Expect: 100-continue", method="POST"))
        await begun.wait()
        client.transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        go_on.set()
        await server.wait_alone()

    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_a_silent_client_of_a_pipe_is_the_applications_to_answer() -> None:
    problems: list[int] = []

    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(scope).open_pipe(idle_timeout=0.1)
        await send(START)
        await send(part(b"\n", more=True))
        try:
            await receive()
        except Problem as problem:
            problems.append(problem.status)
        await send(part(b"end\n"))

    async with pipe_server(app) as server:
        client = await server.connect(PIPE)
        assert (await client.receive_answer()).body == b"\nend\n"

    assert problems == [408]


async def test_a_pipe_sets_its_patience_for_its_own_time_only() -> None:
    app = Pipes()
    async with pipe_server(app, send_timeout=5, pipe_pause_timeout=70) as server:
        client = await server.connect()
        for _ in range(2):
            await client.request(get())
            await client.request(post(b"x"))

    assert app.patience == [("GET", 5000), ("POST", 70_000)] * 2


async def test_pipes_work_over_a_unix_socket(tmp_path: Path) -> None:
    async with served(Pipes(), f"unix:{tmp_path}/s"):
        client = Client(await trio.open_unix_socket(f"{tmp_path}/s"))
        reply = await client.request(PIPE + chunk(b"abc") + END)
        client.close()

    assert reply.body == b"\n3\nend\n"


# Who may read nothing, for how long, by the test's clock.
PATIENCE: dict[str, Any] = {"send_timeout": 5, "pipe_pause_timeout": 600}


@pytest.fixture
def clock(mock_clock: MockClock, caplog: pytest.LogCaptureFixture) -> MockClock:
    caplog.set_level(logging.INFO, "trio_jobs.server")
    return mock_clock


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.proof)], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def complaints(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [
        record.__dict__["reason"]
        for record in caplog.records
        if record.getMessage() == "client_too_slow"
    ]


async def test_a_client_that_pauses_is_left_alone(
    clock: MockClock, caplog: pytest.LogCaptureFixture, *, tls: bool
) -> None:
    """Also while its bytes wait in the server's kernel: it has read before."""
    async with door(Pipes(answer_size=100_000), tls=tls, **PATIENCE) as server:
        client = await open_client(server, tls=tls)
        await client.send(PIPE)
        for _ in range(10):
            await client.send(chunk(b"x"))
            client.ahead(await read(client, 100_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, chunk(b"y" * 9_000) * 500 + END)
            await wait_all_tasks_blocked()
            await pass_time(clock, 30)
            reply = await client.receive_answer()

    assert reply.body.endswith(b"end\n")
    assert complaints(caplog) == []


async def test_a_client_that_has_sent_all_may_begin_to_read_late(
    clock: MockClock, caplog: pytest.LogCaptureFixture, *, tls: bool
) -> None:
    async with door(Pipes(answer_size=10_000_000), tls=tls, **PATIENCE) as server:
        client = await open_client(server, tls=tls)
        send_at_once(client, PIPE + chunk(b"x") + END)
        await wait_all_tasks_blocked()
        await pass_time(clock, 30)
        reply = await client.receive_answer()

    assert len(reply.body) == 1 + 10_000_000 + 4
    assert complaints(caplog) == []


async def test_a_client_that_pauses_for_too_long_is_disconnected(
    clock: MockClock, caplog: pytest.LogCaptureFixture, *, tls: bool
) -> None:
    async with door(Pipes(answer_size=10_000_000), tls=tls, **PATIENCE) as server:
        client = await open_client(server, tls=tls)
        send_at_once(client, PIPE + chunk(b"x") + END)
        await wait_all_tasks_blocked()
        await pass_time(clock, 590)
        assert server.connections() == 1
        while server.connections():
            await pass_time(clock, 1)

    assert complaints(caplog) == ["reads too slowly, or not at all"]


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "unix"])
async def test_a_client_that_sends_and_never_reads_is_disconnected_soon(
    clock: MockClock, caplog: pytest.LogCaptureFixture, *, tls: bool, tcp: bool
) -> None:
    async with door(Pipes(answer_size=100_000), tls=tls, tcp=tcp, **PATIENCE) as server:
        client = await open_client(server, tls=tls)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send_without_reading() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await client.send(PIPE + chunk(b"y" * 9_000) * 10_000 + END)

            await wait_all_tasks_blocked()
            for _ in range(30):
                if server.connections():
                    await pass_time(clock, 1)
            assert server.connections() == 0

    assert complaints(caplog) == ["reads nothing while sending: use slices"]


async def test_an_ordinary_answer_after_a_pipe_has_the_ordinary_patience(
    clock: MockClock, caplog: pytest.LogCaptureFixture, *, tls: bool
) -> None:
    app = Pipes()

    @http_only
    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await app(scope, receive, send)
        else:
            await send(START)
            await send(part(bytes(50_000_000)))

    async with door(either, tls=tls, **PATIENCE) as server:
        client = await open_client(server, tls=tls)
        assert (await client.request(post(b"x"))).body == b"\n1\nend\n"
        await client.send(get())
        await wait_all_tasks_blocked()
        for _ in range(10):
            if server.connections():
                await pass_time(clock, 1)
        assert server.connections() == 0

    assert complaints(caplog) == ["reads too slowly, or not at all"]


async def test_what_a_client_has_taken_before_its_pipe_does_not_count() -> None:
    sent = 1_000_000
    ours, clients = trio.socket.socketpair()
    with ours, clients:
        pause = Pause(ours, lambda: (sent, 0), 600)
        assert not pause.client_only_sends()  # it sends nothing

        await clients.send(b"x")
        assert pause.client_only_sends()
        sent += 262_143
        assert pause.client_only_sends()
        sent += 1
        assert not pause.client_only_sends()  # it has read
