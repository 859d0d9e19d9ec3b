"""Errors as clients see them: ``application/problem+json`` (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

import msgspec

MEDIA_TYPE: Final = "application/problem+json"

# The phrase of each status. For these four, Python before 3.13 has the phrases of older RFCs.
PHRASES: Final[Mapping[int, str]] = MappingProxyType(
    {
        **{int(status): status.phrase for status in HTTPStatus},
        413: "Content Too Large",
        414: "URI Too Long",
        416: "Range Not Satisfiable",
        422: "Unprocessable Content",
    }
)

_encode = msgspec.json.Encoder().encode


class Problem(Exception):  # noqa: N818  (RFC 9457's word for it)
    """Ends a request with an error answer. Routes and the HTTP server raise it.

    Args:
        status: The HTTP status.
        detail: What was expected and what was found, for the client to act on.
        headers: Headers of the answer beyond the usual ones.
        members: Members of the body beyond the usual ones.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: object,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def body(self) -> bytes:
        """The answer's body; ``error`` repeats the detail for simple clients."""
        return _encode(
            {
                "type": "about:blank",
                "title": PHRASES.get(self.status, "Error"),
                "status": self.status,
                "detail": self.detail,
                "error": self.detail,
                **self.members,
            }
        )

    def render(self) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """The answer's headers, with names in lower case, and its body."""
        body = self.body()
        headers = {
            "Content-Type": MEDIA_TYPE,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            **self.headers,
        }
        return [(name.lower().encode(), value.encode()) for name, value in headers.items()], body
