"""Bodies without end take no memory, whatever the application does with them."""

import tracemalloc

import pytest
import trio

from .serving import Receive, Scope, Send, answer, body_of, echo, get, http_only, served

MEGABYTE = 1_000_000
SENT = 200 * MEGABYTE


@http_only
async def deaf(_scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, b"not interested", status=404)


@http_only
async def late(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answer first, then read."""
    await answer(send, b"first")
    await receive()


@http_only
async def counting(scope: Scope, receive: Receive, send: Send) -> None:
    body_of(scope).lift(idle_timeout=5)
    count, more = 0, True
    while more:
        message = await receive()
        count += len(message["body"])
        more = message["more_body"]
    await answer(send, b"%d" % count)


@pytest.mark.parametrize(
    ("app", "status", "body"),
    [
        (echo, 413, b""),
        (deaf, 404, b"not interested"),
        (late, 200, b"first"),
        (counting, 200, b"%d" % SENT),
    ],
    ids=["reads", "does not read", "answers first", "lifts the limit"],
)
@pytest.mark.parametrize("framing", [pytest.param("length", marks=pytest.mark.proof), "chunks"])
async def test_200_megabytes_leave_memory_flat(
    app: object, status: int, body: bytes, framing: str
) -> None:
    """S18: refused, or closed soon after the limit, or passed through."""
    chunk = bytes(MEGABYTE)
    if framing == "chunks":
        head = get("/", "Transfer-Encoding: chunked", method="POST")
        piece, end = b"%x\r\n%b\r\n" % (len(chunk), chunk), b"0\r\n\r\n"
    else:
        head = get("/", f"Content-Length: {SENT}", method="POST")
        piece, end = chunk, b""

    async with served(app, max_body_bytes=MEGABYTE) as server:
        client = await server.connect()
        sent = 0

        async def send() -> None:
            nonlocal sent
            try:
                await client.send(head)
                while sent < SENT:
                    await client.send(piece)
                    sent += MEGABYTE
                await client.send(end)
            except trio.BrokenResourceError:
                pass  # it has been cut off

        tracemalloc.start()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                reply = await client.receive_answer()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert reply.status == status
    assert reply.body == body or status == 413
    assert peak < 10 * MEGABYTE
    assert app is counting or sent < 40 * MEGABYTE
