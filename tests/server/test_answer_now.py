"""An application that answers some requests without ASGI: `AnswerNow`."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar

import pytest
import trio
import trio.lowlevel

from tests.support import Access

from .serving import Receive, Scope, Send, answer, chunked, get, post, served

Fields = Mapping[bytes, bytes]
Headers = list[tuple[bytes, bytes]]
Answer = tuple[int, Headers, bytes]


@pytest.fixture(params=["at once", "awaited"], autouse=True)
def when(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is for both kinds of answers."""
    monkeypatch.setattr(App, "later", request.param == "awaited")


class App:
    """Answers requests of ``/now`` at once, with the request's body, and others by ASGI.

    Attributes:
        asked: Method, target, header names and body of each request that it was asked about.
        called: The path of each request that came by ASGI.
        later: Whether it has its answer awaited.
    """

    later: ClassVar = False

    def __init__(self, *, status: int = 200, error: BaseException | None = None) -> None:
        self.status = status
        self.error = error
        self.asked: list[tuple[str, bytes, set[bytes], bytes]] = []
        self.called: list[str] = []

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        self.called.append(scope["path"])
        await answer(send, b"by ASGI")

    def answer_now(
        self, method: str, target: bytes, fields: Fields, body: bytes, _access: Access
    ) -> Answer | Awaitable[Answer] | None:
        self.asked.append((method, target, set(fields), body))
        if target != b"/now":
            return None
        return self._later(body) if self.later else self._now(body)

    async def _later(self, body: bytes) -> Answer:
        await trio.lowlevel.checkpoint()
        return self._now(body)

    def _now(self, body: bytes) -> Answer:
        if self.error is not None:
            raise self.error
        return self.status, [(b"content-length", b"%d" % len(body)), (b"x-now", b"yes")], body


async def test_application_is_asked_first_and_called_by_asgi_if_it_declines() -> None:
    app = App()
    async with served(app) as server:
        client = await server.connect()
        now = await client.request(post(b"hello", "/now", "X-Name: value"))
        later = await client.request(post(b"hello", "/later?a=%20"))
        again = await client.request(post(b"more", "/now"))

    assert (now.status, now.body, now.headers["x-now"]) == (200, b"hello", "yes")
    assert "date" in now.headers
    assert "connection" not in now.headers
    assert (later.status, later.body) == (200, b"by ASGI")
    assert again.body == b"more"
    names = {b"host", b"content-length"}
    assert app.asked == [
        ("POST", b"/now", names | {b"x-name"}, b"hello"),
        ("POST", b"/later?a=%20", names, b"hello"),
        ("POST", b"/now", names, b"more"),
    ]
    assert app.called == ["/later"]


async def test_target_is_as_the_client_sent_it() -> None:
    app = App()
    targets = ["/now?", "/n%6fw", "//now", "/now#x", "http://localhost/now"]
    async with served(app) as server:
        for target in targets:
            assert (await server.request(get(target))).body == b"by ASGI"

    # The server may ask twice.
    asked = dict.fromkeys(target for _, target, _, _ in app.asked)
    assert list(asked) == [target.encode() for target in targets]


@pytest.mark.parametrize("first", [post, lambda body, *line: chunked(body, path=line[0])])
async def test_request_with_a_header_twice_comes_by_asgi(first: Callable[..., bytes]) -> None:
    head, end, body = first(b"hello", "/now").partition(b"\r\n\r\n")
    app = App()
    async with served(app) as server:
        client = await server.connect()
        reply = await client.request(head + b"\r\nX-Y: a\r\nx-y: b" + end + body)

    assert reply.body == b"by ASGI"
    assert app.asked == []


async def test_body_in_chunks_counts_if_all_of_it_has_arrived() -> None:
    app = App()
    async with served(app, max_body_bytes=1024) as server:
        whole = await server.request(chunked(b"hel", b"lo", path="/now"))
        client = await server.connect(chunked(b"hello", path="/now")[:-5])
        part = await client.receive_answer()

    assert whole.body == b"hello"
    assert part.body == b"by ASGI"
    assert [body for *_, body in app.asked] == [b"hello"]


@pytest.mark.parametrize("length", [1025, 70_000])
async def test_application_is_not_asked_about_a_body_that_is_too_long(length: int) -> None:
    app = App()
    async with served(app, max_body_bytes=1024) as server:
        await server.request(post(b"x" * length, "/now"))

    assert app.asked == []


