"""An application that answers at once gives clients, and the log, the same as one that uses ASGI.

Each conversation is held with both. Of the answers only the time may differ.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support import Access, Problem
from trio_jobs.server.h11_connection import H11Connection
from trio_jobs.server.tls import load_certificate
from trio_jobs.testing.steps import At

from .serving import (
    AnswerNow,
    Client,
    Fields,
    Receive,
    Scope,
    Send,
    Served,
    chunked,
    get,
    part,
    post,
    served,
)
from .test_canonical_request import COMMON, OUTSIDE
from .test_tls import CERTIFICATE, KEY, connect

LIMITS: dict[str, Any] = {
    "max_body_bytes": 100_000,
    "graceful_timeout": 5,
    "access_log": True,
    "allowed_hosts": ("a",),
}
# Of a line in the log; the rest is the time, or names the connection.
FIELDS = ("status", "reason", "method", "path", "bytes", "forwarded_for", "left_out")


class Application:
    """Gives every request its answer, both ways.

    Attributes:
        asked: The target of each request that it has acted on.
    """

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        status, headers, body = self.act(scope["method"], scope["raw_path"], body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(part(body))

    def answer_now(
        self, method: str, target: bytes, _fields: Fields, body: bytes, _access: Access
    ) -> AnswerNow | None:
        if target == b"/declined" or target[:1] != b"/" or b"?" in target:
            return None
        return self.act(method, target, body)

    def act(self, method: str, target: bytes, body: bytes) -> AnswerNow:
        self.asked.append(target)
        said = method.encode() + b" " + target + b" " + body
        status, more = 200, [(b"X-Name", b"a b\t\xfc")]
        match target:
            case b"/created":
                status, more = 201, [(b"location", b"/a")]
            case b"/full":
                status, more = 429, [(b"Retry-After", b"1")]
            case b"/close":
                more = [(b"connection", b"close")]
            case b"/long":
                said = bytes(1_000_000)
            case b"/empty":
                said = b""
            case b"/fault":
                raise ZeroDivisionError("a fault of the application")
            case b"/exit":
                raise SystemExit
            case b"/problem":
                raise Problem(418, "a refusal of the application", headers={"X-A": "b"})
            case b"/split":
                more = [(b"X-A", b"b\r\nX-C: d")]
        return status, [(b"Content-Length", b"%d" % len(said)), *more], said


Log = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    """What the log says, without what differs each time."""
    caplog.set_level(logging.INFO)
    lines: Log = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields = {name: vars(record).get(name) for name in FIELDS}
            lines.append((record.name, record.getMessage(), fields))

    handler = Keep()
    logging.getLogger("trio_jobs").addHandler(handler)
    yield lines
    logging.getLogger("trio_jobs").removeHandler(handler)


@pytest.fixture
def read_by_h11(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The target of each request that h11 has read."""
    targets: list[bytes] = []
    next_event = H11Connection.next_event

    def noting(http: H11Connection) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        event = next_event(http)
        if isinstance(event, h11.Request):
            targets.append(event.target)
        return event

    monkeypatch.setattr(H11Connection, "next_event", noting)
    return targets


