"""`Access`: who asks, as the server learns it from the head of a request."""

from collections.abc import Callable, MutableMapping
from enum import StrEnum
from typing import Any, Final

import msgspec


class Role(StrEnum):
    """What a client may do; `trio_jobs.server.roles` has the requests of each."""

    SUBMIT = "submit"
    READ = "read"
    CONTROL = "control"


class Access(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who asks.

    A ``role`` function of `Jobs.asgi` may return one, with ``role`` and ``name`` alone.

    Attributes:
        role: The role of the client's token; None if the client has shown no token, and none is
            needed for this request.
        name: The name of the token, if it has one; for the log and for jobs.
        fingerprint: The SHA-256 of the token; empty without a token.
        expires: When the session on the page ends, by the clock of the sessions; None if the client
            has shown the token itself.
    """

    role: Role | None
    name: str | None = None
    fingerprint: bytes = b""
    expires: float | None = None


# Says who makes a request, by its ASGI scope; see `Jobs.asgi`.
RoleFunction = Callable[[MutableMapping[str, Any]], Role | Access | None]

# Every client of a server without tokens.
ANYONE: Final = Access(role=Role.CONTROL)
# A client that has shown no token to a server with tokens: it gets no more than the open paths.
NOBODY: Final = Access(role=None)

# The key of an `Access` in ``scope["extensions"]``.
EXTENSION: Final = "trio_jobs.access"
