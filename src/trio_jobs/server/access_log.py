"""The end of each request: a line on the logger ``trio_jobs.access``, and a count."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import h11

    from trio_jobs.server.access_control import AccessControl
    from trio_jobs.server.canonical_request import CanonicalRequest
    from trio_jobs.server.request_cycle import RequestCycle
    from trio_jobs.server.traffic import Traffic
    from trio_jobs.settings import HttpSettings

log = logging.getLogger("trio_jobs.access")

# In characters. The line has only the header's end, where each proxy appends the address that it
# saw: a client can send any text before that.
_MAX_FORWARDED = 200


class AccessLog:
    """Logs and counts the requests of one connection, at most one at a time.

    Args:
        settings: Whether there is a log.
        access_control: Knows the paths of health probes.
        traffic: Counts the requests; None for no count.

    Attributes:
        cycle: Gives the line its path, and the answer's status and size; None until the head of
            the pending request has been accepted.
    """

    __slots__ = (
        "_access_control",
        "_began",
        "_enabled",
        "_logged",
        "_request",
        "_size",
        "_status",
        "_traffic",
        "cycle",
    )

    def __init__(
        self, settings: HttpSettings, access_control: AccessControl, traffic: Traffic | None
    ) -> None:
        self._logged = settings.access_log
        self._enabled = settings.access_log or traffic is not None
        self._access_control = access_control
        self._traffic = traffic
        self._request: h11.Request | CanonicalRequest | None = None
        self._began = 0.0
        self._status: int | None = None
        self._size = 0
        self.cycle: RequestCycle | None = None

    def begin(self, request: h11.Request | CanonicalRequest) -> None:
        """Have a request pending until ``end``. A second call for one request changes nothing."""
        if self._enabled and self._request is None:
            self._request = request
            self._status = None
            if self._logged:
                self._size = 0
                self._began = trio.current_time()

    def answered(self, status: int, size: int) -> None:
        """Note an answer that is not the cycle's: its status, and the bytes of its body."""
        self._status, self._size = status, size

    def refused(self, status: int, size: int, *, client: str) -> None:
        """End a request that the server has refused, or bytes that are no request."""
        if self._request is None and self._traffic is not None:
            self._traffic.note_malformed(status)
        self.answered(status, size)
        self.end(client=client)

    def end(self, *, client: str) -> None:
        """Log and count the pending request, if there is one.

        The line of a health probe that is answered with 200 is at debug level, any other at info
        level.

        Args:
            client: The client's address.
        """
        request, self._request = self._request, None
        cycle, self.cycle = self.cycle, None
        if request is None:
            return
        if cycle is None:
            if self._traffic is not None:
                self._traffic.note_sent(request.method, request.target, self._status)
                if not self._logged:
                    return
            method = request.method.decode("ascii").upper()
            # A query may hold secrets.
            path = request.target.partition(b"?")[0].decode("latin-1")
        else:
            method, path = cycle.scope["method"], cycle.scope["path"]
            if self._status is None:
                self._status, self._size = cycle.status, cycle.size
            if self._traffic is not None:
                self._traffic.note_request(method, path, self._status)
                if not self._logged:
                    return
        status = self._status
        # Probes come every few seconds, and would hide the other lines.
        probe = status == 200 and self._access_control.is_probe(method, path)
        log.log(
            logging.DEBUG if probe else logging.INFO,
            "request",
            extra={
                "method": method,
                "path": path,
                "status": status,
                "bytes": self._size,
                "duration": round(trio.current_time() - self._began, 6),
                "client": client,
                **_forwarded(request),
            },
        )


def _forwarded(request: h11.Request | CanonicalRequest) -> dict[str, str]:
    """The client that a proxy names. No check uses it: any client can send these headers."""
    for wanted in (b"x-forwarded-for", b"forwarded"):
        values = [value for name, value in request.headers if name == wanted]
        if values:
            text = b", ".join(values)[-_MAX_FORWARDED:].decode("latin-1")
            return {"forwarded_for": text}
    return {}
