"""`Listener`: accepts all connections of a server, and closes them in order."""

from __future__ import annotations

import errno
import logging
from math import inf
from typing import TYPE_CHECKING

import trio

from trio_jobs.server.connection import ClientConnection
from trio_jobs.server.descriptors import connection_cap, raise_limit
from trio_jobs.server.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_jobs.server.client_stream import Stream
    from trio_jobs.server.server_context import ServerContext
    from trio_jobs.server.sockets import Bound, Listeners

log = logging.getLogger("trio_jobs.server")

# Seconds until ``accept`` is tried again after it found no descriptor, or no memory.
_ACCEPT_RETRY = 0.1
# Seconds between two warnings of one kind.
_WARNING_INTERVAL = 5.0
# The client has disconnected, or only its connection is at fault: accept(2) says to go on.
_CLIENTS_FAULT = {
    errno.EAGAIN,
    errno.ECONNABORTED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EPROTO,
}


class Listener:
    """All connections of a server. Every method runs in the event loop's thread.

    Args:
        context: What the connections share.
        listeners: The sockets.
        reserved_descriptors: File descriptors that connections must leave free.
        connection_closed: Called after each connection's end.
        last_moment: Returns when the stop may wait for clients no longer; None to wait for only
            one ``graceful_timeout``.
    """

    def __init__(
        self,
        context: ServerContext,
        listeners: Listeners,
        *,
        reserved_descriptors: int,
        connection_closed: Callable[[], None] | None,
        last_moment: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._context = context
        self._settings = context.settings
        self._time = context.client_time
        self._listeners = listeners
        self._connection_closed = connection_closed
        self._last_moment = last_moment
        # Accept loops add, each connection's task removes itself, the stop removes those it aborts.
        self._connections: set[ClientConnection] = set()
        if context.traffic is not None:
            context.traffic.connections = self._connections
        self._room = trio.lowlevel.ParkingLot()  # holds the accept loops while the cap is reached
        self._emptied: trio.Event | None = None  # the stop makes it, the last connection sets it
        wanted, reserved = self._settings.max_connections, reserved_descriptors
        limit = raise_limit(connections=wanted, reserved=reserved)
        self._cap = connection_cap(wanted=wanted, limit=limit, reserved=reserved)
        self._full = RateLimitedWarning("connection_limit_reached")
        self._exhausted = RateLimitedWarning("cannot_accept")

    async def run(self, closing: trio.Event, started: Callable[[], None]) -> None:
        """Listen, call ``started``, serve until ``closing`` is set, then close all connections."""
        with self._time.running():
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    self._listeners.listen(send_timeout=self._settings.send_timeout)
                    for bound in self._listeners.bound:
                        accepting.start_soon(self._accept, bound, connections)
                    self._announce()
                    started()
                    await closing.wait()
                    accepting.cancel_scope.cancel()
                self._listeners.close()
                await self._close()

    async def _accept(self, bound: Bound, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(bound.socket)
            # No await from here until the client is counted: two loops would both take the last
            # free connection. A loop must not reserve it before its client comes either: clients at
            # another address would wait.
            if len(self._connections) >= self._cap:
                self._full.warn(limit=self._cap)
                await self._room.park()
                continue
            try:
                sock, _ = bound.socket.accept()
            except OSError as error:
                if error.errno in _CLIENTS_FAULT:
                    continue
                # Do not raise: no client may end the server. No event tells when a descriptor comes
                # free, so the loop tries again.
                self._exhausted.warn(reason=str(error), url=bound.url)
                await trio.sleep(_ACCEPT_RETRY)
                continue
            transport = Transport(sock, self._time, send_timeout=self._settings.send_timeout)
            stream: Stream = transport
            if (tls := self._listeners.tls) is not None:
                stream = trio.SSLStream(transport, tls, server_side=True, https_compatible=True)
            connection = ClientConnection(self._context, stream, loopback=bound.loopback)
            self._connections.add(connection)
            nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: ClientConnection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            # Wake all loops: if only one woke and its client has disconnected, clients of the other
            # loops would still wait.
            self._room.unpark_all()
            if self._connection_closed is not None:
                self._connection_closed()
            if self._emptied is not None and not self._connections:
                self._emptied.set()

    async def _close(self) -> None:
        """End idle connections at once and the others after their answer, within bounds.

        After each ``graceful_timeout``, the stop aborts the connections whose clients took no byte
        in it. The other clients may read on until ``last_moment`` returns; without ``last_moment``,
        the first ``graceful_timeout`` ends all.
        """
        await self._context.worker.stop()
        for connection in self._connections:
            connection.finish()
        if self._connections:
            self._emptied = trio.Event()
            await self._abort_silent(self._emptied)
            if self._connections and self._last_moment is not None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._abort_until_empty, self._emptied, nursery.cancel_scope)
                    await self._last_moment()
                    nursery.cancel_scope.cancel()
        self._abort(set(self._connections))

    async def _abort_until_empty(self, emptied: trio.Event, waiting: trio.CancelScope) -> None:
        while self._connections:
            await self._abort_silent(emptied)
        waiting.cancel()

    async def _abort_silent(self, emptied: trio.Event) -> None:
        """Abort the connections whose clients take no byte within ``graceful_timeout``."""
        before = {connection: connection.transport.progress() for connection in self._connections}
        deadline = self._time.now() + self._settings.graceful_timeout
        while self._connections and not self._time.passed(deadline):
            with self._time.scope(deadline):
                await emptied.wait()
        self._abort({one for one in self._connections if one.transport.progress() == before[one]})

    def _abort(self, connections: set[ClientConnection]) -> None:
        if connections:
            log.warning("connections_cut", extra={"count": len(connections)})
        self._connections -= connections
        for connection in connections:
            connection.abort()

    def _announce(self) -> None:
        for bound in self._listeners.bound:
            log.info(f"Running on {bound.url}")  # the one line that people look for
            if not bound.public:
                continue
            if self._context.access_control.tokens is None:
                log.warning(
                    "listening_to_anyone",
                    extra={
                        "url": bound.url,
                        "meaning": "whoever can reach this address can use the server: "
                        "set http.token_file, or bind to 127.0.0.1",
                    },
                )
            elif self._settings.ui and not (self._listeners.tls or self._settings.secure_cookie):
                log.warning(
                    "page_without_tls",
                    extra={
                        "url": bound.url,
                        "meaning": "tokens and sessions can be read on the way: set http.certfile"
                        " and http.keyfile, or bind to 127.0.0.1 behind a proxy with TLS",
                    },
                )


class RateLimitedWarning:
    """A warning whose cause can come a thousand times a second, logged every 5 s at most.

    Each line counts the warnings that were left out before it.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._last = -inf
        self._left_out = 0

    def warn(self, **fields: object) -> None:
        """Log the event, or only count it if the last line is too recent."""
        now = trio.current_time()
        if now - self._last < _WARNING_INTERVAL:
            self._left_out += 1
            return
        log.warning(self._event, extra={**fields, "left_out": self._left_out})
        self._last = now
        self._left_out = 0
