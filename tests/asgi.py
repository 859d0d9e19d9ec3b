"""An ASGI client in the test's own process: no sockets, no limit on pieces, and it can hang up.

It takes any ASGI application. `Client.request` is for whole exchanges;
`Client.open` for those in which the order of things matters.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

Message = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the application answered.

    Attributes:
        status: The HTTP status.
        headers: By name in lower case; the values of a repeated one joined.
        body: All of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401
        """The body, decoded as strictly as msgspec does."""
        return msgspec.json.decode(self.body)


class Exchange:
    """One request and its answer, piece by piece.

    Args:
        buffer: How many pieces of the answer the application can send before
            the client has read them.
    """

    def __init__(self, *, buffer: int = 0) -> None:
        self._to_app, self._from_client = trio.open_memory_channel[Message](0)
        self._to_client, self._from_app = trio.open_memory_channel[Message](buffer)
        self._status = 0
        self._headers: list[tuple[str, str]] = []

    async def run(self, app: App, scope: Message) -> None:
        """Run the application on this exchange, as a server would."""
        try:
            with self._to_client:
                await app(scope, self._receive, self._send)
        except OSError:  # the client has left, and the application lets the server know
            pass

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of the body; returns once the application has taken it."""
        await self._to_app.send({"type": "http.request", "body": data, "more_body": not last})

    def hang_up(self) -> None:
        """Leave: what the application still sends is lost. Can be called again."""
        self._to_app.close()
        self._from_app.close()

    def stop_sending(self) -> None:
        """Shut down the sending side, as if in the middle of the body; answers still arrive."""
        self._to_app.close()

    async def head(self) -> int:
        """Wait for the answer to begin, and return its status."""
        message = await self._from_app.receive()
        assert message["type"] == "http.response.start", message
        self._status = message["status"]
        self._headers = [
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in message["headers"]
        ]
        return self._status

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The pieces of the answer's body, as the application sends them."""
        more = True
        while more:
            message = await self._from_app.receive()
            assert message["type"] == "http.response.body", message
            yield message.get("body", b"")
            more = message.get("more_body", False)

    async def answer(self) -> Answer:
        """Wait for the whole answer."""
        await self.head()
        body = b"".join([piece async for piece in self.pieces()])
        headers: dict[str, str] = {}
        for name, value in self._headers:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Answer(status=self._status, headers=headers, body=body)

    async def _receive(self) -> Message:
        try:
            return await self._from_client.receive()
        except trio.EndOfChannel:
            return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        try:
            await self._to_client.send(message)
        except trio.BrokenResourceError:
            raise OSError("the client has left") from None


class Client:
    """Makes requests to an application.

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
        self, target: str, body: bytes | Iterable[bytes] = b"", /, **headers: str
    ) -> Answer:
        """``POST``, the body in one piece or in several."""
        return await self.request("POST", target, body=body, headers=_dashed(headers))

    async def request(
        self,
        method: str,
        target: str,
        *,
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request and its whole answer; the client stays until the end of it."""
        pieces = [body] if isinstance(body, bytes) else [*body, b""]
        async with self.open(method, target, headers=headers) as exchange, trio.open_nursery() as n:

            @n.start_soon
            async def send_body() -> None:
                for piece in pieces[:-1]:
                    await exchange.send(piece)
                await exchange.send(pieces[-1], last=True)

            answer = await exchange.answer()
            n.cancel_scope.cancel()  # an early answer: the rest of the body is of no use
        return answer

    @asynccontextmanager
    async def open(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        buffer: int = 0,
    ) -> AsyncIterator[Exchange]:
        """Begin a request; leaving the block hangs up, and waits for the application to end."""
        path, _, query = target.partition("?")
        exchange = Exchange(buffer=buffer)
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode("latin-1"))
                for name, value in {"host": "test", **(headers or {})}.items()
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
            "extensions": self._extensions,
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.run, self._app, scope)
            try:
                yield exchange
            finally:
                exchange.hang_up()


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
