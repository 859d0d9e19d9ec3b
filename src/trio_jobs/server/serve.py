"""`serve`: an application's start-up, its serving, and its shutdown."""

from __future__ import annotations

import logging
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.lifespan import Lifespan

from trio_jobs.server.canonical_request import CanonicalParser
from trio_jobs.server.connection import ClientConnection
from trio_jobs.server.exception_groups import leaves
from trio_jobs.server.listener import Listener
from trio_jobs.server.server_context import App, ServerContext
from trio_jobs.server.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_jobs.server.access_control import AccessControl
    from trio_jobs.server.sockets import Listeners
    from trio_jobs.server.traffic import Traffic
    from trio_jobs.settings import HttpSettings

log = logging.getLogger("trio_jobs.server")

_WARM_UP_SECONDS = 10.0


async def serve(
    app: App,
    listeners: Listeners,
    settings: HttpSettings,
    access_control: AccessControl,
    *,
    closing: trio.Event,
    health_path: str | None = None,
    reserved_descriptors: int = 0,
    connection_closed: Callable[[], None] | None = None,
    last_moment: Callable[[], Awaitable[None]] | None = None,
    traffic: Traffic | None = None,
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application until ``closing`` is set, then finish the current answers.

    After ``graceful_timeout`` the server waits only for clients that go on
    reading their answers, until ``last_moment`` returns at the latest.

    Args:
        app: Called once for each request, in its connection's task. Its method ``answer_now``, if
            it has one, is asked before; see `AnswerNow`.
        listeners: From ``bind_sockets``; this function closes them.
        settings: The limits.
        access_control: Decides which requests reach the application.
        closing: The caller sets it to end the server. Until then new
            connections are accepted.
        health_path: ``warm_up`` requests it once before the first client. It needs no token.
        reserved_descriptors: How many descriptors the rest of the process will
            open, as far as the caller knows. Connections leave these, and
            some more, free.
        connection_closed: Called when a connection has freed its descriptor.
        last_moment: Awaited after ``graceful_timeout`` if connections are open;
            when it returns, the server closes them. If this is None, the
            server closes them after ``graceful_timeout``.
        traffic: Counts the requests and the open connections; None for no counts.
        task_status: Told the listeners' URLs once clients can connect.

    Returns:
        When the listeners and all connections are closed.

    Raises:
        BindError: Another process was the first to listen on one of the addresses.

    Cancellation:
        Closes everything at once.
    """
    context = ServerContext(
        app=app,
        answer_now=getattr(app, "answer_now", None),
        settings=settings,
        access_control=access_control,
        canonical_parser=CanonicalParser(settings),
        wrapper=ASGIWrapper(app),
        traffic=traffic,
    )
    try:
        async with lifespan(context):
            if health_path is not None:
                await warm_up(context, health_path)
            listener = Listener(
                context,
                listeners,
                reserved_descriptors=reserved_descriptors,
                connection_closed=connection_closed,
                last_moment=last_moment,
            )
            await listener.run(closing, started=lambda: task_status.started(listeners.urls))
    except BaseExceptionGroup as group:
        # Nurseries put a single error into groups: callers get the error itself.
        errors = [leaf for leaf in leaves(group) if not isinstance(leaf, trio.Cancelled)]
        if len(errors) != 1:
            raise
        raise errors[0] from None
    finally:
        listeners.close()


@asynccontextmanager
async def lifespan(context: ServerContext) -> AsyncIterator[None]:
    """Start the application up, and shut it down after the block.

    Raises:
        LifespanFailureError: The application reports that its start-up or its
            shutdown has failed.
        LifespanTimeoutError: The application took too long for either.
    """
    life = Lifespan(context.wrapper, context.config, context.state)
    async with trio.open_nursery() as nursery:
        await nursery.start(life.handle_lifespan)
        try:
            await life.wait_for_startup()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            # An application without lifespan events may return at once.
            life.supported = False
        yield
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            await life.wait_for_shutdown()
        nursery.cancel_scope.cancel()


async def warm_up(context: ServerContext, path: str) -> None:
    """Request ``path`` once, in memory, and drop the answer. A failure is only logged.

    Applications and their libraries import modules when they first need them. In a process that has
    run out of descriptors by then, that request would fail, and so would each one after it.
    """
    try:
        ends = socket.socketpair()
    except OSError as error:
        log.warning("warm_up_failed", extra={"path": path, "reason": str(error)})
        return
    settings = replace(context.settings, access_log=False)
    context = replace(context, settings=settings, traffic=None)
    ours = Transport(ends[0], context.client_time, send_timeout=context.settings.send_timeout)
    theirs = trio.SocketStream(trio.socket.from_stdlib_socket(ends[1]))
    connection = ClientConnection(context, ours, loopback=False)
    with trio.move_on_after(_WARM_UP_SECONDS) as scope:
        async with theirs, trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            # A connection that fails before it has read the request resets; it logs its failure.
            with suppress(trio.BrokenResourceError):
                await theirs.send_all(request.encode("ascii"))
                async for _ in theirs:
                    pass
    if scope.cancelled_caught:
        log.warning("warm_up_too_slow", extra={"path": path, "seconds": _WARM_UP_SECONDS})
