"""One connection: its one task, what it waits for, and how it ends."""

from __future__ import annotations

import enum
import logging
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, cast

import h11
import trio
from hypercorn.events import RawData
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.utils import parse_socket_addr

from trio_jobs.problem_details import MEDIA_TYPE, problem_body
from trio_jobs.server.access_log import PendingAccessLine
from trio_jobs.server.exception_groups import is_own_cancellation
from trio_jobs.server.h11_connection import ClientDisconnectedError, Protocol
from trio_jobs.server.problems import RefusedError
from trio_jobs.server.request_cycle import RequestCycle
from trio_jobs.server.tls import tls_failure
from trio_jobs.server.transport import TimeUpError, Transport

if TYPE_CHECKING:
    from hypercorn.events import Event

    from trio_jobs.server.server_context import ServerContext

log = logging.getLogger(__name__)

Stream = Transport | trio.SSLStream[Transport]

# The time for all that is sent at once begins anew with each piece of an answer, so that a long one
# may take long.
_PIECE = 262_144
# After an early answer: how long, and how much, of what the client is still sending is read and
# thrown away. Closing at once would take the answer away from it.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 * 1_048_576
# How much of an unexpected error goes into the line that names it.
_QUOTE = 200


class Phase(enum.Enum):
    """What the connection is about, and so whether the stop may end it."""

    IDLE = enum.auto()  # no byte of a request has come in
    HEAD = enum.auto()
    REQUEST = enum.auto()
    CLOSING = enum.auto()


