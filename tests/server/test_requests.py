"""What HTTP says about requests, answers and when a connection closes."""

import logging

import pytest

from .serving import (
    START,
    Receive,
    Scope,
    Send,
    answer,
    body_of,
    chunked,
    echo,
    get,
    http_only,
    part,
    post,
    sending,
    served,
)

pytestmark = pytest.mark.usefixtures("ways")


@http_only
async def describe(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer with what the HTTP server made of the request's head."""
    host = dict(scope["headers"]).get(b"host", b"")
    parts = [scope["method"], scope["path"], scope["query_string"].decode(), host.decode()]
    await answer(send, "|".join(parts).encode())


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with served(echo) as server:
        client = await server.connect(b"".join(post(b"%d" % n) for n in range(50)))

        bodies = [(await client.receive_answer()).body for _ in range(50)]
        assert bodies == [b"%d" % n for n in range(50)]


@pytest.mark.parametrize(
    "request_",
    [
        get("/", "Connection: close"),
        get("/", "Connection: Keep-Alive, Close"),
        get("/", version="1.0"),
        get("/", "Connection: keep-alive", version="1.0"),
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
async def test_the_connection_closes_when_the_client_asks_for_it(request_: bytes) -> None:
    async with served(echo) as server:
        client = await server.connect()

        reply = await client.request(request_)

        assert reply.status == 200
        assert reply.headers["connection"] == "close"
        assert await client.receive_rest() == b""


async def test_the_connection_closes_when_the_application_asks_for_it() -> None:
    headers = [(b"content-length", b"0"), (b"Connection", b"close")]
    async with served(sending(START | {"status": 503, "headers": headers}, part(b""))) as server:
        client = await server.connect()

        reply = await client.request(post(b"x"))

        assert (reply.status, reply.headers["connection"]) == (503, "close")
        assert await client.receive_rest() == b""


async def test_the_connection_closes_after_so_many_requests() -> None:
    async with served(echo, max_requests_per_connection=3) as server:
        client = await server.connect()

        replies = [await client.request(get()) for _ in range(3)]

        assert ["connection" in reply.headers for reply in replies] == [False, False, True]
        assert await client.receive_rest() == b""


async def test_an_upgrade_is_ignored_without_harm() -> None:
    async with served(echo) as server:
        client = await server.connect()
        websocket = get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
        h2c = get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA")

        statuses = [(await client.request(data)).status for data in (websocket, h2c, get())]

        assert statuses == [200, 200, 200]


async def test_expect_100_continue_is_answered_before_the_body_comes() -> None:
    async with served(echo) as server:
        client = await server.connect()

        first = await client.request(
            get("/", "Expect: 100-continue", "Content-Length: 5", method="POST")
        )
        second = await client.request(b"hello")

        assert first.status == 100
        assert (second.status, second.body) == (200, b"hello")


async def test_expect_100_continue_is_not_answered_for_a_body_that_is_refused() -> None:
    async with served(echo, max_body_bytes=4) as server:
        reply = await server.request(
            get("/", "Expect: 100-continue", "Content-Length: 5", method="POST")
        )

        assert reply.status == 413


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (get("/a%20b?c=%20"), b"GET|/a b|c=%20|localhost"),
        (get("/%ff"), "GET|/\N{REPLACEMENT CHARACTER}||localhost".encode()),
        (get("http://localhost:1/a?b"), b"GET|/a|b|localhost:1"),
        (get("HTTPS://localhost"), b"GET|/||localhost"),
        (get("http://localhost?b"), b"GET|/|b|localhost"),
        (get("/", method="get"), b"GET|/||localhost"),
        (get("//a"), b"GET|//a||localhost"),
        (get("/", method="BREW"), b"BREW|/||localhost"),
    ],
)
async def test_the_application_is_told_the_target(request_: bytes, expected: bytes) -> None:
    async with served(describe) as server:
        assert (await server.request(request_)).body == expected


async def test_options_of_the_whole_server_is_answered_here() -> None:
    async with served(describe) as server:
        client = await server.connect()

        reply = await client.request(get("*", method="OPTIONS"))
        after = await client.request(get("/after"))

        assert (reply.status, reply.body) == (204, b"")
        assert after.status == 200


async def test_head_gets_the_headers_of_get_and_no_body() -> None:
    async with served(describe) as server:
        client = await server.connect(get("/x", method="HEAD") + get("/y"))
        head = await client.receive_answer(head_only=True)
        after = await client.receive_answer()

        assert head.headers["content-length"] == str(len("HEAD|/x||localhost"))
        assert after.body == b"GET|/y||localhost"


async def test_answers_have_a_date_and_say_nothing_of_the_software() -> None:
    async with served(echo) as server:
        reply = await server.request(get())

    assert reply.headers["date"].endswith(" GMT")
    assert "server" not in reply.headers


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 300_000])
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_of_any_size_arrives_whole(size: int, framing: str) -> None:
    body = bytes(n % 251 for n in range(size))
    data = (
        post(body)
        if framing == "length"
        else chunked(*(body[start : start + 9999] for start in range(0, size, 9999)))
    )

    async with served(echo) as server:
        client = await server.connect()
        reply = await client.request(data)
        after = await client.request(post(b"after"))

        assert reply.body == body
        assert after.body == b"after"


