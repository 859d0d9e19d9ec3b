"""`AsyncClient` over real sockets: connections that break, and those that a call leaves behind."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from tests.client.support import job_answer, on_both_loops
from trio_jobs.client import AsyncClient, ServerGoneError

BODY = job_answer().content
HEAD = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % len(BODY)

Serve = Callable[[ByteStream], Awaitable[None]]


async def read_request(stream: ByteStream) -> bytes:
    received = b""
    while b'"payload"' not in received and not received.startswith(b"GET"):
        received += await stream.receive()
    return received


async def answer(stream: ByteStream, text: bytes) -> None:
    """Send this in answer to a request, and close the connection."""
    await read_request(stream)
    await stream.send(text)


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[str]:
    """The URL of a listener; each connection is served, and closed."""

    async def serve_one(stream: ByteStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await serve(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve_one)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - anyio's
        yield f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real clock is not made to wait."""
    monkeypatch.setattr("trio_jobs.client.patience._FIRST_PAUSE", 1e-6)


@pytest.mark.parametrize(
    "text",
    [b"", HEAD[:20], HEAD, HEAD + BODY[:20], b"nonsense\r\n\r\n"],
    ids=["nothing", "half a head", "a head", "half a body", "nonsense"],
)
@pytest.mark.usefixtures("short_pauses")
@partial(on_both_loops, really=True)
async def test_broken_answer_is_asked_for_again_with_the_same_key(text: bytes) -> None:
    requests = []

    async def serve(stream: ByteStream) -> None:
        requests.append(await read_request(stream))
        await stream.send(text if len(requests) < 3 else HEAD + BODY)

    async with listening(serve) as url, AsyncClient(url) as client:
        assert (await client.submit("email", 1)).id == "a1"

    assert len(requests) == 3
    assert len({*requests}) == 1


@partial(on_both_loops, really=True)
async def test_cancelled_call_closes_its_connection() -> None:
    for call in ("wait", "result", "get", "cancel", "submit"):
        asked, closed = anyio.Event(), anyio.Event()

        async def serve(
            stream: ByteStream, asked: anyio.Event = asked, closed: anyio.Event = closed
        ) -> None:
            await stream.receive()
            asked.set()
            try:
                while True:
                    await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                closed.set()

        async with (
            listening(serve) as url,
            AsyncClient(url) as client,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(getattr(client, call), "a1")
            await asked.wait()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await closed.wait()  # while the client is open


@partial(on_both_loops, really=True)
async def test_cancelled_calls_do_not_use_up_the_connections() -> None:
    asked: list[bytes] = []

    async def serve(stream: ByteStream) -> None:
        asked.append(await stream.receive())
        if len(asked) <= 110:
            scopes.pop().cancel()
            await anyio.sleep_forever()
        await stream.send(HEAD + BODY)

    scopes: list[anyio.CancelScope] = []
    async with listening(serve) as url, AsyncClient(url) as client:
        for _ in range(110):  # more than the client may have at a time
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await client.wait("a1")
        assert (await client.get("a1")).id == "a1"


@partial(on_both_loops, really=True)
async def test_server_that_is_not_there_is_gone() -> None:
    async with listening(partial(answer, text=b"")) as url:
        pass

    async with AsyncClient(url, retry_for=0) as client:
        with pytest.raises(ServerGoneError, match="gave up after 0 s: ConnectError: "):
            await client.get("a1")
