"""How a request reaches a route: in one task, with ASGI's own `receive`.

Quart-Trio starts two tasks for each request: one reads the body into a buffer
without a limit, the other runs the route and is cancelled when the client
leaves. Here a route runs in the connection's task and reads what it needs, at
its own pace. A route that waits long watches `receive` itself.
"""

import math
from contextlib import suppress
from typing import Any, Protocol, cast
from urllib.parse import quote

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from quart import Quart, Response, request
from quart.utils import encode_headers
from quart.wrappers.response import DataBody
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest

from trio_jobs.api.error_handlers import Problem

# How much of a stream is read while its lines wait for room, to see whether the client is there.
_AHEAD_BYTES = 262_144


class ClientDisconnectedError(Problem):
    """The client has left, or shut down its sending side; one that did sees the answer."""

    def __init__(self, detail: str) -> None:
        super().__init__(400, detail)


class FrontDoorBody(Protocol):
    """What a server may offer in ``scope["extensions"]["trio_jobs.body"]``; any other does too.

    Attributes:
        complete: All of the body, if the server has read it already.
    """

    complete: bytes | None

    def lift(self, *, idle_timeout: float) -> None:
        """Take a body of any length, which may take any time."""


class JobRequest(TrioRequest):
    """A request whose body a route reads by `receive`."""

    receive: ASGIReceiveCallable

    @property
    def front_door_body(self) -> FrontDoorBody | None:
        """What the server offers, if it does."""
        extensions: dict[str, Any] = self.scope.get("extensions") or {}
        return extensions.get("trio_jobs.body")

    async def read_chunk(self) -> tuple[bytes, bool]:
        """The next piece of the body, and whether there are more.

        Raises:
            ClientDisconnectedError: In the middle of the body, or after it.
            Problem: As the server puts it.

        Checkpoints:
            As ``receive`` does.
        """
        message = await self.receive()
        if message["type"] != "http.request":
            raise ClientDisconnectedError("the request ended in the middle of its body")
        return message.get("body", b""), message.get("more_body", False)


