"""`POST /jobs/pipe` over the HTTP server of the command: clients that hang up, in every state.

The clock jumps; see `tests.server.blocked`.
"""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.piping import PIPE, line
from tests.api.support import Api, handlers_of
from tests.server.blocked import door, open_client, pass_time
from tests.server.serving import Client, Served, get
from tests.support import make_parts, start_pool

HEAD = get(PIPE, "Transfer-Encoding: chunked", method="POST")
END = b"0\r\n\r\n"
# Longer than two heartbeats: the first is answered by a reset, the second meets it.
LONG = 40


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunks(*texts: bytes) -> bytes:
    return b"".join(map(chunk, texts))


# The jobs 1 and 3 have no key; 2 and 4 have one.
LINES = chunks(line(1), line(2, key="b"), line(3), line(4, key="d"))


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    return mock_clock


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.proof)], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@dataclass
class Stage:
    """A server whose jobs hold until they are released.

    Attributes:
        began: The payload of each attempt.
    """

    api: Api
    server: Served
    tls: bool
    release: trio.Event
    began: list[object] = field(default_factory=list)

    async def client(self, data: bytes) -> Client:
        """One that has sent so much; the server has done what it can."""
        client = await open_client(self.server, tls=self.tls)
        await client.send(data)
        await wait_all_tasks_blocked()
        return client

    async def jobs(self) -> dict[Any, dict[str, Any]]:
        """The jobs as they are now, by their payloads."""
        listed = msgspec.json.decode((await self.api.client.get("/jobs?limit=1000")).body)
        jobs = [await self.api.client.get(f"/jobs/{job['id']}") for job in listed]
        return {job["payload"]: job for job in (msgspec.json.decode(each.body) for each in jobs)}

    async def assert_only_keyed_jobs_go_on(self) -> None:
        """The rest is cancelled; nothing of the pipe is left."""
        assert self.server.connections() == 0
        assert not self.api.parts.pool.waiters.calls
        before = await self.jobs()
        # A job that waits for a worker is cancelled when its turn comes.
        assert all("outcome" not in job for number, job in before.items() if number % 2 == 0)
        assert all("outcome" in job for n, job in before.items() if n % 2 and "started_at" in job)

        self.release.set()
        await wait_all_tasks_blocked()
        outcomes = {number: job["outcome"] for number, job in (await self.jobs()).items()}
        assert outcomes == {n: ("succeeded", "cancelled")[n % 2] for n in before}


@asynccontextmanager
async def staged(
    *, tls: bool = False, workers: int = 2, buffer_size: int = 100, **limits: object
) -> AsyncIterator[Stage]:
    release = trio.Event()

    async def hold(payload: object) -> object:
        stage.began.append(payload)
        await release.wait()
        return payload

    handlers = handlers_of({"email": hold})
    parts = make_parts(handlers, workers=workers, buffer_size=buffer_size)
    api = Api(parts=parts)
    async with parts.pool.places.open(), trio.open_nursery() as nursery:
        start_pool(parts, nursery)
        async with door(api.app, tls=tls, tcp=True, **limits) as server:
            stage = Stage(api, server, tls, release)
            yield stage
        release.set()
        parts.admission.close()


def hang_up(client: Client, *, reset: bool) -> None:
    """As a client's end does: by a FIN, or by an RST if something was unread."""
    if reset:
        client.transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# What a client has sent when it hangs up.
SENT = {
    "half a head": HEAD[:-2],
    "a head": HEAD,
    "half a line": HEAD + LINES + chunk(line(5))[:-20],
    "lines": HEAD + LINES,
    "half the end": HEAD + LINES + END[:-2],
    "all": HEAD + LINES + END,
}


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize(
    "buffer_size",
    [pytest.param(2, marks=pytest.mark.proof), 100],
    ids=["lines wait", "all are in"],
)
@pytest.mark.parametrize("sent", SENT.values(), ids=SENT.keys())
async def test_hang_up_cancels_the_jobs_without_a_key(
    sent: bytes, buffer_size: int, clock: MockClock, *, reset: bool, tls: bool
) -> None:
    async with staged(tls=tls, workers=1, buffer_size=buffer_size) as stage:
        client = await stage.client(sent)
        hang_up(client, reset=reset)
        await pass_time(clock, LONG)

        await stage.assert_only_keyed_jobs_go_on()


@pytest.mark.parametrize("sent", [SENT["half a line"], SENT["lines"]])
async def test_end_of_the_connection_in_the_middle_of_the_body_is_noticed_at_once(
    sent: bytes, clock: MockClock, *, tls: bool
) -> None:
    async with staged(tls=tls) as stage:
        client = await stage.client(sent)
        hang_up(client, reset=False)
        await pass_time(clock, 0.5)

        await stage.assert_only_keyed_jobs_go_on()


async def test_client_whose_lines_fill_everything_is_noticed_by_the_second_heartbeat(
    clock: MockClock, *, tls: bool
) -> None:
    """The end of its connection is behind more lines than are read ahead."""
    many = chunk(b"".join(line(2 * n + 1) for n in range(5_000)))
    async with staged(tls=tls) as stage:
        client = await stage.client(HEAD)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, many * 100)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        hang_up(client, reset=False)
        await pass_time(clock, 14)
        assert stage.server.connections() == 1
        await pass_time(clock, LONG - 14)

        await stage.assert_only_keyed_jobs_go_on()


async def test_client_that_has_sent_all_may_end_its_side_and_read_on(clock: MockClock) -> None:
    """As `nc -N` does."""
    async with staged() as stage:
        client = await stage.client(SENT["all"])
        await client.stream.send_eof()
        await pass_time(clock, LONG)
        stage.release.set()
        reply = await client.receive_answer()

    *answers, end = [msgspec.json.decode(text) for text in reply.body.splitlines() if text]
    assert sorted(answer["result"] for answer in answers) == [1, 2, 3, 4]
    assert end == {"end": "input", "lines": 4, "succeeded": 4}


async def test_lines_with_keys_can_be_sent_again_after_a_break(clock: MockClock) -> None:
    lines = chunks(*(line(number, key=str(number)) for number in range(8)))
    async with staged() as stage:
        first = await stage.client(HEAD + lines[:-100])
        hang_up(first, reset=True)
        await wait_all_tasks_blocked()
        stage.release.set()
        second = await stage.client(HEAD + lines + END)
        reply = await second.receive_answer()

    *answers, end = [msgspec.json.decode(text) for text in reply.body.splitlines() if text]
    assert sorted(answer["result"] for answer in answers) == [*range(8)]
    assert end == {"end": "input", "lines": 8, "succeeded": 8}
    assert sorted(stage.began, key=str) == [*range(8)]


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_hang_up_during_the_drain(clock: MockClock, *, reset: bool, tls: bool) -> None:
    async with staged(tls=tls) as stage:
        client = await stage.client(HEAD + LINES)
        stage.api.parts.admission.close()
        await wait_all_tasks_blocked()
        hang_up(client, reset=reset)
        await pass_time(clock, LONG)

        await stage.assert_only_keyed_jobs_go_on()


async def test_client_that_reads_nothing_and_hangs_up(clock: MockClock, *, tls: bool) -> None:
    """The server waits for room for its answers at that time."""
    large = "x" * 100_000
    async with staged(tls=tls, workers=10, send_timeout=1000) as stage:
        client = await stage.client(HEAD)
        stage.release.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, chunk(line(large)) * 100)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        hang_up(client, reset=True)
        await wait_all_tasks_blocked()

        assert stage.server.connections() == 0
        assert not stage.api.parts.pool.waiters.calls
