"""What ASGI says, seen from the application; and applications that do not keep to it."""

import logging
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import assert_no_checkpoints

from tests.support import Problem, counting_turns

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

LONG = bytes(range(256)) * 1000


def streamed(*headers: str) -> bytes:
    """The head of a request whose body comes later, in chunks."""
    return get("/", "Transfer-Encoding: chunked", *headers, method="POST")


async def test_a_client_that_leaves_is_noticed_by_who_waits_in_receive() -> None:
    waiting, noticed = trio.Event(), trio.Event()

    @http_only
    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        waiting.set()
        assert (await receive())["type"] == "http.disconnect"
        assert (await receive())["type"] == "http.disconnect"
        noticed.set()

    async with served(app) as server:
        client = await server.connect(post(b"x"))
        await waiting.wait()

        client.close()

        await noticed.wait()


async def test_requests_sent_ahead_are_no_disconnect_and_are_answered_later() -> None:
    waiting, release = trio.Event(), trio.Event()
    left: list[str] = []

    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch() -> None:
            left.append((await receive())["type"])

        await receive()
        if scope["path"] == "/wait":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                waiting.set()
                await release.wait()
                nursery.cancel_scope.cancel()
        await answer(send, scope["path"].encode())

    async with served(app) as server:
        client = await server.connect(get("/wait"))
        await waiting.wait()

        await client.send(get("/next") * 2000)
        await trio.testing.wait_all_tasks_blocked(0.05)
        release.set()

        assert (await client.receive_answer()).body == b"/wait"
        assert [(await client.receive_answer()).body for _ in range(2000)] == [b"/next"] * 2000
    assert left == []


async def test_who_waits_in_receive_is_told_when_the_answer_has_been_sent() -> None:
    messages: list[str] = []

    @http_only
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        async def watch() -> None:
            messages.append((await receive())["type"])

        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await answer(send, b"done")

    async with served(app) as server:
        client = await server.connect()
        for _ in range(2):
            assert (await client.request(get())).body == b"done"
        client.close()

    assert messages == ["http.disconnect"] * 2


async def test_a_client_that_only_closes_its_side_gets_its_answer() -> None:
    @http_only
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)  # the end has arrived by now
        await answer(send, body_of(scope).complete or b"?", status=201)

    async with served(app) as server:
        reply = await server.exchange(post(b"hello"))

    assert reply.startswith(b"HTTP/1.1 201 Created")
    assert reply.endswith(b"hello")


async def test_an_endless_answer_to_a_client_that_leaves_ends_with_an_os_error_and_no_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = trio.Event()
    caught: list[OSError] = []

    @http_only
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        try:
            async with trio.open_nursery() as nursery:  # so the error comes in a group
                nursery.start_soon(trio.sleep_forever)
                await send(START)
                try:
                    while True:
                        await send(part(LONG, more=True))
                except OSError as error:
                    caught.append(error)
                    raise
        finally:
            ended.set()

    async with served(app) as server:
        client = await server.connect(get())
        assert await client.stream.receive_some(1000)

        client.close()

        await ended.wait()
    assert "broken" in str(caught[0])
    assert not any(record.levelno >= logging.WARNING for record in caplog.records)


def foreign_cancelled() -> BaseException:
    """As an application may keep it from one scope, and raise it in another."""

    async def be_cancelled() -> BaseException:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                kept.append(cancelled)
                raise
        return kept[0]

    kept: list[BaseException] = []
    return trio.run(be_cancelled)


def _errors() -> list[BaseException]:
    return [
        ValueError("a fault of the application"),
        ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
        BaseExceptionGroup("worse", [SystemExit(3), ValueError("one")]),
        SystemExit(0),
        KeyboardInterrupt(),
        GeneratorExit(),
        RuntimeError("\ud800 cannot be encoded"),
        foreign_cancelled(),
    ]


@pytest.mark.parametrize("error", _errors(), ids=lambda error: type(error).__name__)
async def test_an_error_of_the_application_is_a_500_and_one_line_with_its_traceback(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(sending(error)) as server:
        caplog.clear()
        reply = await server.request(get("/path"))
        assert (await server.request(get("/path"))).status == 500

    assert (reply.status, reply.headers["connection"]) == (500, "close")
    assert reply.json()["title"] == "Internal Server Error"
    assert "fault" not in reply.json()["detail"]
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.getMessage() for line in lines] == ["request_failed"] * 2
    assert lines[0].exc_info is not None
    assert lines[0].exc_info[1] is error
    assert vars(lines[0])["path"] == "/path"


