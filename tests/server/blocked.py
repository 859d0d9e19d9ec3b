"""An HTTP server whose event loop is blocked when a test says so, and for as long.

The clock stands still but for its jumps: within one step of a task, that is a loop that is blocked.
Clients come over a Unix socket, where what is sent is there at once, and what is unread stays as it
is. So each test decides what has come in while the server was not looking. Over TCP the kernel goes
by a clock of its own: 40 ms after a client has read nothing, it may make room for some more.
"""

import math
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any

import trio
import trio.testing

from trio_jobs.server.tls import load_certificate

from .serving import PATIENCE, Client, Served, served, timeouts
from .test_tls import CERTIFICATE, KEY, connect

LIMITS = timeouts(10)


@asynccontextmanager
async def door(
    app: Any,  # noqa: ANN401 - ASGI applications have many types
    *,
    tls: bool,
    tcp: bool = False,
    **options: Any,  # noqa: ANN401 - handed on
) -> AsyncIterator[Served]:
    """Serve over a Unix socket; over TCP for tests of its resets, or of what its kernel tells."""
    context = load_certificate(CERTIFICATE, KEY) if tls else None
    ended = threading.Event()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def watch() -> None:
            """By real time: the test's clock says nothing of a test that hangs."""
            in_time = await trio.to_thread.run_sync(ended.wait, PATIENCE, abandon_on_cancel=True)
            assert in_time, "the test hangs"

        try:
            options = LIMITS | options
            with TemporaryDirectory() as folder:
                address = "127.0.0.1:0" if tcp else f"unix:{folder}/socket"
                async with served(
                    app, address, patience=math.inf, tls=context, **options
                ) as server:
                    yield server
        finally:
            ended.set()


async def open_client(server: Served, *, tls: bool) -> Client:
    return await connect(server) if tls else await server.connect()


def send_at_once(client: Client, data: bytes) -> None:
    """Send without a step: the server does not get to look in between."""
    stream = client.stream
    if isinstance(stream, trio.SSLStream):
        stream._ssl_object.write(data)
        data = stream._outgoing.read()
    assert os.write(client.transport.socket.fileno(), data) == len(data)


async def pass_time(clock: trio.testing.MockClock, seconds: float) -> None:
    """Let time pass in which the loop is not blocked."""
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(round(seconds / 0.1)):
        clock.jump(0.1)
        await trio.testing.wait_all_tasks_blocked()
