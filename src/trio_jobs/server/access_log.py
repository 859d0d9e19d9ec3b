"""One line for each request, on the logger ``trio_jobs.access``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    import h11

    from trio_jobs.server.access_control import AccessControl

log = logging.getLogger("trio_jobs.access")

# In characters. The line has only the header's end, where each proxy appends the address that it
# saw: a client can send any text before that.
_MAX_FORWARDED = 200


class PendingAccessLine:
    """The line of one request that has not been answered yet.

    Attributes:
        scope: The request's ASGI scope; None until its head has been accepted.
    """

    __slots__ = ("_access_control", "_began", "_request", "scope")

    def __init__(self, request: h11.Request, access_control: AccessControl) -> None:
        self._request = request
        self._access_control = access_control
        self._began = trio.current_time()
        self.scope: dict[str, Any] | None = None

    def write(self, status: int | None, size: int, *, client: str) -> None:
        """Write the line: at debug level for a health probe answered with 200, else at info level.

        Args:
            status: Of the answer; None if the client disconnected before its start.
            size: The bytes of the answer's body.
            client: The client's address.
        """
        if self.scope is not None:
            method, path = self.scope["method"], self.scope["path"]
        else:
            method = self._request.method.decode("ascii").upper()
            # A query may hold secrets.
            path = self._request.target.partition(b"?")[0].decode("latin-1")
        # Probes come every few seconds, and would hide the other lines.
        probe = status == 200 and self._access_control.is_open(method, path)
        log.log(
            logging.DEBUG if probe else logging.INFO,
            "request",
            extra={
                "method": method,
                "path": path,
                "status": status,
                "bytes": size,
                "duration": round(trio.current_time() - self._began, 6),
                "client": client,
                **self._forwarded(),
            },
        )

    def _forwarded(self) -> dict[str, str]:
        """The client that a proxy names. No check uses it: any client can send these headers."""
        for wanted in (b"x-forwarded-for", b"forwarded"):
            values = [value for name, value in self._request.headers if name == wanted]
            if values:
                text = b", ".join(values)[-_MAX_FORWARDED:].decode("latin-1")
                return {"forwarded_for": text}
        return {}