class Ways:
    """Holds conversations both ways."""

    def __init__(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log = log
        self._monkeypatch = monkeypatch

    async def one(
        self,
        pieces: Sequence[bytes],
        *,
        at_once: bool,
        tls: bool = False,
        **options: Any,  # noqa: ANN401 - settings
    ) -> tuple[bytes, list[bytes], Log]:
        """Send the pieces; return what comes back, what the application acted on, the log."""
        self._monkeypatch.setattr(Served, "answers_now", at_once)
        app = Application()
        context = load_certificate(CERTIFICATE, KEY) if tls else None
        async with served(app, tls=context, **LIMITS | options) as server:
            self._log.clear()
            client = await connect(server) if tls else await server.connect()
            received = bytearray()

            async def receive() -> None:
                received.extend(await client.receive_rest())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                with suppress(OSError, trio.BrokenResourceError):  # the server closes earlier
                    for piece in pieces:
                        await client.send(piece)
                        await wait_all_tasks_blocked(0.005)
                    client.transport.socket.shutdown(trio.socket.SHUT_WR)
            await server.wait_alone()
            log = self._log.copy()
        return re.sub(rb"date: [^\r]*", b"date: -", received), app.asked, log

    async def both(self, *pieces: bytes, **options: Any) -> bytes:  # noqa: ANN401 - settings
        """The same both ways: hold a conversation, and return what has come back."""
        by_asgi = await self.one(pieces, at_once=False, **options)
        at_once = await self.one(pieces, at_once=True, **options)
        assert at_once == by_asgi
        return at_once[0]


@pytest.fixture
def ways(log: Log, monkeypatch: pytest.MonkeyPatch) -> Ways:
    return Ways(log, monkeypatch)


TARGETS = ["/", "/created", "/full", "/close", "/long", "/empty", "/declined", "/a/b;c=d&e!~"]
TARGETS += ["/fault", "/exit", "/problem", "/split"]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("target", TARGETS)
async def test_answers_are_the_same(ways: Ways, target: str, *, tls: bool) -> None:
    received = await ways.both(
        get(target),
        post(b"hello", target, "X-Forwarded-For: a, b"),
        get("/", "TE: trailers"),
        get(),
        tls=tls,
    )

    answered = 1 if target in {"/close", "/fault", "/exit", "/problem", "/split"} else 4
    assert received.count(b"date: -") == answered


@pytest.mark.parametrize("name", OUTSIDE)
async def test_a_request_outside_the_canonical_form_is_answered_by_the_ordinary_way(
    ways: Ways, read_by_h11: list[bytes], name: str
) -> None:
    received = await ways.both(get("/before"), OUTSIDE[name], get("/after"))

    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    # Without ASGI; h11 may have failed to read the one outside, and what is behind it.
    assert b"/before" not in read_by_h11[read_by_h11.index(b"/before") + 1 :]


@pytest.mark.parametrize("data", COMMON)
async def test_a_request_in_two_pieces_is_answered_without_h11_if_its_head_is_whole(
    ways: Ways, read_by_h11: list[bytes], data: bytes
) -> None:
    body = data.index(b"\r\n\r\n") + 4
    for cut in {1, 5, body - 1, body, body + 1, len(data) - 1} & set(range(1, len(data))):
        read_by_h11.clear()
        received = await ways.both(data[:cut], data[cut:], get("/next"))

        assert received.count(b"200 OK") == 2
        targets = [data.split(b" ")[1], b"/next"]
        assert read_by_h11 == targets + ([] if cut >= body else targets[:1])


async def test_a_request_that_comes_byte_by_byte_is_answered(ways: Ways) -> None:
    data = post(b"hello", "/created")

    assert b"hello" in await ways.both(*[data[n : n + 1] for n in range(len(data))], get())


@pytest.mark.parametrize(
    "pieces",
    [
        [get() * 5],
        [post(b"hello") + get(), get()],
        [post(b"hello")[:-3], b"llo" + get() + get("/close"), get("/late")],
        [post(b"hello")[:-3], b"llo" + get()[:-7], get()[-7:] + get()],
        [post(b"hello")[:-3], b"llo" + chunked(b"a", b"b"), get()],
        [post(b"hello", "/fault")[:-3], b"llo" + get() * 5],
        [post(b"hello", "/close")[:-3], b"llo" + post(bytes(90_000)), get()],
        [post(b"hello", "/declined")[:-3], b"llo" + get(), get()],
        [post(b"hello")[:-3], b"llo\r\n", get()],
        [post(b"hello")[:-3], b"llo nonsense\r\n\r\n", get()],
        [get(), b"nonsense\r\n\r\n", get()],
        [post(bytes(65_536))[:70], bytes(65_536), get()],
        [post(bytes(65_537)), get()],
        [post(bytes(100_001)), get()],
        [post(b"hello")[:-3]],
        [get(), post(b"hello")[:-1]],
        [get(), get()[:-1]],
        [get(), b""],
    ],
)
async def test_whatever_comes_behind_a_request_goes_to_h11(ways: Ways, pieces: list[bytes]) -> None:
    await ways.both(*pieces)


async def test_the_limits_are_the_same(ways: Ways) -> None:
    for longest in (10, 11):
        await ways.both(post(bytes(11)), get(), max_body_bytes=longest)
    await ways.both(*[get()] * 4, max_requests_per_connection=3)
    for extra in range(-60, 40, 7):
        await ways.both(get("/" + "a" * (1024 + extra)), get(), max_header_bytes=1024)


REFUSED = {
    "host": (post(b"hello").replace(b"localhost", b"evil.example"), 403),
    "origin": (post(b"hello", "/", "Origin: http://evil.example"), 403),
    "site": (post(b"hello", "/", "Sec-Fetch-Site: cross-site"), 403),
    "no token": (post(b"hello"), 401),
    "another token": (post(b"hello", "/", "Authorization: Bearer sesam"), 401),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_access_is_checked_before_the_body_comes(ways: Ways, name: str) -> None:
    data, status = REFUSED[name]
    token = {"token": "sesame"} if status == 401 else {}

    for pieces in [data, get()], [data[:-3]], [data[:-3], data[-3:] + get()]:
        received = await ways.both(*pieces, **token)
        assert received.startswith(b"HTTP/1.1 %d " % status)
        assert received.count(b"HTTP/1.1") == 1

    allowed = {**token, "allowed_hosts": ("evil.example",)}
    access = ["Authorization: Bearer sesame"] if token else []
    await ways.both(post(b"hello", "/", *access), get("/health", *access), get("/"), **allowed)


async def test_a_late_body_is_a_408_within_one_time_limit(ways: Ways) -> None:
    for pieces in [post(b"hello")[:-3]], [get(), post(b"hello")[:-5]]:
        app = Application()
        async with served(app, body_timeout=0.2) as server:
            client = await server.connect()
            for piece in pieces:
                await client.send(piece)
                await wait_all_tasks_blocked(0.005)
            replies = [await client.receive_answer() for _ in pieces]

            assert replies[-1].status == 408
            assert replies[-1].headers["connection"] == "close"
            assert await client.receive_rest() == b""
            assert len(app.asked) == len(pieces) - 1


async def test_the_access_log_counts_the_wait_for_the_body(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(Application(), body_timeout=0.2, access_log=True) as server:
        client = await server.connect(post(b"hello")[:-3])
        assert (await client.receive_answer()).status == 408

    [line] = [vars(record) for record in caplog.records if record.name == "trio_jobs.access"]
    assert (line["status"], line["path"]) == (408, "/")
    assert line["duration"] >= 0.2


async def test_a_client_that_leaves_in_the_body_is_one_line_without_status(log: Log) -> None:
    app = Application()
    async with served(app, access_log=True, graceful_timeout=0.2) as server:
        for action in ("close", "stop"):
            log.clear()
            client = await server.connect(post(b"hello", "/left")[:-3])
            await wait_all_tasks_blocked(0.005)
            if action == "close":
                client.close()
                await server.wait_alone()
            else:
                server.closing.set()
                await client.receive_rest()
                await server.ended.wait()
            lines = [fields for _, event, fields in log if event == "request"]
            assert [(line["path"], line["status"]) for line in lines] == [("/left", None)]
    assert app.asked == []


async def test_thousands_of_pipelined_requests_hold_up_nobody() -> None:
    """Each of the first connection's writes ends within the next body."""
    first = post(b"hello")
    async with served(Application()) as server:
        client = await server.connect(first[:-3])

        async def send() -> None:
            for _ in range(20):
                await client.send((b"llo" + first[:-3]) * 100)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            other = await server.connect()
            answers = 0
            while answers < 2_000:
                if answers % 200 == 0:
                    assert (await other.request(get())).status == 200
                assert (await client.receive_answer()).body == b"POST / hello"
                answers += 1


async def test_a_client_that_reads_nothing_of_a_long_answer_is_cut_off(
    log: Log, tmp_path: Path
) -> None:
    """Over TCP the kernel has the same limit, and may be first."""
    path = f"unix:{tmp_path}/s"
    async with served(Application(), path, send_timeout=0.2, access_log=True) as server:
        client = await server.connect()
        with suppress(trio.BrokenResourceError):  # a slow one is cut off in the middle
            for _ in range(100):
                with trio.move_on_after(0.01):
                    await client.send(get("/long"))
        await server.wait_alone()

    assert "client_too_slow" in {event for _, event, _ in log}
    assert {fields["status"] for _, event, fields in log if event == "request"} == {200}


# What a client gets whose connection is closed.
LEFT = (EOFError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)
ACTIONS = ["stop", "disconnect", "half-close"]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_whatever_happens_at_each_step_a_request_that_is_acted_on_gets_its_answer(
    caplog: pytest.LogCaptureFixture, action: str, *, tls: bool
) -> None:
    """In one connection: a whole request, and one whose body comes later."""
    context = load_certificate(CERTIFICATE, KEY) if tls else None
    step, last, outcomes = 1, False, set()
    while not last:
        app = Application()
        async with served(app, tls=context, **LIMITS) as server:
            client = await connect(server) if tls else await server.connect()

            def act(server: Served = server, client: Client = client) -> None:
                match action:
                    case "stop":
                        server.closing.set()
                    case "disconnect":
                        client.close()
                    case "half-close":
                        client.transport.socket.shutdown(trio.socket.SHUT_WR)

            received = b""
            with At(step, act) as at, suppress(*LEFT):
                await wait_all_tasks_blocked()
                await client.send(get("/created"))
                received += (await client.receive_answer()).body
                await wait_all_tasks_blocked()
                await client.send(post(b"hello", "/full")[:-3])
                await wait_all_tasks_blocked()
                await client.send(b"llo")
                received += (await client.receive_answer()).body
            last = at.steps < step
            server.closing.set()
            await server.ended.wait()
            if action == "stop":
                with suppress(*LEFT):
                    assert await client.receive_rest() == b""
        answers = {b"/created": b"GET /created ", b"/full": b"POST /full hello"}
        if action == "stop":
            assert received == b"".join(answers[target] for target in app.asked)
        else:
            assert b"".join(answers[target] for target in app.asked).startswith(received)
        assert len(app.asked) == len(set(app.asked))
        outcomes.add(len(app.asked))
        step += 1
    # A client that has just connected may send before the stop looks.
    assert outcomes >= {1, 2}
    assert not [record for record in caplog.records if record.exc_info]