async def test_a_chunked_body_that_is_there_when_the_application_is_called_is_whole() -> None:
    wholes: list[bytes | None] = []

    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        wholes.append(body_of(scope).complete)
        await echo(scope, receive, send)

    async with served(app) as server:
        client = await server.connect()
        await client.request(get())
        await client.request(post(b"abc"))
        await client.request(chunked(b"ab", b"c"))
        await client.request(post(bytes(65_537)))
        client.close()

    assert wholes == [b"", b"abc", b"abc", None]


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("reading", ["reading", "not reading"])
async def test_a_body_over_the_limit_is_refused_and_the_connection_closes(
    framing: str, reading: str
) -> None:
    @http_only
    async def deaf(_scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, b"not interested", status=404)

    app, status = (echo, 413) if reading == "reading" else (deaf, 404)
    body = bytes(300_000)
    data = post(body) if framing == "length" else chunked(body)

    async with served(app, max_body_bytes=100_000) as server:
        client = await server.connect()
        reply = await client.request(data)

        assert (reply.status, reply.headers["connection"]) == (status, "close")
        assert await client.receive_rest() == b""


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_short_body_is_counted_too(framing: str) -> None:
    data = post(b"12345") if framing == "length" else chunked(b"123", b"45")

    async with served(echo, max_body_bytes=4) as server:
        reply = await server.request(data)
        just_right = await server.request(post(b"1234"))

    assert reply.status == 413
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json() == {
        "type": "about:blank",
        "title": "Content Too Large",  # in every Python
        "status": 413,
        "detail": "the body must be at most 4 bytes long",
        "error": "the body must be at most 4 bytes long",
    }
    assert just_right.body == b"1234"


async def test_headers_over_the_limit_are_refused_also_when_they_come_in_one_read() -> None:
    async with served(echo, max_header_bytes=1000) as server:
        fits = await server.request(get("/", "X: " + "x" * 900))
        over = await server.request(get("/", "X: " + "x" * 1000))
        unfinished = await server.request(get("/", "X: " + "x" * 5000)[:-2])

    assert (fits.status, over.status, unfinished.status) == (200, 431, 431)
    assert over.json()["detail"] == "request line and headers must be at most 1000 bytes long"


async def test_an_early_answer_reaches_clients_that_are_still_sending() -> None:
    async with served(echo, max_body_bytes=1000) as server:
        statuses = [(await server.request(post(bytes(3_000_000)))).status for _ in range(20)]

    assert statuses == [413] * 20


async def test_a_refusal_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with served(echo) as server:
        caplog.clear()
        await server.exchange(b"NONSENSE\r\n\r\n")

    [line] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert line.getMessage() == "request_refused"
    assert vars(line)["status"] == 400
    assert "illegal request line" in vars(line)["reason"]
    assert vars(line)["client"].startswith("127.0.0.1:")
