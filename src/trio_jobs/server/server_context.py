"""`ServerContext`: the objects that all connections share, Hypercorn's among them."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from trio_jobs.access import Access
from trio_jobs.server.access_control import AccessControl, Fields
from trio_jobs.server.canonical_request import CanonicalParser
from trio_jobs.server.client_time import ClientTime
from trio_jobs.server.request_head import HeaderList
from trio_jobs.server.traffic import Traffic
from trio_jobs.settings import HttpSettings

# `Any`, because ASGI's messages are open dictionaries, and applications have their own types.
Message = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]
# Status (one of ``PHRASES`` that has a body), headers (names in lower case; no ``Date``; no
# ``Connection`` but ``close``), body.
Answer = tuple[int, HeaderList, bytes]
# An application may have this plain method: ``answer_now(method, target, fields, body, access)``.
# The server calls it, without a scope, once access control has admitted a request and all of its
# body has arrived, if no header is there twice. ``target`` is as the client sent it. If it returns
# None, the server calls the application by ASGI; before that it may call the method a second time.
# If it returns an awaitable, the server awaits that; a client that disconnects does not cancel it.
AnswerNow = Callable[[str, bytes, Fields, bytes, Access], Answer | Awaitable[Answer] | None]

# Seconds in which the application has to start.
_LIFESPAN_STARTUP = 10.0
# Seconds in which it has to end. The hard limit ends the process one second after
# `http.graceful_timeout`, so this is less.
_LIFESPAN_SHUTDOWN = 0.5


def hypercorn_config() -> Config:
    """The settings of those Hypercorn classes that this server uses."""
    config = Config()
    config.startup_timeout = _LIFESPAN_STARTUP
    config.shutdown_timeout = _LIFESPAN_SHUTDOWN
    # A logger object: given a name, Hypercorn adds a handler, and each line appears twice.
    config.errorlog = logging.getLogger("trio_jobs.server.hypercorn")
    return config


class Worker(WorkerContext):
    """Hypercorn's context.

    Attributes:
        stopping: Whether ``stop`` was called. Hypercorn's event says the same; each request asks.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.stopping = False

    async def stop(self) -> None:
        """Begin the stop."""
        self.stopping = True
        await self.terminated.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """Made before the first connection and never changed, apart from the stop in ``worker``.

    Attributes:
        app: The ASGI application.
        answer_now: Its method of this name; None if it has none.
        settings: The limits; ``client_time`` measures those in seconds.
        access_control: Decides which requests reach the application.
        canonical_parser: Parses requests of canonical form.
        traffic: Counts requests and connections; None for no counts.
        wrapper: The application, as Hypercorn's classes take it.
        config: Hypercorn's settings.
        state: The application's lifespan state; each request gets a copy.
        worker: Hypercorn's context; the stop calls ``worker.stop``.
        client_time: The clock of the limits on clients.
    """

    app: App
    answer_now: AnswerNow | None
    settings: HttpSettings
    access_control: AccessControl
    canonical_parser: CanonicalParser
    wrapper: ASGIWrapper
    traffic: Traffic | None = None
    config: Config = field(default_factory=hypercorn_config)
    worker: Worker = field(default_factory=Worker)
    state: dict[str, Any] = field(default_factory=dict)
    client_time: ClientTime = field(default_factory=ClientTime)

    @property
    def stopping(self) -> bool:
        """Whether the stop has begun: answers that begin now are the last on their connections."""
        return self.worker.stopping
