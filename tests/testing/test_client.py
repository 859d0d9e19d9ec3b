"""The ASGI client that users get, with applications of a few lines."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from trio_jobs.testing import Client
from trio_jobs.testing.asgi_client import App, Message


def echo(seen: list[Message]) -> App:
    """An application that answers with the body, and takes down the scope."""

    async def app(scope: Message, receive: Callable[[], Any], send: Callable[..., Any]) -> None:
        seen.append(scope)
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(b"Set-Cookie", b"a=1"), (b"Vary", b"x"), (b"set-cookie", b"b=2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


async def test_path_is_decoded_and_kept_as_it_was() -> None:
    seen: list[Message] = []

    await Client(echo(seen)).get("/u/a%20b%C3%BC?q=a%20b")

    [scope] = seen
    assert scope["path"] == "/u/a bü"
    assert scope["raw_path"] == b"/u/a%20b%C3%BC"
    assert scope["query_string"] == b"q=a%20b"


@pytest.mark.parametrize(
    "body", [b"a\xc3\xbcb", "aüb", bytearray(b"a\xc3\xbcb"), memoryview(b"a\xc3\xbcb")]
)
async def test_body_is_bytes_or_text(body: bytes | str) -> None:
    answer = await Client(echo([])).post("/", body)

    assert answer.body.decode() == "aüb"


@pytest.mark.parametrize(
    "body",
    [[b"a", b"", b"b"], (b"a", b"b"), iter([b"a", b"b"]), [bytearray(b"a"), "b"]],
    ids=["list", "tuple", "iterator", "kinds"],
)
async def test_body_may_come_in_pieces(body: list[bytes]) -> None:
    answer = await Client(echo([])).post("/", body)

    assert answer.body == b"ab"


@pytest.mark.parametrize("body", [{"a": 1}, 5, None, [b"a", 1], {"a": b"1"}], ids=str)
async def test_body_of_another_type_is_refused_before_anything_is_sent(body: Any) -> None:  # noqa: ANN401
    seen: list[Message] = []

    with pytest.raises(TypeError, match=r"^the body must be bytes or text, or .*json=, got "):
        await Client(echo(seen)).post("/", body)

    assert not seen


@pytest.mark.parametrize("value", [{"a": [1, None]}, None, "text", []], ids=str)
async def test_json_is_encoded_and_said_to_be_json(value: object) -> None:
    seen: list[Message] = []

    answer = await Client(echo(seen)).post("/", json=value)

    assert answer.json() == value
    assert (b"content-type", b"application/json") in seen[0]["headers"]


async def test_other_type_of_json_may_be_given() -> None:
    seen: list[Message] = []

    await Client(echo(seen)).post("/", json=1, content_type="application/problem+json")

    kinds = [value for name, value in seen[0]["headers"] if name == b"content-type"]
    assert kinds == [b"application/problem+json"]


async def test_json_beside_a_body_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^a request has a body or json, not both$"):
        await Client(echo([])).post("/", b"1", json=1)


async def test_repeated_headers_are_joined_and_also_there_as_they_came() -> None:
    answer = await Client(echo([])).get("/")

    assert answer.headers["set-cookie"] == "a=1, b=2"
    assert answer.all_headers == (("set-cookie", "a=1"), ("vary", "x"), ("set-cookie", "b=2"))


class BrokenError(Exception):
    """What an application raises."""


async def broken(scope: Message, receive: Callable[[], Any], send: Callable[..., Any]) -> None:
    if scope["path"] == "/later":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    raise BrokenError


@pytest.mark.parametrize("path", ["/", "/later"])
async def test_error_that_leaves_the_application_is_the_error(path: str) -> None:
    with pytest.raises(BrokenError) as caught:
        await Client(broken).post(path, [b"a", b"b"])

    assert caught.value.__context__ is None


@pytest.mark.parametrize("path", ["/", "/later"])
async def test_error_of_the_application_ends_whatever_the_client_waits_for(path: str) -> None:
    with pytest.raises(BrokenError):
        async with Client(broken).open("GET", path, buffer=1):
            await trio.sleep_forever()


async def test_error_of_the_block_is_the_error() -> None:
    async def fail() -> None:
        async with Client(echo([])).open("POST", "/"):
            await wait_all_tasks_blocked()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        await fail()

    assert caught.value.__context__ is None


async def test_both_errors_are_there() -> None:
    async def fails_when_the_client_leaves(
        scope: Message, receive: Callable[[], Any], send: Callable[..., Any]
    ) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise BrokenError

    with pytest.RaisesGroup(BrokenError, KeyError):
        async with Client(fails_when_the_client_leaves).open("POST", "/"):
            await wait_all_tasks_blocked()
            raise KeyError("mine")


async def test_early_answer_ends_the_sending() -> None:
    async def refuses(scope: Message, receive: Callable[[], Any], send: Callable[..., Any]) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"too large"})

    answer = await Client(refuses).post("/", [b"a"] * 100)

    assert (answer.status, answer.body) == (413, b"too large")


async def test_application_that_sends_from_a_nursery_may_be_left_early() -> None:
    app = QuartTrio("app")

    @app.get("/")
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"piece"

    async with Client(app).open("GET", "/") as exchange:
        assert await exchange.head() == 200
        async for piece in exchange.pieces():
            assert piece == b"piece"
            break


async def send_for_ever(send: Callable[..., Any]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"piece", "more_body": True})


async def test_error_that_the_application_raises_in_place_of_leaving_is_none() -> None:
    async def app(_scope: Message, _receive: object, send: Callable[..., Any]) -> None:
        try:
            await send_for_ever(send)
        except OSError:
            raise LookupError("gone") from None

    async with Client(app).open("GET", "/") as exchange:
        assert await exchange.head() == 200


async def test_error_of_the_cleanup_after_a_client_has_left_is_the_applications_own() -> None:
    async def app(_scope: Message, _receive: object, send: Callable[..., Any]) -> None:
        try:
            await send_for_ever(send)
        finally:
            raise LookupError("lost while it unwinds")

    with pytest.raises(LookupError, match="lost while it unwinds"):
        async with Client(app).open("GET", "/") as exchange:
            assert await exchange.head() == 200


async def test_error_of_the_operating_system_is_the_applications_own() -> None:
    async def app(_scope: Message, _receive: object, _send: object) -> None:
        raise FileNotFoundError("where is it?")

    with pytest.raises(FileNotFoundError, match="where is it"):
        await Client(app).get("/")
