"""One line for each request, on the logger ``trio_jobs.access``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import h11

    from .exchange import Exchange

log = logging.getLogger("trio_jobs.access")


class Unlogged:
    """A request whose line is still to be written.

    Attributes:
        exchange: Its exchange, once it has one: what is refused by its head
            alone never has.
    """

    __slots__ = ("_began", "_request", "exchange")

    def __init__(self, request: h11.Request, began: float) -> None:
        self._request = request
        self._began = began
        self.exchange: Exchange | None = None

    def log(self, status: int | None, size: int, *, client: str) -> None:
        """Write the line.

        Args:
            status: Of the front door's own answer; None if it gave none.
            size: The bytes of that answer's body.
            client: Who asked.
        """
        method = self._request.method.decode("ascii").upper()
        # A query may hold what is not for a log.
        path = self._request.target.partition(b"?")[0].decode("latin-1")
        exchange = self.exchange
        if exchange is not None:
            method, path = exchange.scope["method"], exchange.scope["path"]
            if status is None:
                status, size = exchange.status, exchange.size
        log.info(
            "request",
            extra={
                "method": method,
                "path": path,
                "status": status,  # None: nothing was answered, the client had left
                "bytes": size,
                "duration": round(trio.current_time() - self._began, 6),
                "client": client,
            },
        )
