"""How a request reaches a route: in one task, with ASGI's own `receive`.

Quart-Trio starts two tasks for each request: one reads the body into a buffer
without a limit, the other runs the route and is cancelled when the client
leaves. Here a route runs in the connection's task and reads what it needs, at
its own pace. A route that waits long watches `receive` itself.
"""

from typing import cast

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from quart import Quart, request
from quart.utils import encode_headers
from quart.wrappers.response import DataBody, ResponseBody
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest

from trio_jobs.api.problems import Problem


class JobRequest(TrioRequest):
    """A request whose body a route reads by `receive`."""

    receive: ASGIReceiveCallable


class Connection(TrioASGIHTTPConnection):
    """Runs one request."""

    def __init__(self, app: Quart, scope: HTTPScope) -> None:
        # A target without a path (`GET ?x`) upsets Quart; it names the root.
        super().__init__(app, scope if scope["path"] else {**scope, "path": "/"})

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Run the route, and send its answer."""
        job_request = cast("JobRequest", self._create_request_from_scope(send))
        job_request.receive = receive
        response = await self.app.handle_request(job_request)
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": encode_headers(response.headers),
                "trailers": False,
            }
        )
        body = b""
        if self.scope["method"] == "HEAD":
            pass  # nothing is made that would only be thrown away
        elif isinstance(response.response, DataBody):
            body = response.response.data
        else:
            async with cast("ResponseBody", response.response) as pieces:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def read_body(*, max_bytes: int) -> bytes:
    """The current request's body.

    Raises:
        Problem: 413, it is longer than ``max_bytes``; 400, the client stopped
            in the middle of it.

    Checkpoints:
        As ``receive`` does; none if the whole body is there already.
    """
    job_request = cast("JobRequest", request)
    receive = job_request.receive
    if (job_request.content_length or 0) > max_bytes:
        raise _too_long(max_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            # A client that has only shut down its sending side sees this answer.
            raise Problem(400, "the request ended in the middle of its body")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_long(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks) if len(chunks) > 1 else chunk


def _too_long(max_bytes: int) -> Problem:
    return Problem(
        413,
        f"the body must be at most {max_bytes} bytes",
        headers={"Connection": "close"},
        limit=max_bytes,
    )
