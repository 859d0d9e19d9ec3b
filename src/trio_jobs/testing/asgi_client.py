"""An ASGI client in the test's own process: no sockets, no limit on pieces, and it can hang up.

It takes any ASGI application. `Client.request` is for whole exchanges;
`Client.open` for those in which the order of things matters.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

import msgspec
import trio

Message = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]
Data = bytes | bytearray | memoryview | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the application answered.

    Attributes:
        status: The HTTP status.
        headers: By name in lower case; the values of a repeated one joined by
            commas, which for ``set-cookie`` cannot be undone.
        body: All of it.
        all_headers: Name and value of each header, in the order they came in.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    all_headers: tuple[tuple[str, str], ...] = ()

    def json(self) -> Any:  # noqa: ANN401
        """The body, decoded as strictly as msgspec does."""
        return msgspec.json.decode(self.body)


class _ClientGoneError(OSError):
    pass


def _tells_of_leaving(error: BaseException | None) -> bool:
    """Whether it is that error, nothing but groups of it, or what was raised in its place."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_tells_of_leaving, error.exceptions))
    while error is not None and not isinstance(error, _ClientGoneError):
        # In its place is what `raise … from …` raises, as in Quart from 0.23 on. What merely
        # happens while the application unwinds is a fault of its own.
        error = error.__context__ if error.__suppress_context__ else None
    return error is not None


class OpenRequest:
    """One request and its answer, piece by piece; `Client.open` makes and runs it.

    Args:
        buffer: How many pieces of the answer the application can send before
            the client has read them.
    """

    def __init__(self, *, buffer: int = 0) -> None:
        self._to_app, self._from_client = trio.open_memory_channel[Message](0)
        self._to_client, self._from_app = trio.open_memory_channel[Message](buffer)
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._more = True  # of the answer's body

    async def run(self, app: App, scope: Message) -> None:
        """Run the application on this exchange, as a server would.

        Sending to a client that has left raises an ``OSError``, as ASGI has it.
        When the application passes that on, in a group of its nurseries' or
        not, the exchange ends like a return. Every other error is raised.
        """
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            if not _tells_of_leaving(error):
                raise
        # Not after an error: that is to be seen, and not that nothing comes any more.
        self._to_client.close()
        self._from_client.close()

    async def send(self, data: Data, *, last: bool = False) -> None:
        """Send a piece of the body; returns once the application has taken it.

        Raises:
            trio.BrokenResourceError: The application has ended without it.
            TypeError: It is neither bytes nor text.
        """
        message = {"type": "http.request", "body": _as_bytes(data), "more_body": not last}
        await self._to_app.send(message)

    def hang_up(self) -> None:
        """Leave: the application is told, and what it still sends is lost. Can be called again."""
        self._to_app.close()
        self._from_app.close()

    def stop_sending(self) -> None:
        """Shut down the sending side, as if in the middle of the body; answers still arrive."""
        self._to_app.close()

    async def head(self) -> int:
        """Wait for the answer to begin, and return its status.

        Raises:
            trio.EndOfChannel: The application has ended without an answer.
        """
        message = await self._from_app.receive()
        assert message["type"] == "http.response.start", message
        self._status = message["status"]
        self._headers = [
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in message["headers"]
        ]
        return self._status

    def pieces(self) -> AsyncIterator[bytes]:
        """The pieces of the answer's body, as the application sends them; after `head`.

        An iteration may be left, and another one goes on from there.

        Raises:
            trio.EndOfChannel: The application has ended before its answer had.
        """
        return _Pieces(self._receive_piece)

    async def _receive_piece(self) -> bytes:
        if not self._more:
            raise StopAsyncIteration
        message = await self._from_app.receive()
        assert message["type"] == "http.response.body", message
        self._more = message.get("more_body", False)
        return cast("bytes", message.get("body", b""))

    async def answer(self) -> Answer:
        """Wait for the whole answer; instead of `head` and `pieces`."""
        await self.head()
        body = b"".join([piece async for piece in self.pieces()])
        headers: dict[str, str] = {}
        for name, value in self._headers:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Answer(
            status=self._status, headers=headers, body=body, all_headers=tuple(self._headers)
        )

    async def _receive(self) -> Message:
        try:
            return await self._from_client.receive()
        except trio.EndOfChannel:
            return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        try:
            await self._to_client.send(message)
        except trio.BrokenResourceError:
            raise _ClientGoneError("the client has left") from None


