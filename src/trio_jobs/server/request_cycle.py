"""One request and its answer: the ASGI side of a connection.

The application runs in the connection's task. Its calls of ``receive`` and ``send`` read and write
the socket themselves: nothing is queued in between. An application that waits in ``receive``
notices when its client disconnects.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import h11
import trio
from hypercorn.utils import suppress_body

from trio_jobs.access import EXTENSION
from trio_jobs.problem_details import Problem
from trio_jobs.server.access_control import fields_of
from trio_jobs.server.body import RequestBody
from trio_jobs.server.client_stream import ClientDisconnectedError
from trio_jobs.server.exception_groups import is_own_cancellation, leaves
from trio_jobs.server.request_head import HeaderList, parse_head

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from trio_jobs.access import Access
    from trio_jobs.server.access_control import Fields
    from trio_jobs.server.h11_connection import H11Connection
    from trio_jobs.server.server_context import Answer, Message, ServerContext

log = logging.getLogger(__name__)

# How many bytes of later requests ``receive`` may read ahead while it waits for a disconnect.
_LOOK_AHEAD = 65_536
_INTERNAL_ERROR = "internal error; the server's log has more"


class RequestCycle:
    """Made for each request, and run once.

    Attributes:
        scope: The request's ASGI scope.
        disconnected: The client has disconnected, or closed its sending side after the body.
        status: The answer's status; None until the application has given it.
        size: The bytes of the answer's body so far.
    """

    def __init__(
        self, context: ServerContext, http: H11Connection, request: h11.Request, *, loopback: bool
    ) -> None:
        """Parse the head; raise Problem if it is too long, or not valid HTTP."""
        self._context = context
        self._http = http
        self._loopback = loopback
        self._headers: HeaderList | None = None  # sent together with the first part of the body
        self._begun = False  # some of the answer has been sent
        self._answered = False  # all of the answer has been sent
        self._body_given = False
        self._watch: trio.CancelScope | None = None
        self.disconnected = False
        self.status: int | None = None
        self.size = 0

        http.head_only = request.method.upper() == b"HEAD"
        head, length = parse_head(request, max_bytes=context.settings.max_header_bytes)
        self._target = request.target
        self._body = RequestBody(http, context.settings, length)
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "scheme": "https" if http.tls else "http",
            "root_path": "",
            "client": http.client,
            "server": http.server,
            "state": context.state.copy(),
            "extensions": {"trio_jobs.body": self._body},
            **head,
        }

    async def run(self) -> None:
        """Check the client's access, read a short body, and have the application answer.

        If the answer is incomplete afterwards, the connection can serve no further request.

        Raises:
            Problem: The caller has to answer with it: the client has no access, the body breaks a
                limit, or the application has failed (500). No answer has begun.
            ClientDisconnectedError: The client disconnected before the end of a short body.
        """
        scope, fields = self.scope, fields_of(self.scope["headers"])
        access = self._context.access_control.check(
            scope["method"], scope["path"], fields, loopback=self._loopback
        )
        scope["extensions"][EXTENSION] = access
        await self._body.read_short()
        problem: Problem | None = None
        try:
            if (answer := self._answer_now(fields, access)) is None:
                await self._context.app(scope, self.receive, self.send)
            else:
                answered = answer if isinstance(answer, tuple) else await answer
                self.status, self._headers, body = answered
                await self._send_body(body, more=False)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - the boundary around one request
            # It would end the connection; the client gets an answer instead.
            problem = self._classify_failure(error)
        else:
            if not self._answered and not self.disconnected:
                log.error("request_not_answered", extra=self._fields())
                problem = Problem(500, _INTERNAL_ERROR)
        # If this task's cancellation was caught above, raise it again.
        await trio.lowlevel.checkpoint_if_cancelled()
        if problem is not None and not self._begun:
            raise problem

    def _answer_now(self, fields: Fields, access: Access) -> Answer | Awaitable[Answer] | None:
        """The answer to ``OPTIONS *``, or the application's without ASGI; None: ask it by ASGI."""
        scope, body = self.scope, self._body.complete
        if scope["path"] == "*":
            return 204, [], b""
        ask = self._context.answer_now
        if ask is None or body is None or len(fields) < len(scope["headers"]):
            return None
        return ask(scope["method"], self._target, fields, body, access)

    async def receive(self) -> Message:
        """ASGI's ``receive``; a checkpoint unless some of the body has arrived.

        After the body, it waits until the client disconnects or the answer is complete, and returns
        ``http.disconnect``. A cancelled call takes nothing from the body: the next one goes on.

        Raises:
            Problem: The body breaks a limit; see ``RequestBody``.
        """
        body = self._body
        if not self._body_given:
            if body.complete is not None:
                self._body_given = True
                return {"type": "http.request", "body": body.complete, "more_body": False}
            try:
                part, more = await body.read()
            except ClientDisconnectedError:
                self.disconnected = True
                await trio.lowlevel.checkpoint()
                return {"type": "http.disconnect"}
            self._body_given = not more
            return {"type": "http.request", "body": part, "more_body": more}
        if not self._answered:
            with trio.CancelScope() as self._watch:
                await self._wait_disconnected()
            self.disconnected = not self._answered
        # Some applications call again in a loop; other tasks must have their turn.
        await trio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's ``send``. If cancelled, the answer stays truncated, and the connection closes.

        It is a checkpoint, except for ``http.response.start``, which is sent together with the
        first part of the body, and for the last message if the kernel takes all of it at once.

        Raises:
            ClientDisconnectedError: The client has disconnected. An ``OSError``, as ASGI asks.
            RuntimeError: The message is out of order.
        """
        kind = message["type"]
        if kind == "http.response.start" and self._headers is None:
            self._headers = [(bytes(n), bytes(v).strip()) for n, v in message.get("headers", ())]
            self.status = int(message["status"])
        elif kind == "http.response.body" and self._headers is not None and not self._answered:
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.body" and self._answered:
            await trio.lowlevel.checkpoint()  # the answer is complete: ignore the rest
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        assert self._headers is not None and self.status is not None  # noqa: S101, PT018
        http = self._http
        out: list[bytes] = []
        if not self._begun:
            out.append(http.answer_head(self.status, self._headers))
            self._begun = True
        if data and not suppress_body(self.scope["method"], self.status):
            self.size += len(data)
            out.append(http.encode(h11.Data(data=data)))
        if not more:
            out.append(http.encode(h11.EndOfMessage()))
            self._answered = True
            if self._watch is not None:
                self._watch.cancel()
        if joined := b"".join(out):
            try:
                await http.send(joined, last=not more)
            except ClientDisconnectedError:
                self.disconnected = True
                raise
        elif more:
            # An endless answer to HEAD sends nothing; other tasks must have their turn.
            await trio.lowlevel.checkpoint()

    async def _wait_disconnected(self) -> None:
        with suppress(ClientDisconnectedError):
            while not self._http.eof:
                if self._http.ahead() > _LOOK_AHEAD:
                    # More would take memory without bound. ``send`` notices a disconnect instead.
                    await trio.sleep_forever()
                await self._http.feed()

    def _classify_failure(self, error: BaseException) -> Problem | None:
        """The answer to an application's exception; None if it is no fault. Logs a fault."""
        faults = [leaf for leaf in leaves(error) if not isinstance(leaf, trio.Cancelled)]
        for leaf in faults:
            if isinstance(leaf, Problem):
                return leaf
        only_disconnected = all(isinstance(leaf, ClientDisconnectedError) for leaf in faults)
        if faults and only_disconnected:
            self.disconnected = True  # ``RequestBody.open_pipe`` has found out
        if is_own_cancellation(error) or (self.disconnected and only_disconnected):
            return None
        return log_failure(error, **self._fields())

    def _fields(self) -> dict[str, str]:
        method, path = self.scope["method"], self.scope["path"]
        return {"method": method, "path": path, "client": self._http.client_name}


def log_failure(error: BaseException, *, method: str, path: str, client: str) -> Problem:
    """Log an exception of the application; return the answer to the client."""
    fields = {"method": method, "path": path, "client": client}
    log.error("request_failed", exc_info=error, extra=fields)
    return Problem(500, _INTERNAL_ERROR)
