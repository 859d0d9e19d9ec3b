"""ASGI's lifespan: an application is told when serving begins and when it has ended."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
from hypercorn.trio.lifespan import Lifespan

from trio_jobs.server.server_context import ServerContext


@asynccontextmanager
async def lifespan(shared: ServerContext) -> AsyncIterator[None]:
    """Start up the application, by Hypercorn's own class for it, and at the end shut it down.

    Raises:
        LifespanFailureError: The application says that it cannot start, or
            could not end well.
        LifespanTimeoutError: It took too long for either.
    """
    life = Lifespan(shared.wrapper, shared.config, shared.state)
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
