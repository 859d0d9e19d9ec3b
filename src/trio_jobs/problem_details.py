"""An error as clients see it: ``application/problem+json`` (RFC 9457), and its phrase."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

import msgspec

MEDIA_TYPE: Final = "application/problem+json"

# The phrase of each status. Pythons before 3.13 know some by their names of before RFC 9110.
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


def problem_body(status: int, detail: str, **members: object) -> bytes:
    """The body of an error's answer, with ``error`` for simple clients.

    Args:
        status: The HTTP status.
        detail: What was expected and what was found, for a client to act on.
        **members: More members.
    """
    return _encode(
        {
            "type": "about:blank",
            "title": PHRASES.get(status, "Error"),
            "status": status,
            "detail": detail,
            "error": detail,
            **members,
        }
    )
