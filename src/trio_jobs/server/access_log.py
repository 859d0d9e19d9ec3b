"""One line for each request, on the logger ``trio_jobs.access``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import h11

    from trio_jobs.server.access_control import AccessControl
    from trio_jobs.server.request_cycle import RequestCycle

log = logging.getLogger("trio_jobs.access")

# Characters. The end is kept: each proxy adds what it saw behind what it was sent, and a client
# can send as much as it likes.
_MAX_FORWARDED = 200


class PendingAccessLine:
    """A request whose line is still to be written.

    Attributes:
        exchange: Its exchange, once it has one: what is refused by its head
            alone never has.
    """

    __slots__ = ("_began", "_guard", "_request", "exchange")

    def __init__(self, request: h11.Request, began: float, guard: AccessControl) -> None:
        self._request = request
        self._began = began
        self._guard = guard
        self.exchange: RequestCycle | None = None

    def log(self, status: int | None, size: int, *, client: str) -> None:
        """Write the line: at debug level for a probe that was answered with 200.

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
        # They come every few seconds from several sides, and say nothing but that all is well.
        probe = status == 200 and self._guard.is_open(method, path)
        log.log(
            logging.DEBUG if probe else logging.INFO,
            "request",
            extra={
                "method": method,
                "path": path,
                "status": status,  # None: nothing was answered, the client had left
                "bytes": size,
                "duration": round(trio.current_time() - self._began, 6),
                "client": client,
                **self._forwarded(),
            },
        )

    def _forwarded(self) -> dict[str, str]:
        """Whom a proxy says that it asks for: told, never believed, since anybody can say so."""
        for wanted in (b"x-forwarded-for", b"forwarded"):
            values = [value for name, value in self._request.headers if name == wanted]
            if values:
                text = b", ".join(values)[-_MAX_FORWARDED:].decode("latin-1")
                return {"forwarded_for": text}
        return {}
