"""One request through the whole stack, in memory, before the first client.

Applications and the libraries below them import modules when they first need them. In a process
that has run out of descriptors by then, that request would fail, and so would every one after it.
"""

import logging
import socket
from dataclasses import replace

import trio

from trio_jobs.server.connection import ClientConnection
from trio_jobs.server.server_context import ServerContext
from trio_jobs.server.transport import Transport

log = logging.getLogger("trio_jobs.server")

_SECONDS = 10.0


async def warm_up(shared: ServerContext, path: str) -> None:
    """Request ``path`` once and throw the answer away. A failure is logged and no more."""
    try:
        ends = socket.socketpair()
    except OSError as error:
        log.warning("warm_up_failed", extra={"path": path, "cause": str(error)})
        return
    ours = Transport(ends[0], shared.client_time, send_timeout=shared.limits.send_timeout)
    theirs = trio.SocketStream(trio.socket.from_stdlib_socket(ends[1]))
    connection = ClientConnection(replace(shared, access_log=False), ours, loopback=False)
    with trio.move_on_after(_SECONDS) as scope:
        async with theirs, trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            await theirs.send_all(request.encode("ascii"))
            async for _ in theirs:
                pass
    if scope.cancelled_caught:
        log.warning("warm_up_too_slow", extra={"path": path, "seconds": _SECONDS})
