"""An HTTP server on loopback for one test, and clients that speak to it in bytes."""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import trio

from tests.support import Access, AccessControl, HttpSettings, Sessions, TokenTable
from trio_jobs.server.body import RequestBody
from trio_jobs.server.serve import serve
from trio_jobs.server.sockets import bind_sockets

# No test should come near this; it turns a deadlock into a failure.
PATIENCE = 60.0

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Fields = Mapping[bytes, bytes]
AnswerNow = tuple[int, Headers, bytes]


def timeouts(seconds: float) -> dict[str, Any]:
    """Settings for `served`: each of its time limits is so long."""
    names = ("keep_alive", "header", "body", "send", "graceful")
    return {f"{name}_timeout": seconds for name in names}


@dataclass(slots=True)
class Answer:
    """One response, taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - it is JSON
        return json.loads(self.body)


class Client:
    """One connection, with what has been read ahead of the answer in hand."""

    def __init__(self, stream: trio.abc.HalfCloseableStream | trio.SSLStream[Any]) -> None:
        self.stream: Any = stream
        self._ahead = bytearray()

    def ahead(self, data: bytes | bytearray) -> None:
        """Take what has been read from the stream by other means."""
        self._ahead += data

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive_answer(self, *, head_only: bool = False) -> Answer:
        """One answer, by its own framing."""
        head = await self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines if line)
        headers = {name.lower(): value for name, value in pairs}
        status = int(first.split(" ")[1])
        if status < 200 or status == 204 or head_only:
            return Answer(status, headers, b"")
        if "content-length" in headers:
            return Answer(status, headers, await self._exactly(int(headers["content-length"])))
        if "transfer-encoding" not in headers:
            return Answer(status, headers, await self.receive_rest())
        body = b""
        while length := int((await self._until(b"\r\n")).split(b";")[0], 16):
            body += await self._exactly(length)
            await self._exactly(2)
        await self._exactly(2)
        return Answer(status, headers, body)

    async def request(self, data: bytes) -> Answer:
        """Send bytes, and read the answer to them."""
        await self.send(data)
        return await self.receive_answer()

    async def receive_rest(self) -> bytes:
        """Everything up to the connection's end, also if it is reset."""
        rest = bytes(self._ahead)
        self._ahead.clear()
        try:
            while data := await self.stream.receive_some(65536):
                rest += data
        except trio.BrokenResourceError:
            pass
        return rest

    @property
    def transport(self) -> trio.SocketStream:
        """What is below TLS, if there is any."""
        stream = self.stream
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        assert isinstance(stream, trio.SocketStream)
        return stream

    def close(self) -> None:
        """Close without a word, as a client does that is killed."""
        self.transport.socket.close()

    async def _until(self, end: bytes) -> bytes:
        while end not in self._ahead:
            await self._more()
        found, _, rest = bytes(self._ahead).partition(end)
        self._ahead[:] = rest
        return found

    async def _exactly(self, count: int) -> bytes:
        while len(self._ahead) < count:
            await self._more()
        found = bytes(self._ahead[:count])
        del self._ahead[:count]
        return found

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError(bytes(self._ahead))
        self._ahead += data


@dataclass(slots=True)
class Served:
    """A running HTTP server.

    Attributes:
        answers_now: Whether the server asks applications for answers without ASGI.
    """

    answers_now: ClassVar[bool] = True

    port: int
    closing: trio.Event
    urls: tuple[str, ...]
    ended: trio.Event
    nursery: trio.Nursery
    clients: list[Client] = field(default_factory=list)

    async def connect(self, data: bytes = b"", *, host: str = "127.0.0.1") -> Client:
        """A connection over which so much has been sent; closed at the end of the test."""
        url = self.urls[0]
        if url.startswith("unix:"):
            client = Client(await trio.open_unix_socket(url.removeprefix("unix:")))
        else:
            client = Client(await trio.open_tcp_stream(host, self.port))
        self.clients.append(client)
        await client.send(data)
        return client

    def connections(self) -> int:
        """How many connections the server has now."""
        return sum(
            task.name.endswith("Listener._serve")
            for nursery in self.nursery.child_tasks
            for task in _descendants(nursery)
        )

    async def wait_alone(self) -> None:
        """Wait until the server has no connection any more."""
        while self.connections():  # noqa: ASYNC110 - nothing tells
            await trio.sleep(0.01)

    async def request(self, data: bytes) -> Answer:
        """Ask over a connection of its own."""
        client = await self.connect()
        try:
            return await client.request(data)
        finally:
            client.close()

    async def exchange(self, data: bytes) -> bytes:
        """Send bytes over a connection of its own, close its sending side, read to the end."""
        client = await self.connect()
        try:
            try:
                await client.send(data)
                await client.stream.send_eof()
            except trio.BrokenResourceError:
                pass  # refused before all of it was sent
            return await client.receive_rest()
        finally:
            client.close()