async def test_an_application_that_does_not_answer_is_a_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also for a client that has closed its sending side, and so may have left."""

    @http_only
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)  # the end has arrived by now

    async with served(app) as server:
        assert (await server.request(get())).status == 500
        assert b" 500 " in await server.exchange(post(b"hello"))

    errors = [record.getMessage() for record in caplog.records if record.levelno > 30]
    assert errors == ["request_not_answered"] * 2


@pytest.mark.parametrize("ending", [[], [ValueError("in the middle")]], ids=["return", "error"])
async def test_an_answer_that_breaks_off_ends_with_the_connection(ending: list[Any]) -> None:
    async with served(sending(START, part(b"half", more=True), *ending)) as server:
        client = await server.connect(get())
        reply = await client.receive_rest()
        client.close()

    assert b"half" in reply
    assert not reply.endswith(b"0\r\n\r\n")


async def test_after_an_answer_that_was_cut_short_nothing_follows_on_the_connection() -> None:
    """As Quart does with ``RESPONSE_TIMEOUT``; else its rest would be taken from the next one."""
    late = trio.CancelScope()

    @http_only
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        with late:
            await answer(send, bytes(50_000_000))

    async with served(app) as server:
        client = await server.connect(get() * 2)
        await trio.testing.wait_all_tasks_blocked()
        late.cancel()
        reply = await client.receive_rest()
        client.close()

    assert reply.count(b"HTTP/1.1 200 OK") == 1
    assert len(reply) < 50_000_000


@pytest.mark.parametrize("kind", ["receive", "receive early", "send", "send to HEAD"])
async def test_an_application_that_goes_on_for_ever_does_not_hold_up_others(kind: str) -> None:
    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/other":
            await answer(send)
        elif kind.startswith("receive"):
            while True:
                await receive()
        else:
            if kind == "send":
                await answer(send)
            else:
                await send(START)
            while True:
                await send(part(b"x", more=True))

    async with served(app, graceful_timeout=0.05) as server:
        client = await server.connect()
        data = {
            "receive early": post(bytes(100_000))[:-1],
            "send to HEAD": get(method="HEAD"),
        }
        await client.send(data.get(kind, get()))
        await client.stream.send_eof()

        for _ in range(5):
            assert (await server.request(get("/other"))).status == 200


NO_ANSWERS: dict[str, list[Any]] = {
    "body first": [part(b"")],
    "two starts": [START, START],
    "unknown": [{"type": "http.response.push", "path": "/"}],
    "status 99": [START | {"status": 99}, part(b"")],
    "status abc": [START | {"status": "abc"}],
    "bad name": [START | {"headers": [(b"a b", b"")]}, part(b"")],
    "bad value": [START | {"headers": [(b"a", b"b\r\nc: d")]}, part(b"")],
    "error before the body": [START, ValueError("too early")],
}


@pytest.mark.parametrize("messages", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_messages_that_make_no_answer_are_a_500(messages: list[Any]) -> None:
    async with served(sending(*messages)) as server:
        assert (await server.request(get())).status == 500


async def test_messages_after_the_answer_do_not_reach_the_next_one() -> None:
    headers = {"headers": [(b"content-length", b"3")]}
    async with served(sending(START | headers, part(b"one"), part(b"two"))) as server:
        client = await server.connect()
        assert [(await client.request(get())).body for _ in range(2)] == [b"one"] * 2


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_gets_none(status: int) -> None:
    async with served(sending(START | {"status": status}, part(b"not wanted"))) as server:
        reply = await server.exchange(get())

    assert reply.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_of_unknown_length_arrives_whole(version: str) -> None:
    parts = [part(data, more=True) for data in (b"one ", LONG, b"", b" three")]
    async with served(sending(START, *parts, {"type": "http.response.body"})) as server:
        reply = await server.request(get(version=version))

    assert reply.body == b"one " + LONG + b" three"


async def test_an_application_may_answer_itself_when_a_body_is_refused() -> None:
    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while (await receive())["more_body"]:
                pass
        except Problem as error:
            with pytest.raises(Problem):
                await receive()  # it stays refused
            await answer(send, f"in my words: {error.detail}".encode(), status=error.status)

    async with served(app, max_body_bytes=1000, body_timeout=0.2) as server:
        too_long = await server.request(post(bytes(1001)))
        client = await server.connect()
        too_slow = await client.request(streamed() + b"5\r\nhel")
        malformed = await server.request(streamed() + b"5\r\nhello!")
        client.close()

    assert (too_long.status, too_slow.status, malformed.status) == (413, 408, 400)
    assert too_long.body == b"in my words: the body must be at most 1000 bytes long"
    assert too_long.headers["connection"] == "close"


async def test_a_refusal_that_the_application_lets_out_in_a_group_is_the_answer() -> None:
    @http_only
    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await receive()

    async with served(app, max_body_bytes=3) as server:
        assert (await server.request(post(b"1234"))).status == 413


async def test_a_lifted_body_has_no_length_and_no_time() -> None:
    turns: list[int] = []

    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body_of(scope).lift(idle_timeout=5)
        more, count = True, 0
        while more:
            message = await receive()
            turns.append(len(message["body"]))
            count += len(message["body"])
            more = message["more_body"]
        await answer(send, str(count).encode())

    async with served(app, max_body_bytes=10, body_timeout=0.05) as server:
        client = await server.connect(streamed())
        for _ in range(5):
            await client.send(b"4e20\r\n" + bytes(20_000) + b"\r\n")
            await trio.sleep(0.03)
        reply = await client.request(b"0\r\n\r\n")
        declared = await server.request(post(bytes(1_000_000)))
        whole = await server.request(post(bytes(20)))

        assert (reply.body, declared.body, whole.body) == (b"100000", b"1000000", b"20")
        assert max(turns) <= 2 * 65_536


async def test_a_lifted_body_that_pauses_too_long_is_refused() -> None:
    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body_of(scope).lift(idle_timeout=0.1)
        try:
            while (await receive())["more_body"]:
                pass
        except Problem as error:
            await answer(send, b"accepted 5", status=error.status)

    async with served(app) as server:
        client = await server.connect()
        reply = await client.request(streamed() + b"5\r\nhello\r\n")

        assert (reply.status, reply.body) == (408, b"accepted 5")
        assert await client.receive_rest() == b""


async def test_a_client_that_sends_waits_while_nobody_reads() -> None:
    @http_only
    async def app(scope: Scope, receive: Receive, _send: Send) -> None:
        body_of(scope).lift(idle_timeout=5)
        await receive()
        await trio.sleep_forever()

    async with served(app, graceful_timeout=0.05) as server:
        client = await server.connect(get("/", "Content-Length: 1000000000", method="POST"))
        sent = 0
        with trio.move_on_after(0.3):
            while True:
                await client.send(LONG)
                sent += len(LONG)

        assert sent < 50_000_000


async def test_a_cancelled_receive_has_taken_nothing_from_the_body() -> None:
    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body_of(scope).lift(idle_timeout=5)
        parts: list[bytes] = []
        more = True
        while more:
            with trio.move_on_after(0.001):
                message = await receive()
                parts.append(message["body"])
                more = message["more_body"]
        await answer(send, b"".join(parts))

    async with served(app) as server:
        client = await server.connect(streamed())
        for start in range(0, len(LONG), 16_000):
            part = LONG[start : start + 16_000]
            await client.send(b"%x\r\n%b\r\n" % (len(part), part))
            await trio.sleep(0.002)

        assert (await client.request(b"0\r\n\r\n")).body == LONG


async def test_a_body_in_tiny_chunks_lets_others_have_their_turn() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with served(echo) as server, trio.open_nursery() as nursery:
        data = chunked(*[b"x"] * 50_000)
        client = await server.connect()
        nursery.start_soon(count_turns)
        assert (await client.request(data)).body == b"x" * 50_000
        nursery.cancel_scope.cancel()
        client.close()

    assert turns > 50_000 / 128


async def test_the_lifespan_surrounds_the_serving() -> None:
    events: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            events.append(scope["state"]["made"])
            await answer(send)
            return
        for _ in range(2):
            message = await receive()
            events.append(message["type"])
            scope["state"]["made"] = "at start-up"
            await send({"type": message["type"] + ".complete"})

    async with served(app) as server:
        await server.request(get())

    assert events == ["lifespan.startup", "at start-up", "lifespan.shutdown"]


async def test_others_have_their_turn_between_pipelined_requests() -> None:
    seen: list[int] = []

    @http_only
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(len(turns))
        await answer(send)

    async with served(app) as server, counting_turns() as turns:
        client = await server.connect(get() * 100)
        for _ in range(100):
            assert (await client.receive_answer()).status == 200
        client.close()

    # Two see the same turn if one comes last in its own turn and the other first in the next.
    assert len(set(seen)) >= 50


async def test_each_part_of_an_answer_but_the_last_gives_others_their_turn() -> None:
    seen: list[int] = []

    @http_only
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(10):
            await send(part(b"x", more=True))
            seen.append(len(turns))
        with assert_no_checkpoints():
            await send(part(b""))

    async with served(app) as server, counting_turns() as turns:
        assert (await server.request(get())).body == b"x" * 10

    assert len(set(seen)) >= 5


@pytest.mark.parametrize("more", [True, False])
async def test_a_cancelled_application_sends_nothing(more: bool) -> None:
    @http_only
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        with trio.CancelScope() as scope:
            scope.cancel()
            await send(part(b"too late", more=more))

    async with served(app) as server:
        client = await server.connect(get())

        assert await client.receive_rest() == b""