class RequestAdapter(TrioASGIHTTPConnection):
    """Runs one request."""

    def __init__(self, app: Quart, scope: HTTPScope) -> None:
        root = scope.get("root_path", "").rstrip("/")
        path = scope["path"].removeprefix(root)
        # Quart raises for an empty path (the target `?x`); Werkzeug would make `/jobs` of `//jobs`,
        # and of `jobs`, the rest of `/queuejobs` below a mount at `/queue`. All are answered as
        # `/` is: 404. Only a target in absolute form has another beginning.
        if not path or path.startswith("//") or (root and not path.startswith("/")):
            path = "/"
        if root or path != scope["path"]:
            scope = {**scope, "root_path": root, "path": root + path}
        super().__init__(app, scope)

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Run the route, and send its answer."""
        job_request = cast("JobRequest", self._create_request_from_scope(send))
        job_request.receive = receive
        response = cast("Response", await self.app.handle_request(job_request))
        # No answer holds beyond the next job.
        headers = [*encode_headers(response.headers), (b"cache-control", b"no-store")]
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": headers,
                "trailers": False,
            }
        )
        body = b""
        if self.scope["method"] == "HEAD":
            pass  # nothing is made that would only be thrown away
        elif isinstance(response.response, DataBody):
            body = response.response.data
        else:
            async with response.response as pieces:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def read_body(*, max_bytes: int) -> bytes:
    """The current request's body.

    Raises:
        Problem: 413, it is longer than ``max_bytes``; 415, it is encoded; 400,
            the client stopped in the middle of it; 408, it did not arrive in
            time.

    Checkpoints:
        As ``receive`` does; none if the whole body is there already.
    """
    refuse_encoded_body()
    job_request = current_request()
    if (job_request.content_length or 0) > max_bytes:
        raise _too_long(max_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        chunk, more = await job_request.read_chunk()
        size += len(chunk)
        if size > max_bytes:
            raise _too_long(max_bytes)
        chunks.append(chunk)
        if not more:
            return b"".join(chunks) if len(chunks) > 1 else chunk


def refuse_encoded_body() -> None:
    """Take the current request's body as it is only, not compressed.

    Raises:
        Problem: 415, the request has a ``Content-Encoding``.
    """
    for header in request.headers.getlist("Content-Encoding"):
        for coding in header.split(","):
            if coding.strip(" \t").lower() not in ("", "identity"):
                raise Problem(
                    415,
                    f"Content-Encoding must be identity, as without it, got {header[:100]!r}",
                    # RFC 9110, 12.5.3: what would have been taken. The body has not been read.
                    headers={"Accept-Encoding": "identity", "Connection": "close"},
                )


class BodyStream:
    """The current request's body, of any length, a piece at a time.

    Args:
        idle_timeout: How long, in seconds, the client may send nothing while
            a piece is waited for.
    """

    def __init__(self, *, idle_timeout: float) -> None:
        self._request = current_request()
        self._idle_timeout = idle_timeout
        self._more = True
        self._ahead = bytearray()  # read by `wait_client_left`, not yet by `read`
        self._failure: Problem | None = None  # what ended the reading ahead
        self._front_door = self._request.front_door_body
        self._lift(math.inf)

    async def read(self) -> bytes:
        """The next piece; empty at the end.

        Raises:
            Problem: 408, the client has sent nothing for too long; 400, it
                stopped in the middle.

        Checkpoints:
            As ``receive`` does.
        """
        if self._ahead:
            piece = bytes(self._ahead)
            self._ahead.clear()
            return piece
        if self._failure is not None:
            raise self._failure
        while self._more:
            if chunk := await self._read_in_time():
                return chunk
        return b""

    async def _read_in_time(self) -> bytes:
        """The next chunk, which may be empty.

        The front door looks at the socket before it gives up, and does not
        charge the time in which the loop is blocked. Other servers cannot be
        asked to: there the limit is kept here.
        """
        self._lift(self._idle_timeout)
        seconds = self._idle_timeout if self._front_door is None else math.inf
        with trio.move_on_after(seconds) as scope:
            chunk, self._more = await self._request.read_chunk()
        if scope.cancelled_caught:
            raise Problem(
                408, f"nothing was received for {seconds:g} s", headers={"Connection": "close"}
            )
        return chunk

    def _lift(self, idle_timeout: float) -> None:
        if self._front_door is not None:
            self._front_door.lift(idle_timeout=idle_timeout)

    async def wait_client_left(self) -> None:
        """Wait until the client has left, or has shut down its sending side.

        That is seen only by reading what comes before it. So up to 256 KiB are
        read, and kept for ``read``; who has sent more is taken to be there.

        Cancellation:
            Can be called again, and loses nothing.
        """
        self._lift(math.inf)  # a client that waits for the server may be silent
        while len(self._ahead) <= _AHEAD_BYTES and self._failure is None:
            try:
                chunk, more = await self._request.read_chunk()
            except ClientDisconnectedError:
                return
            except Problem as problem:
                self._failure = problem  # the lines before it still have their turn
            else:
                self._ahead += chunk
                self._more = more
        await trio.sleep_forever()


async def wait_client_left() -> None:
    """Wait until the current request's client has left; what it still sends is dropped.

    Raises:
        Problem: What it still sends breaks a limit of the server's, or is no HTTP.

    Cancellation:
        Can be called again.
    """
    job_request = current_request()
    with suppress(ClientDisconnectedError):
        while True:
            await job_request.read_chunk()


def no_content(headers: dict[str, str] | None = None) -> Response:
    """An answer without a body."""
    response = Response(b"", 204, headers=headers)
    # Nothing follows, and RFC 9110 (8.6) wants no length of it.
    del response.headers["Content-Type"], response.headers["Content-Length"]
    return response


def current_request() -> JobRequest:
    """The request that the current task answers."""
    return cast("JobRequest", request)


def current_path() -> str:
    """The current request's path as its client knows it, with ASGI's ``root_path``."""
    return root_path() + request.path


def root_path() -> str:
    """What a server takes off the paths of the application, as in a URL."""
    return quote(request.root_path.rstrip("/"))


def _too_long(max_bytes: int) -> Problem:
    return Problem(
        413,
        f"the body must be at most {max_bytes} bytes",
        headers={"Connection": "close"},
        limit=max_bytes,
    )