@asynccontextmanager
async def served(
    app: Any,  # noqa: ANN401 - ASGI applications have many types
    *addresses: str,
    patience: float = PATIENCE,
    tls: ssl.SSLContext | None = None,
    tokens: TokenTable | None = None,
    sessions: Sessions | None = None,
    **options: Any,  # noqa: ANN401 - settings, one token, and arguments of `serve`
) -> AsyncIterator[Served]:
    """Serve an application while the block runs, and stop when it ends."""
    if not Served.answers_now:
        app = partial(_call, app)
    listeners = bind_sockets(addresses or ["127.0.0.1:0"], tls=tls)
    names = (options.keys() & HttpSettings.__dataclass_fields__.keys()) - {"token"}
    settings = HttpSettings(**{name: options.pop(name) for name in names})
    access_control = AccessControl(
        allowed_hosts=[*settings.allowed_hosts, *listeners.names],
        tokens=TokenTable.of_one(options.pop("token")) if "token" in options else tokens,
        health_path=options.get("health_path", ""),
        sessions=sessions,
    )
    closing = trio.Event()
    ended = trio.Event()

    async def run(  # noqa: ASYNC114, ASYNC128 - hands it on
        task_status: trio.TaskStatus[tuple[str, ...]],
    ) -> None:
        await serve(
            app,
            listeners,
            settings,
            access_control,
            closing=closing,
            task_status=task_status,
            **options,
        )
        ended.set()

    with trio.fail_after(patience):
        async with trio.open_nursery() as nursery:
            urls = await nursery.start(run)
            port = int(urls[0].rpartition(":")[2]) if "://" in urls[0] else 0
            server = Served(port, closing, urls, ended, nursery)
            try:
                yield server
            finally:
                for client in server.clients:
                    client.close()
            closing.set()
            await ended.wait()


async def _call(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Call an application that shows none of its other methods."""
    await app(scope, receive, send)


def _descendants(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _descendants(child)


def get(path: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request without a body."""
    head = [f"{method} {path} HTTP/{version}", "Host: localhost", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1")


def post(body: bytes, path: str = "/", *lines: str) -> bytes:
    """A request with a body of declared length."""
    return get(path, f"Content-Length: {len(body)}", *lines, method="POST") + body


def chunked(*chunks: bytes, path: str = "/") -> bytes:
    """A request with a body in chunks."""
    head = get(path, "Transfer-Encoding: chunked", method="POST")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])


def http_only(handler: App) -> App:
    """An application without a lifespan."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await handler(scope, receive, send)

    return app


START: Message = {"type": "http.response.start", "status": 200}


def part(body: bytes, *, more: bool = False) -> Message:
    """A part of an answer's body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def sending(*messages: Message | BaseException) -> App:
    """An application that sends these, and raises the first that is an error."""

    @http_only
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in messages:
            if isinstance(message, BaseException):
                raise message
            await send(message)

    return app


async def answer(send: Send, body: bytes = b"", status: int = 200) -> None:
    """Send a whole answer."""
    headers = [(b"content-length", b"%d" % len(body))]
    await send(START | {"status": status, "headers": headers})
    await send(part(body))


def now(body: bytes, status: int = 200) -> AnswerNow:
    """The same whole answer, from ``answer_now``."""
    return status, [(b"content-length", b"%d" % len(body))], body


class Echo:
    """Answers with the request's body; by ASGI like a stock application, or at once."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        await answer(send, body)

    def answer_now(
        self, _method: str, _target: bytes, _fields: Fields, body: bytes, _access: Access
    ) -> AnswerNow | None:
        return now(body)


echo = Echo()


def body_of(scope: Scope) -> RequestBody:
    """What the HTTP server offers beyond ASGI."""
    body = scope["extensions"]["trio_jobs.body"]
    assert isinstance(body, RequestBody)
    return body
