"""The accept loop and the order of closing."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import trio
from hypercorn.app_wrappers import ASGIWrapper

from trio_jobs.server.access_control import AccessControl
from trio_jobs.server.connection import ClientConnection, Stream
from trio_jobs.server.descriptors import connection_cap, raise_limit
from trio_jobs.server.exception_groups import leaves
from trio_jobs.server.lifespan import lifespan
from trio_jobs.server.limits import Limits
from trio_jobs.server.rate_limited_warning import RateLimitedWarning
from trio_jobs.server.server_context import App, ServerContext, hypercorn_config
from trio_jobs.server.transport import Transport
from trio_jobs.server.warm_up import warm_up

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from trio_jobs.server.sockets import Bound, Listeners

log = logging.getLogger("trio_jobs.server")

# Out of descriptors (or of what else accept() needs), the loop tries again after so long.
_ACCEPT_RETRY = 0.1
# The client has gone already, or only its connection is at fault: accept(2) says to go on.
_NOT_OURS = {
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


async def serve(
    app: App,
    listeners: Listeners,
    *,
    closing: trio.Event,
    limits: Limits | None = None,
    allowed_hosts: Iterable[str] = (),
    token: str | None = None,
    open_path: str = "",
    access_log: bool = False,
    warm_up_path: str | None = None,
    reserved_descriptors: int = 0,
    connection_closed: Callable[[], None] | None = None,
    last_moment: Callable[[], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application until ``closing`` is set, then end when the answers are given.

    After ``graceful_timeout`` only clients that are taking their answers are
    waited for, and they until ``last_moment``.

    Args:
        app: Called once for each request, in its connection's task.
        listeners: From ``bind_sockets``; closed when this function is left.
        closing: Set by the caller when the server is to end. Until then new
            connections are accepted.
        limits: See ``Limits``.
        allowed_hosts: Names for ``Host`` beside those of the listeners and of
            the loopback interface. Looked at only on loopback listeners.
        token: Ask for this bearer token.
        open_path: Needs no token; see ``AccessControl``.
        access_log: Log one line for each request.
        warm_up_path: Requested once, in memory, before anyone is let in: what
            is imported by the first request, is then there, also in a process
            that is out of descriptors.
        reserved_descriptors: How many the rest of the process will open, as
            far as that is known. Connections leave them, and some more, free.
        connection_closed: Called when a connection has ended, and its
            descriptor is free.
        last_moment: Waits until every connection is to be cut. Called once
            ``graceful_timeout`` is over; by default, that is when.
        task_status: Told the listeners' URLs once clients are let in.

    Returns:
        When the listeners and all connections are closed.

    Raises:
        BindError: Another process listens on one of the addresses by now.

    Cancellation:
        Closes everything at once.
    """
    limits = limits or Limits()
    own_names = [name for bound in listeners.bound for name in bound.names]
    shared = ServerContext(
        app=app,
        limits=limits,
        guard=AccessControl(
            allowed_hosts=[*allowed_hosts, *own_names], token=token, open_path=open_path
        ),
        access_log=access_log,
        config=hypercorn_config(limits),
        wrapper=ASGIWrapper(app),
    )
    try:
        async with lifespan(shared):
            if warm_up_path is not None:
                await warm_up(shared, warm_up_path)
            door = Listener(
                shared,
                listeners,
                reserved_descriptors=reserved_descriptors,
                connection_closed=connection_closed,
                last_moment=last_moment,
            )
            await door.run(closing, started=lambda: task_status.started(listeners.urls))
    except BaseExceptionGroup as group:
        # Callers need not know how many nurseries an error has come through.
        errors = [leaf for leaf in leaves(group) if not isinstance(leaf, trio.Cancelled)]
        if len(errors) != 1:
            raise
        raise errors[0] from None
    finally:
        listeners.close()


