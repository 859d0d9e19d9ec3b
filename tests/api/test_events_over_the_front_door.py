"""`GET /events` over the HTTP server of the command: slow clients, clients that leave, the stop."""

import json
import logging
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.test_events import Streams
from tests.server.serving import Client, Served, get, served, timeouts
from tests.server.test_tls import CERTIFICATE, KEY
from tests.server.test_tls import connect as connect_by_tls
from tests.support import load_certificate

EVENTS = get("/events")


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    """Whether the connections are encrypted."""
    return bool(request.param)


@pytest.fixture
async def streams() -> Streams:
    """The application over a played pool."""
    return Streams()


def serving(
    streams: Streams,
    *addresses: str,
    tls: bool = False,
    **limits: Any,  # noqa: ANN401 - settings
) -> AbstractAsyncContextManager[Served]:
    """The application, served."""
    context = load_certificate(CERTIFICATE, KEY) if tls else None
    return served(streams.app, *addresses, tls=context, **limits)


async def open_client(server: Served, *, tls: bool) -> Client:
    return await connect_by_tls(server) if tls else await server.connect()


async def read_until(client: Client, text: bytes) -> bytes:
    """What arrives until this has."""
    data = b""
    while text not in data:
        more = await client.stream.receive_some(65536)
        assert more, data
        data += more
    return data


def events_of(body: bytes) -> list[str]:
    """The names of the events in an answer."""
    return [
        line.removeprefix("event: ")
        for line in body.decode().split("\n")
        if line.startswith("event: ")
    ]


async def test_stop_waits_for_the_end_of_each_stream_and_cuts_none(
    streams: Streams, caplog: pytest.LogCaptureFixture, *, tls: bool
) -> None:
    async with serving(streams, tls=tls) as server:
        clients = [await open_client(server, tls=tls) for _ in range(20)]
        for client in clients:
            await client.send(EVENTS)
        await wait_all_tasks_blocked()
        streams.pool.end(3)
        streams.pool.end_pool()
        server.closing.set()
        replies = [await client.receive_answer() for client in clients]
        await server.ended.wait()

    for reply in replies:
        assert reply.status == 200
        assert reply.headers["transfer-encoding"] == "chunked"
        assert events_of(reply.body)[-3:] == ["ended", "state", "bye"]
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_connection_is_good_for_another_request_after_bye(streams: Streams) -> None:
    streams.pool.end_pool()
    async with serving(streams) as server:
        client = await server.connect()
        for _ in range(2):
            reply = await client.request(EVENTS)
            assert events_of(reply.body) == ["state", "bye"]


async def test_old_client_gets_the_events_up_to_the_end_of_the_connection(
    streams: Streams,
) -> None:
    async with serving(streams) as server:
        client = await server.connect(get("/events", version="1.0"))
        await read_until(client, b"event: state")
        streams.pool.end_pool()
        rest = await client.receive_rest()

    assert events_of(rest)[-1] == "bye"


async def test_client_that_leaves_is_noticed_at_once(streams: Streams, *, tls: bool) -> None:
    async with serving(streams, tls=tls) as server:
        client = await open_client(server, tls=tls)
        await client.send(EVENTS)
        await wait_all_tasks_blocked()
        assert streams.feed.streams == 1
        client.close()
        await server.wait_alone()

        assert streams.feed.streams == 0


async def test_client_that_reads_nothing_is_cut_and_the_others_go_on(
    streams: Streams, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Over TCP the kernel has the same limit, and may be first."""
    caplog.set_level(logging.INFO)
    pool = streams.pool
    pool.filler = "x" * 1_000_000  # so that the sockets are full after some snapshots
    limits = {**timeouts(30), "send_timeout": 0.3}
    async with (
        serving(streams, f"unix:{tmp_path}/s", **limits) as server,
        trio.open_nursery() as nursery,
    ):
        slow, quick = await server.connect(), await server.connect()
        for client in (slow, quick):
            await client.send(EVENTS)
        await wait_all_tasks_blocked()
        assert streams.feed.streams == 2

        @nursery.start_soon
        async def change() -> None:
            while streams.feed.streams != 1:  # until the slow one is gone
                pool.end()
                await trio.sleep(0.05)
            pool.end_pool()

        reply = await quick.receive_answer()

    assert events_of(reply.body)[-1] == "bye"
    assert [each.message for each in caplog.records if "slow" in each.message] == [
        "client_too_slow"
    ]


async def test_body_that_breaks_a_limit_ends_the_stream(streams: Streams) -> None:
    async with serving(streams, max_body_bytes=1000) as server:
        client = await server.connect(get("/events", "Transfer-Encoding: chunked"))
        await client.send(b"fff\r\n" + b"x" * 4095 + b"\r\n")

        rest = await client.receive_rest()

    assert rest.startswith(b"HTTP/1.1 200 ")
    assert not rest.endswith(b"0\r\n\r\n")  # a 413 would come too late
    assert streams.feed.streams == 0


async def test_answer_to_head_has_the_headers_alone(streams: Streams) -> None:
    async with serving(streams) as server:
        client = await server.connect(get("/events", method="HEAD"))
        reply = await client.receive_answer(head_only=True)
        again = await client.request(get("/health"))

    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert json.loads(again.body) == {"status": "ok"}
