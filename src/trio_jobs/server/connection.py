"""One connection: its one task, what it waits for, and how it ends."""

from __future__ import annotations

import logging
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, cast

import h11
import trio
from hypercorn.trio.tcp_server import TCPServer

from trio_jobs.problem_details import Problem
from trio_jobs.server.access_log import AccessLog
from trio_jobs.server.canonical_answer import answer_canonical
from trio_jobs.server.client_stream import STREAM_ERRORS, ClientDisconnectedError, Stream
from trio_jobs.server.exception_groups import is_own_cancellation
from trio_jobs.server.h11_connection import H11Connection
from trio_jobs.server.request_cycle import RequestCycle
from trio_jobs.server.request_head import MalformedRequestError
from trio_jobs.server.tls import tls_failure
from trio_jobs.server.transport import TimeUpError

if TYPE_CHECKING:
    from trio_jobs.access import Access
    from trio_jobs.server.canonical_request import CanonicalRequest
    from trio_jobs.server.server_context import ServerContext

log = logging.getLogger(__name__)

# A client may still be sending after its last answer. Closing with unread bytes resets the
# connection, and a client that has not read the answer loses it: read and drop so much first.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 * 1_048_576
# How many characters of an unexpected error the log quotes at most.
_QUOTE = 200


class ClientConnection(TCPServer):
    """Hypercorn's connection, with one task for everything.

    The listener calls ``run`` in a task of its own; the stop calls ``finish`` and then ``abort``.
    """

    def __init__(self, context: ServerContext, stream: Stream, *, loopback: bool) -> None:
        super().__init__(
            context.wrapper,
            context.config,
            context.worker,
            context.state,
            cast("trio.SSLStream[trio.SocketStream]", stream),
        )
        self._context = context
        self._settings = context.settings
        self._time = context.client_time
        self._loopback = loopback
        self._http = H11Connection(context, stream)
        self.transport = self._http.transport
        self._idle = True  # no byte of the next request has arrived: the stop may close
        self._access_log = AccessLog(context.settings, context.access_control, context.traffic)

    async def run(self) -> None:
        """Serve this client until the client or the server ends the connection.

        Raises only ``Cancelled``: any other error ends this connection, and the log names it.
        """
        http = self._http
        try:
            if await http.open(self._idle_until(self._settings.header_timeout)):
                await self._converse()
        except (ClientDisconnectedError, *STREAM_ERRORS) as error:
            if (reason := tls_failure(error)) is not None:
                log.warning("tls_failed", extra={"client": http.client_name, "reason": reason})
        except BaseException as error:  # noqa: ASYNC103 - the boundary around one connection
            if not is_own_cancellation(error):
                fields = {"client": http.client_name, "reason": repr(error)[:_QUOTE]}
                log.warning("connection_failed", exc_info=error, extra=fields)
        finally:
            self.abort()
            # A request that was neither answered nor refused.
            self._access_log.end(client=http.client_name)
        # If this task's cancellation was caught above, raise it again.
        await trio.lowlevel.checkpoint_if_cancelled()

    def finish(self) -> None:
        """End the connection if it is idle; otherwise it ends after its present answer.

        An idle connection reads its socket once more. If the next request is there, it is answered.
        """
        if self._idle:
            self.transport.stop_waiting()

    def abort(self) -> None:
        """Close the socket at once, and cancel the application.

        Within a shield the cancellation does not arrive; the error of the closed socket does.
        """
        self.transport.close()
        self._http.answering.cancel()

    async def _converse(self) -> None:
        problem: Problem | None = None
        try:
            with self._http.answering:
                await self._serve_requests()
        except Problem as error:
            problem = error
        self._idle = False
        # The scope above may be cancelled; the rest runs outside of it.
        if problem is not None:
            await self._refuse(problem)
        self._http.skip_body()
        if not self._http.request_complete or self._http.ahead():
            await self._linger()
        await self._close()

    async def _serve_requests(self) -> None:
        """Answer one request after another until the connection has had its last."""
        context, http = self._context, self._http
        while await self._answer_canonical() and (request := await self._next_head()) is not None:
            http.requests += 1
            self._access_log.begin(request)
            cycle = RequestCycle(context, http, request, loopback=self._loopback)
            self._access_log.cycle = cycle
            await cycle.run()
            self._access_log.end(client=http.client_name)
            if cycle.disconnected or http.truncated or not http.next_request():
                return

    async def _answer_canonical(self) -> bool:
        """Answer requests of canonical form that the application answers without ASGI.

        h11 gets the first bytes that are something else.

        Returns:
            False if the connection has had its last request.
        """
        http, settings = self._http, self._settings
        ahead = http.ahead()
        while True:  # noqa: ASYNC913 - each way to the next request has a checkpoint
            http.body_deadline = None
            if ahead:
                # Between pipelined requests, other tasks get their turn.
                await trio.lowlevel.checkpoint()
                return True
            if self._context.answer_now is None or http.eof:
                return True
            self._idle = True
            data = None
            if not http.tls:  # with fewer coroutines and clocks than by `receive_some` alone
                await trio.lowlevel.checkpoint()
                data = http.transport.receive_nowait()
            if data is None:
                try:
                    until = self._idle_until(settings.keep_alive_timeout)
                    data = await http.receive_some(until, wait=True)
                except TimeUpError:
                    return False
            request = self._context.canonical_parser.parse(data)
            if request is None or (access := self._access_of(request)) is None:
                http.take(data)
                return True
            self._idle = False
            self._access_log.begin(request)
            if len(data) < request.end:
                http.body_deadline = self._time.now() + settings.body_timeout
                data = await http.receive_up_to(request.end, data, http.body_deadline)
            answer = answer_canonical(self._context, http, request, data, access)
            if answer is None:
                http.take(data)
                return True
            status, size, sent = answer if isinstance(answer, tuple) else await answer
            self._access_log.answered(status, size)
            if ahead := len(data) - request.end:
                http.take(data[request.end :])
            if http.tls or (sent := sent[http.transport.send_nowait(sent) :]):
                await http.send(sent)
            self._access_log.end(client=http.client_name)
            if http.closing:
                return False

    def _access_of(self, request: CanonicalRequest) -> Access | None:
        method, path = request.method.decode(), request.target.decode()
        check, loopback = self._context.access_control.check, self._loopback
        try:
            return check(method, path, request.fields, loopback=loopback)
        except Problem:
            return None  # the request cycle refuses it

    async def _next_head(self) -> h11.Request | None:
        """Read the next request's head; None if the client sends no more.

        Raises:
            Problem: The head arrives too late, or is not valid HTTP.
            ClientDisconnectedError: The client stopped in the middle, or the connection is broken.
        """
        http = self._http
        self._idle = True
        deadline = self._idle_until(self._settings.keep_alive_timeout)
        while True:
            event = http.next_event()
            if type(event) is h11.Request:
                self._idle = False
                return event
            if event is not h11.NEED_DATA:
                return None
            if self._idle and http.ahead():
                self._idle = False
                deadline = self._time.now() + self._settings.header_timeout
            try:
                await http.feed(deadline)
            except TimeUpError:
                if self._idle:
                    return None
                raise Problem(408, "the request did not arrive in time") from None

    def _idle_until(self, seconds: float) -> float:
        """The deadline for the first byte of a request; during the stop it has passed already."""
        return -inf if self._context.stopping else self._time.now() + seconds

    async def _refuse(self, problem: Problem) -> None:
        """Answer in place of the application. This answer is the connection's last."""
        http = self._http
        if problem.status != 500:  # a 500 has its own line in the log
            level = logging.WARNING if isinstance(problem, MalformedRequestError) else logging.INFO
            extra = {"status": problem.status, "reason": problem.detail, "client": http.client_name}
            log.log(level, "request_refused", extra=extra)
        if not http.can_refuse:
            return
        problem.headers["Connection"] = "close"
        headers, body = problem.render()
        answer = http.answer_head(problem.status, headers)
        sent = b"" if http.head_only else body
        with suppress(TimeUpError):
            await self.stream.send_all(answer + sent)
        self._access_log.refused(problem.status, len(sent), client=http.client_name)

    async def _linger(self) -> None:
        """Read and drop, within bounds, the bytes that the client is still sending."""
        if not self._http.tls:
            await self.transport.send_eof()
        deadline = self._time.now() + _LINGER_SECONDS
        left = _LINGER_BYTES
        with suppress(TimeUpError):
            while left > 0 and (data := await self._http.receive_some(deadline)):
                left -= len(data)
