"""One connection: its one task, its one deadline, and how it ends."""

from __future__ import annotations

import enum
import logging
from math import inf
from typing import TYPE_CHECKING, cast

import h11
import trio
from hypercorn.events import RawData
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.utils import parse_socket_addr

from .access_log import Unlogged
from .errors import is_own_cancellation
from .exchange import Exchange
from .http11 import ClientLeftError, Protocol
from .problems import CONTENT_TYPE, RefusedError, problem
from .tls import tls_failure

if TYPE_CHECKING:
    from hypercorn.events import Event

    from .shared import Shared

log = logging.getLogger(__name__)

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

# A deadline is renewed for each piece of an answer, so that a slow client is not taken for one
# that does not read.
_PIECE = 262_144
# After an early answer: how long, and how much, of what the client is still sending is read and
# thrown away. Closing at once would take the answer away from it.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 * 1_048_576
# How much of an unexpected error goes into the line that names it.
_QUOTE = 200


class Phase(enum.Enum):
    """What the connection is waiting for, and so what it means when its deadline passes."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    ANSWER = enum.auto()
    CLOSING = enum.auto()


class Connection(TCPServer):
    """Hypercorn's connection, with one task for everything.

    The front door calls ``run`` in a task of its own and, at the stop,
    ``finish`` and then ``abort``.
    """

    def __init__(self, shared: Shared, stream: Stream, *, loopback: bool) -> None:
        super().__init__(
            shared.wrapper,
            shared.config,
            shared.context,
            shared.state,
            cast("trio.SSLStream[trio.SocketStream]", stream),
        )
        self._shared = shared
        self._limits = shared.limits
        self._scope = trio.CancelScope()
        self._phase = Phase.IDLE
        self._unlogged: Unlogged | None = None  # the request that the access log awaits
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
        except (ClientLeftError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
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
        """End a connection that is idle, and any other after its present answer."""
        if self._phase is Phase.IDLE:
            self._scope.cancel()

    def abort(self) -> None:
        """Close the socket, whatever is going on. What waits for it gets an error.

        That reaches also what a deadline does not: an application that waits
        for its client within a shield.
        """
        stream = self.stream
        if isinstance(stream, trio.SSLStream):
            stream.transport_stream.socket.close()
        else:
            stream.socket.close()
        self._scope.cancel()

    async def receive_some(self) -> bytes:
        """What the client sends next; nothing once it has closed its side.

        Raises:
            ClientLeftError: The connection is broken.
        """
        try:
            return bytes(await self.stream.receive_some(MAX_RECV))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientLeftError("the connection is broken") from error

    async def send_all(self, data: bytes) -> None:
        """Send a part of an answer, each 256 KiB of it within ``send_timeout``.

        A client that takes longer ends the connection, and so cancels what
        answers it.

        Raises:
            ClientLeftError: The connection is broken.

        Cancellation:
            Nothing is sent on this connection any more.
        """
        self._cut = True
        deadline = self._scope.deadline
        try:
            for start in range(0, len(data), _PIECE):
                self._expire_in(self._limits.send_timeout)
                piece = data if len(data) <= _PIECE else data[start : start + _PIECE]
                await self.stream.send_all(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientLeftError("the connection is broken") from error
        finally:
            self._scope.deadline = deadline
        self._cut = False

    async def protocol_send(self, event: Event) -> None:
        """Send what Hypercorn's part of the protocol writes."""
        if isinstance(event, RawData):
            await self.send_all(event.data)

    async def _open(self) -> bool:
        """Shake hands, and find out who is there; False if that fails."""
        stream = cast("Stream", self.stream)
        tls = isinstance(stream, trio.SSLStream)
        if isinstance(stream, trio.SSLStream):
            with self._scope, trio.move_on_after(self._limits.header_timeout) as timeout:
                await stream.do_handshake()
            if timeout.cancelled_caught or self._scope.cancel_called:
                return False
            self._scope = trio.CancelScope()
            socket = stream.transport_stream.socket
        else:
            socket = stream.socket
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
            if self._scope.cancelled_caught:
                refused = self._expired()
        except RefusedError as error:
            refused = error
        self._phase = Phase.CLOSING
        # The scope above may be cancelled by now; what follows has deadlines of its own.
        if refused is not None:
            await self._refuse(refused)
        self.http.skip_body()
        if not self.http.request_complete or self.http.ahead():
            await self._linger()
        with trio.move_on_after(self._limits.send_timeout):
            await self._close()

    async def _serve(self) -> None:
        """Answer one request after the other, until one is the last."""
        shared = self._shared
        while (request := await self._next_head()) is not None:
            began = trio.current_time()
            if shared.access_log:
                self._unlogged = Unlogged(request, began)
            exchange = Exchange(shared, self, request)
            if self._unlogged is not None:
                self._unlogged.exchange = exchange
            exchange.check()
            self._phase = Phase.BODY
            self._scope.deadline = began + self._limits.body_timeout
            await exchange.body.read_short()
            self._phase = Phase.ANSWER
            self._scope.deadline = inf
            self.http.keep_alive_requests += 1
            await exchange.run()
            self._log_request()
            if exchange.gone or self._cut or not self.http.next_request():
                return

    async def _next_head(self) -> h11.Request | None:
        """The next request's head; None if no more will come."""
        http = self.http
        self._phase = Phase.IDLE
        while True:
            event = http.next_event()
            if type(event) is h11.Request:
                return event
            if event is not h11.NEED_DATA:
                return None
            if self._phase is Phase.IDLE:
                if http.ahead():
                    self._phase = Phase.HEAD
                    self._expire_in(self._limits.header_timeout)
                else:
                    self._expire_in(self._limits.keep_alive_timeout)
            http.feed(await self.receive_some())

    def _expire_in(self, seconds: float) -> None:
        self._scope.deadline = trio.current_time() + seconds

    def _expired(self) -> RefusedError | None:
        """What to tell a client whose time is up."""
        if self._phase is Phase.HEAD:
            return RefusedError(408, "the request did not arrive in time")
        if self._phase is Phase.BODY:
            return RefusedError(408, "the body did not arrive in time")
        if self._phase is Phase.ANSWER:
            log.info("client_does_not_read", extra={"client": self.client_name})
        return None

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
        body = problem(refused.status, refused.detail)
        headers = [
            CONTENT_TYPE,
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *refused.headers,
        ]
        head = http.head_of_answer(refused.status, headers)
        if not http.head_only:
            head += body
        with trio.move_on_after(self._limits.send_timeout):
            await self.stream.send_all(head)
        self._log_request(refused.status, 0 if http.head_only else len(body))

    async def _linger(self) -> None:
        """Read and discard, for a while, what the client is still sending.

        To close with unread bytes resets the connection, and a client that has
        not come to the answer by then never will.
        """
        with trio.move_on_after(_LINGER_SECONDS):
            if isinstance(self.stream, trio.SocketStream):
                await self.stream.send_eof()
            left = _LINGER_BYTES
            while left > 0 and (data := await self.stream.receive_some(MAX_RECV)):
                left -= len(data)

    def _log_request(self, status: int | None = None, size: int = 0) -> None:
        """Write the access log's line, if one is due: once for a request, as it was answered."""
        unlogged, self._unlogged = self._unlogged, None
        if unlogged is not None:
            unlogged.log(status, size, client=self.client_name)
