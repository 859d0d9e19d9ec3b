"""The application's start and end: ASGI's lifespan, and one request before the first client."""

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import trio
from hypercorn.trio.lifespan import Lifespan

from trio_jobs.server.connection import ClientConnection
from trio_jobs.server.server_context import ServerContext
from trio_jobs.server.transport import Transport

log = logging.getLogger("trio_jobs.server")

_WARM_UP_SECONDS = 10.0


@asynccontextmanager
async def lifespan(context: ServerContext) -> AsyncIterator[None]:
    """Start the application up, and shut it down after the block.

    Raises:
        LifespanFailureError: The application says that it cannot start, or
            could not end well.
        LifespanTimeoutError: The application took too long for either.
    """
    life = Lifespan(context.wrapper, context.config, context.state)
    async with trio.open_nursery() as nursery:
        await nursery.start(life.handle_lifespan)
        try:
            await life.wait_for_startup()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            # An application may return from a scope that it does not know.
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
        log.warning("warm_up_failed", extra={"path": path, "cause": str(error)})
        return
    context = replace(context, settings=replace(context.settings, access_log=False))
    ours = Transport(ends[0], context.client_time, send_timeout=context.settings.send_timeout)
    theirs = trio.SocketStream(trio.socket.from_stdlib_socket(ends[1]))
    connection = ClientConnection(context, ours, loopback=False)
    with trio.move_on_after(_WARM_UP_SECONDS) as scope:
        async with theirs, trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            await theirs.send_all(request.encode("ascii"))
            async for _ in theirs:
                pass
    if scope.cancelled_caught:
        log.warning("warm_up_too_slow", extra={"path": path, "seconds": _WARM_UP_SECONDS})