class ClientConnection(TCPServer):
    """Hypercorn's connection, with one task for everything.

    The front door calls ``run`` in a task of its own and, at the stop,
    ``finish`` and then ``abort``.
    """

    def __init__(self, shared: ServerContext, stream: Stream, *, loopback: bool) -> None:
        super().__init__(
            shared.wrapper,
            shared.config,
            shared.context,
            shared.state,
            cast("trio.SSLStream[trio.SocketStream]", stream),
        )
        self._shared = shared
        self._limits = shared.limits
        self.time = shared.client_time
        if isinstance(stream, trio.SSLStream):
            self._transport = stream.transport_stream
        else:
            self._transport = stream
        # Around what answers requests. No deadline cancels it: an answer that is owed is given,
        # unless its client does not take it, or the whole connection is cut.
        self._scope = trio.CancelScope()
        self._phase = Phase.IDLE
        self._unlogged: PendingAccessLine | None = None  # the request that the access log awaits
        # A part of an answer has perhaps not been sent whole; nothing can follow it.
        self._cut = False
        self.http: Protocol
        self.loopback = loopback
        self.client_name = "?"

    async def run(self) -> None:
        """Serve this client until it or the server ends the connection.

        Nothing that happens here leaves but ``Cancelled``: an error ends this
        connection, with one line that names it, and no other.
        """
        try:
            if await self._open():
                await self._talk()
        except (
            ClientDisconnectedError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
        ) as error:
            if (reason := tls_failure(error)) is not None:
                log.warning("tls_failed", extra={"client": self.client_name, "cause": reason})
        except BaseException as error:  # noqa: ASYNC103 - the boundary around one connection
            if not is_own_cancellation(error):
                log.warning(
                    "connection_failed",
                    exc_info=error,
                    extra={"client": self.client_name, "cause": repr(error)[:_QUOTE]},
                )
        finally:
            self.abort()
            self._log_request()  # one that was neither answered nor refused
        # What was caught above may have been this task's cancellation.
        await trio.lowlevel.checkpoint_if_cancelled()

    def finish(self) -> None:
        """End a connection that is idle, and any other after its present answer.

        One that waits looks at its socket first: of a next request that is
        there already, the client may think that it is being answered.
        """
        if self._phase is Phase.IDLE:
            self._transport.stop_waiting()

    def abort(self) -> None:
        """Close the socket, whatever is going on. What waits for it gets an error.

        That reaches also what a cancellation does not: an application that
        waits for its client within a shield.
        """
        self._transport.close()
        self._scope.cancel()

    def progress(self) -> tuple[int, int]:
        """Something that changes when the client takes a part of its answer."""
        return self._transport.progress()

    async def receive_some(self, deadline: float = inf) -> bytes:
        """What the client sends next; nothing once it has closed its side.

        Args:
            deadline: Until when to wait for it, by the server's ``ClientTime``.

        Raises:
            ClientDisconnectedError: The connection is broken.
            TimeUpError: It is later than that, and nothing has come in.
        """
        self._transport.receive_by = deadline
        try:
            return bytes(await self.stream.receive_some(MAX_RECV))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientDisconnectedError("the connection is broken") from error

    async def send_all(self, data: bytes) -> None:
        """Send a part of an answer, while the client takes some of it within ``send_timeout``.

        A client that is slower, or takes longer than ten times that for
        256 KiB, ends the connection, and so cancels what
        answers it.

        Raises:
            ClientDisconnectedError: The connection is broken.

        Cancellation:
            Nothing is sent on this connection any more.
        """
        self._cut = True
        try:
            for start in range(0, len(data), _PIECE):
                piece = data if len(data) <= _PIECE else data[start : start + _PIECE]
                await self.stream.send_all(piece)
            self._cut = False
        except TimeUpError:
            log.info("client_too_slow", extra={"client": self.client_name})
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientDisconnectedError("the connection is broken") from error
        if self._cut:
            self._scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()
            raise ClientDisconnectedError("the client is too slow")  # to who sends within a shield

    async def protocol_send(self, event: Event) -> None:
        """Send what Hypercorn's part of the protocol writes."""
        if isinstance(event, RawData):
            await self.send_all(event.data)

    async def _open(self) -> bool:
        """Shake hands, and find out who is there; False if that fails."""
        stream = cast("Stream", self.stream)
        tls = isinstance(stream, trio.SSLStream)
        if isinstance(stream, trio.SSLStream):
            self._transport.receive_by = self._idle_until(self._limits.header_timeout)
            try:
                await stream.do_handshake()
            except TimeUpError:
                return False
        socket = self._transport.socket
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
        except OSError:
            return False  # it has already left
        self.client_name = "unix" if client is None else f"{client[0]}:{client[1]}"
        self.http = Protocol(
            self._shared, tls=tls, client=client, server=server, send=self.protocol_send
        )
        return True

    async def _talk(self) -> None:
        refused: RefusedError | None = None
        try:
            with self._scope:
                await self._serve()
        except RefusedError as error:
            refused = error
        self._phase = Phase.CLOSING
        # The scope above may be cancelled by now; what follows is outside of it.
        if refused is not None:
            await self._refuse(refused)
        self.http.skip_body()
        if not self.http.request_complete or self.http.ahead():
            await self._linger()
        await self._close()

    async def _serve(self) -> None:
        """Answer one request after the other, until one is the last."""
        shared = self._shared
        while (request := await self._next_head()) is not None:
            began = trio.current_time()
            if shared.access_log:
                self._unlogged = PendingAccessLine(request, began, shared.guard)
            exchange = RequestCycle(shared, self, request)
            if self._unlogged is not None:
                self._unlogged.exchange = exchange
            exchange.check()
            await exchange.body.read_short()
            self.http.keep_alive_requests += 1
            await exchange.run()
            self._log_request()
            if exchange.gone or self._cut or not self.http.next_request():
                return

    async def _next_head(self) -> h11.Request | None:
        """The next request's head; None if no more will come.

        Raises:
            RefusedError: It did not arrive in time, or is not valid HTTP.
            ClientDisconnectedError: The client stopped in the middle.
        """
        http, limits = self.http, self._limits
        self._phase = Phase.IDLE
        deadline = self._idle_until(limits.keep_alive_timeout)
        while True:
            event = http.next_event()
            if type(event) is h11.Request:
                self._phase = Phase.REQUEST
                return event
            if event is not h11.NEED_DATA:
                return None
            if self._phase is Phase.IDLE and http.ahead():
                self._phase = Phase.HEAD
                deadline = self.time.now() + limits.header_timeout
            try:
                http.feed(await self.receive_some(deadline))
            except TimeUpError:
                if self._phase is Phase.IDLE:
                    return None
                raise RefusedError(408, "the request did not arrive in time") from None

    def _idle_until(self, seconds: float) -> float:
        """When to give up a client that has sent no byte of a request: at the stop, at once."""
        return -inf if self._shared.stopping else self.time.now() + seconds

    async def _refuse(self, refused: RefusedError) -> None:
        """Answer in the application's place. The connection ends with that."""
        if refused.status != 500:  # that one has been logged, with its traceback
            log.log(
                logging.WARNING if refused.malformed else logging.INFO,
                "request_refused",
                extra={
                    "status": refused.status,
                    "cause": refused.detail,
                    "client": self.client_name,
                },
            )
        http = self.http
        if self._cut or http.connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return  # an answer had begun
        body = problem_body(refused.status, refused.detail)
        headers = [
            (b"content-type", MEDIA_TYPE.encode("ascii")),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
            *refused.headers,
        ]
        head = http.head_of_answer(refused.status, headers)
        if not http.head_only:
            head += body
        with suppress(TimeUpError):
            await self.stream.send_all(head)
        self._log_request(refused.status, 0 if http.head_only else len(body))

    async def _linger(self) -> None:
        """Read and discard, for a while, what the client is still sending.

        To close with unread bytes resets the connection, and a client that has
        not come to the answer by then never will.
        """
        if not self.http.ssl:
            await self._transport.send_eof()
        deadline = self.time.now() + _LINGER_SECONDS
        left = _LINGER_BYTES
        with suppress(TimeUpError):
            while left > 0 and (data := await self.receive_some(deadline)):
                left -= len(data)

    def _log_request(self, status: int | None = None, size: int = 0) -> None:
        """Write the access log's line, if one is due: once for a request, as it was answered."""
        unlogged, self._unlogged = self._unlogged, None
        if unlogged is not None:
            unlogged.log(status, size, client=self.client_name)