class _Pieces(AsyncIterator[bytes]):
    """No generator: Trio warns of one that is left before its end."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        self._receive = receive

    async def __anext__(self) -> bytes:
        return await self._receive()


class Client:
    """Makes requests to an application.

    There is nothing around the application: what it does when a server starts
    and stops (ASGI's lifespan, Quart's ``before_serving``) is left to the test.

    Args:
        app: The application.
        extensions: What the server offers, for ``scope["extensions"]``.
    """

    def __init__(self, app: App, *, extensions: Mapping[str, object] | None = None) -> None:
        self._app = app
        self._extensions = dict(extensions or {})

    async def get(self, target: str, **headers: str) -> Answer:
        """``GET``; a header's name is given with underscores."""
        return await self.request("GET", target, headers=_dashed(headers))

    async def post(
        self,
        target: str,
        body: Data | Iterable[Data] = b"",
        /,
        *,
        json: object = msgspec.UNSET,
        **headers: str,
    ) -> Answer:
        """``POST``; for the body see `request`, a header's name is given with underscores."""
        return await self.request("POST", target, body=body, json=json, headers=_dashed(headers))

    async def request(
        self,
        method: str,
        target: str,
        *,
        body: Data | Iterable[Data] = b"",
        json: object = msgspec.UNSET,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request and its whole answer; the client stays until the end of it.

        Args:
            method: The method.
            target: The path, percent-encoded, and the query if there is one.
            body: Bytes, or text, which is sent as UTF-8; or an iterable of
                these, sent in as many pieces.
            json: Instead of a body, what to send as JSON, and to call JSON
                unless there is a header ``content-type``.
            headers: By name.

        Raises:
            TypeError: The body is something else.
            trio.EndOfChannel: The application has ended before its answer had.
            BaseException: What the application has raised.
        """
        if json is not msgspec.UNSET:
            if body != b"":
                raise TypeError("a request has a body or json, not both")
            body = msgspec.json.encode(json)
            headers = dict(headers or {})
            if "content-type" not in {name.lower() for name in headers}:
                headers["content-type"] = "application/json"
        *pieces, last = _in_pieces(body)
        async with self._running(method, target, headers=headers, buffer=0) as (exchange, nursery):

            @nursery.start_soon
            async def send_body() -> None:
                # An early answer: the rest of the body is of no use.
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    for piece in pieces:
                        await exchange.send(piece)
                    await exchange.send(last, last=True)

            return await exchange.answer()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        buffer: int = 0,
    ) -> AsyncIterator[OpenRequest]:
        """Begin a request; leaving the block hangs up, and waits for the application to end.

        Args:
            method: The method.
            target: The path, percent-encoded, and the query if there is one.
            headers: By name.
            buffer: How many pieces of the answer the application can send
                before the client has read them.

        Raises:
            BaseException: What the application has raised, which also cancels
                the block; a group if that has raised something itself.
        """
        async with self._running(method, target, headers=headers, buffer=buffer) as (exchange, _):
            yield exchange

    @asynccontextmanager
    async def _running(
        self, method: str, target: str, *, headers: Mapping[str, str] | None, buffer: int
    ) -> AsyncIterator[tuple[OpenRequest, trio.Nursery]]:
        path, _, query = target.partition("?")
        exchange = OpenRequest(buffer=buffer)
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode("latin-1"))
                for name, value in {"host": "test", **(headers or {})}.items()
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("test", 80),
            "extensions": self._extensions,
        }
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange.run, self._app, scope)
                try:
                    yield exchange, nursery
                finally:
                    exchange.hang_up()
        except BaseExceptionGroup as group:
            # The group is the nursery's doing. One member alone says more without it.
            if len(group.exceptions) > 1:
                raise
            failure = group.exceptions[0]
        if failure is not None:
            # Raised anew it would get the cancellation of the block as its context.
            context = failure.__context__
            try:
                raise failure
            finally:
                failure.__context__ = context


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _in_pieces(body: Data | Iterable[Data]) -> list[bytes]:
    """At least one."""
    if isinstance(body, Data):
        return [_as_bytes(body)]
    if isinstance(body, Mapping) or not isinstance(body, Iterable):
        raise TypeError(_wrong_body(body))
    return [*map(_as_bytes, body), b""]


def _as_bytes(data: Data) -> bytes:
    if not isinstance(data, Data):
        raise TypeError(_wrong_body(data))
    return data.encode() if isinstance(data, str) else bytes(data)


def _wrong_body(body: object) -> str:
    return (
        "the body must be bytes or text, or an iterable of these, or else given as json=,"
        f" got {body!r:.100}"
    )
