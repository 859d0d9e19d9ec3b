"""An ASGI client in the test's own process: no sockets, and it can disconnect at any point.

`Client.request` is a whole exchange; `Client.open` takes one apart, for tests of the order of
events. Any ASGI application will do.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
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
    """An application's answer.

    Attributes:
        status: The HTTP status.
        headers: Values by name in lower case. Commas join the values of a
            repeated header, which is ambiguous for ``set-cookie``.
        body: The whole body.
        all_headers: Name and value of each header, in the order of arrival.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    all_headers: tuple[tuple[str, str], ...] = ()

    def json(self) -> Any:  # noqa: ANN401
        """The body, decoded by msgspec; raises ``msgspec.DecodeError`` if it is not strict JSON."""
        return msgspec.json.decode(self.body)


class _DisconnectedError(OSError):
    """The application sends to a client that has disconnected."""


def _stems_from_disconnect(error: BaseException | None) -> bool:
    """Whether an error is a `_DisconnectedError`, a group of these, or was raised in its place."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_stems_from_disconnect, error.exceptions))
    while error is not None and not isinstance(error, _DisconnectedError):
        # "In its place" is `raise … from …`, as in Quart from 0.23 on. Any other error while the
        # application unwinds is a fault of its own.
        error = error.__context__ if error.__suppress_context__ else None
    return error is not None


class OpenRequest(AsyncIterator[bytes]):
    """One request and its answer, piece by piece; `Client.open` makes and runs it.

    Args:
        nursery: The application runs in it.
        buffer: How many pieces of the answer the application can send ahead of
            the client's reading.
    """

    def __init__(self, nursery: trio.Nursery, *, buffer: int = 0) -> None:
        self._nursery = nursery
        self._to_app, self._from_client = trio.open_memory_channel[Message](0)
        self._to_client, self._from_app = trio.open_memory_channel[Message](buffer)
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._more = True  # pieces of the answer's body are to come

    async def run(self, app: App, scope: Message) -> None:
        """Run the application on this exchange, as a server would.

        Sending to a disconnected client raises an ``OSError``, as ASGI asks. If
        that error leaves the application, alone or in groups, the exchange ends
        as if the application had returned. Every other error is raised.
        """
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            if not _stems_from_disconnect(error):
                raise
        # After an error the channels stay open: the client's `EndOfChannel` would hide the error.
        self._to_client.close()
        self._from_client.close()

    async def send(self, data: Data, *, last: bool = False) -> None:
        """Send a piece of the body, and wait until the application has received it.

        Raises:
            trio.BrokenResourceError: The application has ended without receiving it.
            TypeError: The piece is neither bytes nor text.
        """
        message = {"type": "http.request", "body": _as_bytes(data), "more_body": not last}
        await self._to_app.send(message)

    def _send_in_background(self, pieces: Sequence[bytes]) -> None:
        @self._nursery.start_soon
        async def send_all() -> None:
            # The application may answer, and end, before it has received everything.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                for piece in pieces[:-1]:
                    await self.send(piece)
                await self.send(pieces[-1], last=True)

    def hang_up(self) -> None:
        """Disconnect: the application is told, and the rest of its answer is lost. Idempotent."""
        self._to_app.close()
        self._from_app.close()

    def stop_sending(self) -> None:
        """Stop sending: the application receives ``http.disconnect``; its answer still arrives."""
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

        A later iteration continues where an earlier one stopped.

        Raises:
            trio.EndOfChannel: The application has ended without completing its answer.
        """
        return self  # no generator: Trio warns of a generator that is not exhausted

    async def __anext__(self) -> bytes:
        if not self._more:
            raise StopAsyncIteration
        message = await self._from_app.receive()
        assert message["type"] == "http.response.body", message
        self._more = message.get("more_body", False)
        return cast("bytes", message.get("body", b""))

    async def answer(self) -> Answer:
        """Wait for the whole answer; replaces `head` and `pieces`."""
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
            raise _DisconnectedError("the client has disconnected") from None


class Client:
    """Makes requests to an application, without its lifespan.

    Args:
        app: The application.
        extensions: The server's ``scope["extensions"]``.
    """

    def __init__(self, app: App, *, extensions: Mapping[str, object] | None = None) -> None:
        self._app = app
        self._extensions = dict(extensions or {})

    async def get(self, target: str, **headers: str) -> Answer:
        """``GET``; underscores in a header's name become dashes."""
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
        """``POST``, with a body as in `request`; underscores in a header's name become dashes."""
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
        """Make one request and return its whole answer.

        Args:
            method: The method.
            target: The path, percent-encoded, and the query, if any.
            body: Bytes, or text to send as UTF-8; or an iterable of these, to
                send in as many pieces.
            json: A value to send as JSON instead of a body. The client adds
                ``content-type: application/json`` unless that header is given.
            headers: Values by name.

        Raises:
            TypeError: The body is something else.
            trio.EndOfChannel: The application has ended without completing its answer.
            BaseException: The error that has left the application.
        """
        if json is not msgspec.UNSET:
            if body != b"":
                raise TypeError("a request has a body or json, not both")
            body = msgspec.json.encode(json)
            headers = dict(headers or {})
            if "content-type" not in {name.lower() for name in headers}:
                headers["content-type"] = "application/json"
        pieces = _in_pieces(body)
        async with self.open(method, target, headers=headers) as exchange:
            exchange._send_in_background(pieces)
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
        """Begin a request; leaving the block disconnects, and waits for the application to end.

        Args:
            method: See `request`.
            target: See `request`.
            headers: See `request`.
            buffer: See `OpenRequest`.

        Raises:
            BaseException: The error that has left the application. It also cancels
                the block; if the block raises an error as well, a group of both.
        """
        path, _, query = target.partition("?")
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
                exchange = OpenRequest(nursery, buffer=buffer)
                nursery.start_soon(exchange.run, self._app, scope)
                try:
                    yield exchange
                finally:
                    exchange.hang_up()
        except BaseExceptionGroup as group:
            # A single error says more without the group that the nursery puts around it.
            if len(group.exceptions) > 1:
                raise
            failure = group.exceptions[0]
        if failure is not None:
            # Raising it again would make the cancellation of the block its context.
            context = failure.__context__
            try:
                raise failure
            finally:
                failure.__context__ = context


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _in_pieces(body: Data | Iterable[Data]) -> list[bytes]:
    """The pieces of a body, at least one."""
    if isinstance(body, Iterable) and not isinstance(body, Data | Mapping):
        return [*map(_as_bytes, body), b""]
    return [_as_bytes(cast("Data", body))]


def _as_bytes(data: Data) -> bytes:
    if not isinstance(data, Data):
        raise TypeError(
            "the body must be bytes or text, or an iterable of these, or else given as json=,"
            f" got {data!r:.100}"
        )
    return data.encode() if isinstance(data, str) else bytes(data)
