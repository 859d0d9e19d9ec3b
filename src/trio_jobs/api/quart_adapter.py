"""`RequestAdapter`: runs one request's route in the connection's task, with ASGI's `receive`.

Quart-Trio starts two tasks for each request: one reads the body into a buffer
without a limit, the other runs the route and is cancelled when the client
disconnects. Here a route reads the body at its own pace, and a route that
waits learns of a disconnect from `receive`.
"""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast
from urllib.parse import quote

from quart import Quart, Response, request
from quart.utils import encode_headers
from quart.wrappers.response import DataBody
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest

from trio_jobs.api.answers import Answer

# No cache may keep an answer about jobs: the next job makes it outdated.
NO_STORE = (b"cache-control", b"no-store")

_NOWHERE = "/-"

# `Any`, because ASGI's messages are open dictionaries.
Message = dict[str, Any]


class ServerBody(Protocol):
    """The body as the server of the command offers it to an application.

    It is ``scope["extensions"]["trio_jobs.body"]``; other servers do not set this key.

    Attributes:
        complete: The whole body, if the server has read it already.
    """

    complete: bytes | None

    def lift(self, *, idle_timeout: float) -> None:
        """Lift the limits of length and total time; limit idle time, in seconds, instead."""

    async def open_pipe(self, *, idle_timeout: float) -> None:
        """``lift``, and let the answer begin before the body's end.

        The caller sends the answer's head next. The server sends ``100 Continue`` before it, leaves
        ``Connection: close`` out of it if the client is still sending, and lets the client read
        nothing for a long time.

        Raises:
            OSError: The client has disconnected.
        """

    async def wait_gone(self) -> None:
        """Return when the client is known to be gone, without reading any of the body."""


class JobRequest(TrioRequest):
    """A request whose route reads the body."""

    receive: Callable[[], Awaitable[Any]]

    @property
    def host(self) -> str:
        """Empty, because no answer depends on ``Host``.

        Before any error handler of Quart's runs, Werkzeug raises on a name such as ``a..b``.
        """
        return ""

    @property
    def server_body(self) -> ServerBody | None:
        """The server's extension for the body; None behind another server."""
        extensions: dict[str, Any] = self.scope.get("extensions") or {}
        return extensions.get("trio_jobs.body")

    async def read_chunk(self) -> tuple[bytes, bool] | None:
        """The next piece of the body, and whether more will come.

        Returns:
            None once the client has disconnected, or shut down its sending
            side before the end.

        Raises:
            Problem: The body breaks a limit of the server.

        Checkpoints:
            As ``receive`` does.
        """
        message = await self.receive()
        if message["type"] != "http.request":
            return None
        return message.get("body", b""), message.get("more_body", False)

    async def wait_disconnected(self) -> None:
        """Wait until the client disconnects; drop the bytes it sends until then.

        Raises:
            Problem: The rest of the body breaks a limit of the server.

        Cancellation:
            The dropped bytes are lost; a later call waits on.
        """
        while await self.read_chunk() is not None:
            pass


class LiveResponse(Response):
    """An answer whose body is sent while things happen, by a method of its own.

    A generator could not do this: it must not hold the nursery in which another task notices that
    the client disconnects.

    Args:
        content_type: Of the body.
    """

    def __init__(self, content_type: str) -> None:
        # The header has nginx pass each piece on at once.
        super().__init__(content_type=content_type, headers={"X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]

    @abstractmethod
    async def answer(self, start: Message, send: Callable[[Message], Awaitable[None]]) -> None:
        """Send the whole answer, by ASGI; ``start`` is its first message.

        It runs after Quart's request context. Nothing awaits between the route and this method. A
        ``HEAD`` does not call it.
        """


class RequestAdapter(TrioASGIHTTPConnection):
    """Runs one request."""

    def __init__(self, app: Quart, scope: Any) -> None:  # noqa: ANN401
        root = scope.get("root_path", "").rstrip("/")
        path = scope["path"].removeprefix(root)
        # Three paths become one that has no route. An empty path (the target `?x`) makes Quart
        # raise. Werkzeug turns `//jobs` into `/jobs`. Below a mount at `/queue`, the path
        # `/queuejobs` leaves `jobs`, which Werkzeug turns into `/jobs` too.
        if not path or path.startswith("//") or (root and not path.startswith("/")):
            path = _NOWHERE
        if root or path != scope["path"]:
            scope = {**scope, "root_path": root, "path": root + path}
        super().__init__(app, scope)

    async def __call__(self, receive: Any, send: Any) -> None:  # noqa: ANN401
        """Run the route, and send its answer."""
        job_request = cast("JobRequest", self._create_request_from_scope(send))
        job_request.receive = receive
        response = cast("Response", await self.app.handle_request(job_request))
        headers = encode_headers(response.headers)
        if "Cache-Control" not in response.headers:
            headers.append(NO_STORE)
        start = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": headers,
            "trailers": False,
        }
        head_only = self.scope["method"] == "HEAD"
        if isinstance(response, LiveResponse) and not head_only:
            await response.answer(start, send)
            return
        await send(start)
        body = b""
        if head_only:
            pass  # do not encode a listing for nothing
        elif isinstance(response.response, DataBody):
            body = response.response.data
        else:
            async with response.response as pieces:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": body, "more_body": False})


def current_request() -> JobRequest:
    """The request that the current task answers."""
    return cast("JobRequest", request)


def current_path() -> str:
    """The current request's path as its client knows it, with ASGI's ``root_path``."""
    return root_path() + request.path


def root_path() -> str:
    """The path at which the application is mounted, percent-encoded; empty without a mount."""
    return quote(request.root_path)


def to_response(answer: Answer) -> Response:
    """A route's answer, for Quart."""
    return Response(
        answer.body, answer.status, headers=answer.headers, content_type=answer.media_type
    )


def no_content(headers: dict[str, str] | None = None, *, status: int = 204) -> Response:
    """An answer without a body, 204 or 304."""
    response = Response(b"", status, headers=headers)
    # RFC 9110, 8.6: a 204 has no length, and that of a 304 would be the file's.
    del response.headers["Content-Type"], response.headers["Content-Length"]
    return response
