"""One request and its answer: the ASGI side of a connection.

The application runs in the connection's own task. ``receive`` reads from the socket in the task
that calls it and ``send`` writes to it, so nothing is queued between the two, and an application
that wants to know when its client leaves has only to wait in ``receive``.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import h11
import trio
from hypercorn.utils import suppress_body

from trio_jobs.server.body import Body
from trio_jobs.server.exception_groups import is_own_cancellation, leaves
from trio_jobs.server.h11_connection import ClientDisconnectedError, HeaderList
from trio_jobs.server.problems import RefusedError
from trio_jobs.server.target import parse_target

if TYPE_CHECKING:
    from trio_jobs.server.connection import ClientConnection
    from trio_jobs.server.server_context import Message, ServerContext

log = logging.getLogger(__name__)

# How many bytes of later requests are read while waiting for the client to leave.
_LOOK_AHEAD = 65_536


class RequestCycle:
    """Made for each request, and run once."""

    __slots__ = (
        "_answered",
        "_begun",
        "_body_given",
        "_connection",
        "_http",
        "_shared",
        "_start",
        "_watch",
        "body",
        "gone",
        "scope",
        "size",
        "status",
    )

    def __init__(
        self, shared: ServerContext, connection: ClientConnection, request: h11.Request
    ) -> None:
        """Take a request's head apart.

        Raises:
            RefusedError: It is longer than allowed, or not valid HTTP.
        """
        http = connection.http
        self._shared = shared
        self._connection = connection
        self._http = http
        self._start: Message | None = None  # kept back until the first part of the body
        self._begun = False  # something of the answer has been sent
        self._answered = False  # all of it
        self._body_given = False
        self._watch: trio.CancelScope | None = None
        self.gone = False  # the client has left
        self.status: int | None = None
        self.size = 0

        version = request.http_version
        if version[:2] != b"1.":
            raise RefusedError(505, "this server speaks HTTP/1.1 and HTTP/1.0", malformed=True)
        method = request.method.decode("ascii").upper()
        http.head_only = method == "HEAD"
        target = parse_target(method, request.target)
        headers: HeaderList = list(request.headers)
        http.check_head_length(request.target, headers)
        if target.host is not None:
            headers = [pair for pair in headers if pair[0] != b"host"]
            headers.append((b"host", target.host))
        self.body = Body(connection, shared.limits, _body_length(version, headers))
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": version.decode("ascii"),
            "method": method,
            "scheme": "https" if http.ssl else "http",
            "path": target.path,
            "raw_path": target.raw_path,
            "query_string": target.query,
            "root_path": "",
            "headers": headers,
            "client": http.client,
            "server": http.server,
            "state": shared.state.copy(),
            "extensions": {"trio_jobs.body": self.body},
        }

    def check(self) -> None:
        """Pass, if who sends this request is let in.

        Raises:
            RefusedError: With 401 or 403.
        """
        scope = self.scope
        self._shared.guard.check(
            scope["method"], scope["path"], scope["headers"], loopback=self._connection.loopback
        )

    async def run(self) -> None:
        """Have the application answer.

        Returns:
            Once the application has. The answer may be incomplete: the
            connection then is in no state for another request.

        Raises:
            RefusedError: What the application has left to the front door:
                limits that the body broke, and 500 for its own errors.
        """
        if self.scope["path"] == "*":
            await self.send({"type": "http.response.start", "status": 204, "headers": []})
            await self.send({"type": "http.response.body"})
            return
        refusal: RefusedError | None = None
        try:
            await self._shared.app(self.scope, self.receive, self.send)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - the boundary around one request
            # Also what an application should not raise must not end the server.
            refusal = self._blame(error)
        else:
            if not self._answered and not self.gone:
                log.error("request_not_answered", extra=self._fields())
                refusal = _internal_error()
        # What was caught above may have been this task's cancellation.
        await trio.lowlevel.checkpoint_if_cancelled()
        if refusal is not None and not self._begun:
            raise refusal

    async def receive(self) -> Message:
        """ASGI's ``receive``.

        After the body it waits for the client to leave, or for the answer's
        end, and returns ``http.disconnect``.

        Raises:
            RefusedError: The body breaks a limit; see ``Body``.

        Cancellation:
            Takes nothing from the body: the next call goes on.

        Checkpoints:
            Unless the body is there.
        """
        body = self.body
        if not self._body_given:
            if body.whole is not None:
                self._body_given = True
                return {"type": "http.request", "body": body.whole, "more_body": False}
            try:
                part, more = await body.read()
            except ClientDisconnectedError:
                self.gone = True
                await trio.lowlevel.checkpoint()
                return {"type": "http.disconnect"}
            self._body_given = not more
            return {"type": "http.request", "body": part, "more_body": more}
        if not self._answered:
            with trio.CancelScope() as self._watch:
                await self._wait_end()
            self.gone = not self._answered
        # Some applications ask again and again, whatever they are told.
        await trio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's ``send``.

        Raises:
            ClientDisconnectedError: An ``OSError``, as ASGI asks: the client has left.
            RuntimeError: The message is out of order.

        Cancellation:
            An answer that is cut off is not taken up again: the connection
            closes.

        Checkpoints:
            For each message but ``http.response.start``, which is sent
            together with the first part of the body, and a last one that
            has nothing to add.
        """
        kind = message["type"]
        if kind == "http.response.start" and self._start is None:
            self._start = message
            self.status = int(message["status"])
        elif kind == "http.response.body" and self._start is not None and not self._answered:
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.body" and self._answered:
            await trio.lowlevel.checkpoint()  # nobody is waiting for more
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        assert self._start is not None and self.status is not None  # noqa: S101, PT018
        connection = self._http.connection
        out: list[bytes] = []
        if not self._begun:
            headers = [(bytes(n), bytes(v).strip()) for n, v in self._start.get("headers", ())]
            out.append(self._http.head_of_answer(self.status, headers))
            self._begun = True
        if data and not suppress_body(self.scope["method"], self.status):
            self.size += len(data)
            out.append(connection.send(h11.Data(data=data)))
        if not more:
            out.append(connection.send(h11.EndOfMessage()))
            self._answered = True
            if self._watch is not None:
                self._watch.cancel()
        if out := [piece for piece in out if piece]:
            try:
                await self._connection.send_all(b"".join(out))
            except ClientDisconnectedError:
                self.gone = True
                raise
        elif more:
            # An endless answer to HEAD sends nothing; others must have their turn all the same.
            await trio.lowlevel.checkpoint()

    async def _wait_end(self) -> None:
        """Wait until the client closes the connection, or its side of it."""
        with suppress(ClientDisconnectedError):
            while not self._http.eof:
                if self._http.ahead() > _LOOK_AHEAD:
                    # A client that sends so much ahead is there; how it leaves, ``send`` will tell.
                    await trio.sleep_forever()
                self._http.feed(await self._connection.receive_some())

    def _blame(self, error: BaseException) -> RefusedError | None:
        """What to answer after the application has raised; logs what is its own fault."""
        faults = [leaf for leaf in leaves(error) if not isinstance(leaf, trio.Cancelled)]
        for leaf in faults:
            if isinstance(leaf, RefusedError):
                return leaf
        if is_own_cancellation(error):
            return None
        if self.gone and all(isinstance(leaf, ClientDisconnectedError) for leaf in faults):
            return None
        log.error("request_failed", exc_info=error, extra=self._fields())
        return _internal_error()

    def _fields(self) -> dict[str, str]:
        return {
            "method": self.scope["method"],
            "path": self.scope["path"],
            "client": self._connection.client_name,
        }


def _internal_error() -> RefusedError:
    return RefusedError(500, "internal error; the server's log says more")


def _body_length(version: bytes, headers: HeaderList) -> int | None:
    """What ``Content-Length`` says, 0 without it; None for a body in chunks."""
    length: int | None = None
    chunked = False
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    if not chunked:
        return length or 0
    if length is not None or version < b"1.1":
        # Two readers of such a request may see two different bodies in it, and the second of them
        # a request that nobody sent (RFC 9112, 6.1).
        raise RefusedError(
            400, "Transfer-Encoding with Content-Length, or in HTTP/1.0", malformed=True
        )
    return None