class Listener:
    """All connections of a server. Every method runs in the event loop's thread."""

    def __init__(
        self,
        shared: ServerContext,
        listeners: Listeners,
        *,
        reserved_descriptors: int,
        connection_closed: Callable[[], None] | None,
        last_moment: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._connection_closed = connection_closed
        self._last_moment = last_moment
        self._shared = shared
        self._limits = shared.limits
        self._time = shared.client_time
        self._listeners = listeners
        # Accept loops add, each connection's task removes itself, the stop removes what it cuts.
        self._connections: set[ClientConnection] = set()
        self._room = trio.lowlevel.ParkingLot()  # accept loops that have found it full
        self._emptied: trio.Event | None = None  # made by the stop, set by the last connection
        wanted, reserved = self._limits.max_connections, reserved_descriptors
        limit = raise_limit(connections=wanted, reserved=reserved)
        self._cap = connection_cap(wanted=wanted, limit=limit, reserved=reserved)
        self._full = RateLimitedWarning("connection_limit_reached")
        self._exhausted = RateLimitedWarning("cannot_accept")

    async def run(self, closing: trio.Event, started: Callable[[], None]) -> None:
        """Listen, tell ``started``, serve until ``closing``, then close what is open."""
        with self._time.running():
            await self._run(closing, started)

    async def _run(self, closing: trio.Event, started: Callable[[], None]) -> None:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                self._listeners.listen(send_timeout=self._limits.send_timeout)
                for bound in self._listeners.bound:
                    accepting.start_soon(self._accept, bound, connections)
                self._announce()
                started()
                await closing.wait()
                accepting.cancel_scope.cancel()
            self._listeners.close()
            await self._close()

    async def _close(self) -> None:
        """Idle connections end at once, the others after their answer or the time for it.

        The first look comes after ``graceful_timeout`` whatever else happens;
        later ones until the last moment, for clients that are still reading.
        """
        await self._shared.context.terminated.set()
        for connection in self._connections:
            connection.finish()
        if self._connections:
            self._emptied = trio.Event()
            await self._wait_and_look(self._emptied)
            if self._connections and self._last_moment is not None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._look_on, self._emptied, nursery.cancel_scope)
                    await self._last_moment()
                    nursery.cancel_scope.cancel()
        self._cut(set(self._connections))

    async def _look_on(self, emptied: trio.Event, until: trio.CancelScope) -> None:
        while self._connections:
            await self._wait_and_look(emptied)
        until.cancel()

    async def _wait_and_look(self, emptied: trio.Event) -> None:
        """Cut, after ``graceful_timeout``, the connections whose clients took nothing in it."""
        before = {connection: connection.progress() for connection in self._connections}
        deadline = self._time.now() + self._limits.graceful_timeout
        while self._connections and not self._time.passed(deadline):
            with self._time.scope(deadline):
                await emptied.wait()
        self._cut({one for one in self._connections if one.progress() == before[one]})

    def _cut(self, connections: set[ClientConnection]) -> None:
        if connections:
            log.warning("connections_cut", extra={"count": len(connections)})
        self._connections -= connections
        for connection in connections:
            connection.abort()

    async def _accept(self, bound: Bound, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(bound.socket)
            # Nothing awaits from here until the client is counted, and none waits at another
            # address while this loop, which has no client, holds the last place.
            if len(self._connections) >= self._cap:
                self._full.warn(limit=self._cap)
                await self._room.park()
                continue
            try:
                sock, _ = bound.socket.accept()
            except OSError as error:
                if error.errno in _NOT_OURS:
                    continue
                # Whatever it is, a client must not end the server by it. Nothing tells when a
                # descriptor comes free, so there is no way but to try again.
                self._exhausted.warn(cause=str(error), url=bound.url)
                await trio.sleep(_ACCEPT_RETRY)
                continue
            stream = Transport(sock, self._time, send_timeout=self._limits.send_timeout)
            connection = ClientConnection(
                self._shared, self._encrypted(stream), loopback=bound.loopback
            )
            self._connections.add(connection)
            nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: ClientConnection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            # All: one of them may find that its client has gone, and would keep it to itself.
            self._room.unpark_all()
            if self._connection_closed is not None:
                self._connection_closed()
            if self._emptied is not None and not self._connections:
                self._emptied.set()

    def _encrypted(self, stream: Transport) -> Stream:
        tls = self._listeners.tls
        if tls is None:
            return stream
        return trio.SSLStream(stream, tls, server_side=True, https_compatible=True)

    def _announce(self) -> None:
        for bound in self._listeners.bound:
            log.info(f"Running on {bound.url}")  # the one line that people look for
            if bound.public and not self._shared.guard.asks_for_token:
                log.warning(
                    "listening_to_anyone",
                    extra={
                        "url": bound.url,
                        "meaning": "whoever can reach this address can use the server: "
                        "set http.token_file, or bind to 127.0.0.1",
                    },
                )