async def test_application_is_not_asked_about_a_request_without_access() -> None:
    app = App()
    async with served(app, token="sesame") as server:  # noqa: S106 (no secret)
        refused = await server.request(post(b"x", "/now"))
        taken = await server.request(post(b"x", "/now", "Authorization: Bearer sesame"))
        foreign = await server.request(
            post(b"x", "/now", "Authorization: Bearer sesame", "Origin: http://evil.example")
        )

    assert [refused.status, taken.status, foreign.status] == [401, 200, 403]
    assert len(app.asked) == 1


async def test_answer_to_head_has_no_body() -> None:
    async with served(App()) as server:
        client = await server.connect(get("/now", method="HEAD"))
        reply = await client.receive_answer(head_only=True)
        assert (await client.request(get("/now"))).status == 200

    assert reply.headers["x-now"] == "yes"


async def test_last_answers_of_a_connection_close_it() -> None:
    async with served(App(), max_requests_per_connection=2) as server:
        client = await server.connect()
        replies = [await client.request(post(b"x", "/now")) for _ in range(2)]
        assert await client.receive_rest() == b""
        asked = await server.request(post(b"x", "/now", "Connection: close"))

    assert ["connection" in reply.headers for reply in replies] == [False, True]
    assert asked.headers["connection"] == "close"


async def test_pipelined_requests_are_answered_in_order_both_ways() -> None:
    app = App()
    requests = [post(b"%d" % n, "/now" if n % 3 else "/later") for n in range(60)]
    async with served(app) as server:
        client = await server.connect(b"".join(requests))
        bodies = [(await client.receive_answer()).body for _ in requests]

    assert bodies == [b"%d" % n if n % 3 else b"by ASGI" for n in range(60)]


@pytest.mark.parametrize(
    "error", [ValueError("a fault"), SystemExit(0), RuntimeError("\ud800")], ids=repr
)
async def test_error_is_a_500_and_one_line_with_its_traceback(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(error=error)
    async with served(app) as server:
        caplog.clear()
        reply = await server.request(post(b"x", "/now"))
        assert (await server.request(get("/later"))).status == 200

    assert (reply.status, reply.headers["connection"]) == (500, "close")
    assert "fault" not in reply.json()["detail"]
    [line] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.getMessage() == "request_failed"
    assert line.exc_info is not None
    assert line.exc_info[1] is error
    fields = vars(line)
    assert (fields["method"], fields["path"]) == ("POST", "/now")
    assert fields["client"].startswith("127.0.0.1:")
    assert app.called == ["/later"]


async def test_header_that_http_does_not_allow_is_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    class Splitting(App):
        def answer_now(
            self, method: str, target: bytes, fields: Fields, body: bytes, _access: Access
        ) -> tuple[int, Headers, bytes] | None:
            return 200, [(b"x", b"a\r\nb: c"), (b"content-length", b"0")], b""

    async with served(Splitting()) as server:
        reply = await server.request(get())

    assert reply.status == 500
    assert "request_failed" in caplog.text


async def test_each_answer_is_one_line_of_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_jobs.access")
    async with served(App(status=404), access_log=True) as server:
        await server.request(post(b"hello", "/now"))

    [line] = [vars(record) for record in caplog.records if record.name == "trio_jobs.access"]
    shown = (line["method"], line["path"], line["status"], line["bytes"])
    assert shown == ("POST", "/now", 404, 5)


async def test_application_is_asked_about_no_request_to_the_server_itself() -> None:
    app = App()
    async with served(app) as server:
        reply = await server.request(get("*", method="OPTIONS"))

    assert reply.status == 204
    assert app.asked == []
    assert app.called == []


async def test_client_that_leaves_does_not_cancel_an_awaited_answer() -> None:
    app = App()
    asked, may_answer, answered = trio.Event(), trio.Event(), trio.Event()

    class Slow(App):
        async def _later(self, body: bytes) -> Answer:
            asked.set()
            await may_answer.wait()
            answered.set()
            return self._now(body)

    app = Slow()
    app.later = True  # type: ignore[misc]
    async with served(app) as server:
        client = await server.connect(post(b"x", "/now"))
        await asked.wait()
        await client.stream.aclose()
        may_answer.set()
        await answered.wait()
