"""What all connections share: settings, and the objects that Hypercorn's classes take."""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from wsgiref.handlers import format_date_time

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from trio_jobs.server.access_control import AccessControl
from trio_jobs.server.client_time import ClientTime
from trio_jobs.server.limits import Limits

# ASGI's own types are open dictionaries; applications come with types of their own for them.
Message = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

_LIFESPAN_STARTUP = 10.0
_LIFESPAN_SHUTDOWN = 5.0


class Date:
    """The ``Date`` header, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._header = (b"date", b"")

    def header(self) -> tuple[bytes, bytes]:
        """The header for an answer that is sent now."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._header = (b"date", format_date_time(second).encode("ascii"))
        return self._header


def hypercorn_config(limits: Limits) -> Config:
    """The settings for those of Hypercorn's classes that the front door uses."""
    config = Config()
    config.h11_max_incomplete_size = limits.max_header_bytes
    config.include_server_header = False
    config.include_date_header = False
    config.ssl_handshake_timeout = limits.header_timeout
    config.startup_timeout = _LIFESPAN_STARTUP
    config.shutdown_timeout = _LIFESPAN_SHUTDOWN
    # A logger object: given a name, Hypercorn adds a handler, and each line appears twice.
    config.errorlog = logging.getLogger("trio_jobs.server.hypercorn")
    return config


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """Written once, before the first connection; ``stopping`` in ``context`` is set by the stop."""

    app: App
    limits: Limits
    guard: AccessControl
    access_log: bool
    config: Config
    wrapper: ASGIWrapper
    context: WorkerContext = field(default_factory=lambda: WorkerContext(None))
    state: dict[str, Any] = field(default_factory=dict)
    date: Date = field(default_factory=Date)
    client_time: ClientTime = field(default_factory=ClientTime)

    @property
    def stopping(self) -> bool:
        """Answers that begin now are the last on their connections."""
        return self.context.terminated.is_set()
