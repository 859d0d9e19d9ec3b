"""A request's head, taken apart: method, target, headers and the length of the body."""

import re
from typing import Any
from urllib.parse import unquote

import h11

from trio_jobs.problem_details import Problem

# Bodies up to this length are read before the application is called.
SHORT_BODY = 65_536

HeaderList = list[tuple[bytes, bytes]]

# h11 quotes the client's bytes in its errors. Neither log nor answer repeats them: they may hold
# the token, if its header has one blank too many.
_QUOTED = re.compile(r""":? (bytearray\()?b?['"].*""", re.DOTALL)
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^?#]*)?(?:\?([^#]*))?", re.IGNORECASE)


class MalformedRequestError(Problem):
    """The bytes are not valid HTTP. The server logs a warning."""


def parse_head(request: h11.Request, *, max_bytes: int) -> tuple[dict[str, Any], int | None]:
    """Take a head apart.

    Args:
        request: From h11, which checks no length if the head arrives in one read.
        max_bytes: The longest request line and headers together.

    Returns:
        The head's part of the ASGI scope (the path of ``OPTIONS *`` is ``*``),
        and the body's length in bytes: 0 without a body, None for chunks.

    Raises:
        Problem: 505, 501, 431 or 400: the head is not acceptable.
    """
    if request.http_version[:2] != b"1.":
        raise MalformedRequestError(505, "this server speaks HTTP/1.1 and HTTP/1.0")
    method = request.method.decode("ascii").upper()
    host, raw_path, query = _parse_target(method, request.target)
    headers: HeaderList = list(request.headers)
    length = len(request.target)
    for name, value in headers:
        length += len(name) + len(value) + 4
    if length > max_bytes:
        raise _head_too_long(max_bytes)
    if host is not None:
        headers = [pair for pair in headers if pair[0] != b"host"]
        headers.append((b"host", host))
    path = raw_path.decode("ascii")
    head = {
        "http_version": request.http_version.decode("ascii"),
        "method": method,
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "headers": headers,
    }
    return head, _body_length(request.http_version, headers)


def _head_too_long(max_bytes: int) -> Problem:
    return MalformedRequestError(
        431, f"request line and headers must be at most {max_bytes} bytes long"
    )


def malformed_request(error: h11.RemoteProtocolError, *, max_bytes: int) -> Problem:
    """The refusal of bytes that h11 does not take.

    Args:
        error: From h11.
        max_bytes: The longest request line and headers together.
    """
    if error.error_status_hint == 431:
        return _head_too_long(max_bytes)
    return MalformedRequestError(error.error_status_hint, _QUOTED.sub("", str(error)))


def _parse_target(method: str, target: bytes) -> tuple[bytes | None, bytes, bytes]:
    """Host (None if the target names none), path and query."""
    if method == "CONNECT":
        raise Problem(501, "this server is no proxy")
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return None, path, query
    if target == b"*" and method == "OPTIONS":
        return None, target, b""
    if found := _ABSOLUTE.fullmatch(target):
        return found[1], found[2] or b"/", found[3] or b""
    raise MalformedRequestError(400, "the request target must be a path that begins with /")


def _body_length(version: bytes, headers: HeaderList) -> int | None:
    """The value of ``Content-Length``, 0 without one; None for a body in chunks."""
    length: int | None = None
    chunked = False
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    if not chunked:
        return length or 0
    if length is not None or version < b"1.1":
        # A proxy in front may see another end of such a body, and take the rest for a second
        # request, which no client has sent (RFC 9112, 6.1).
        raise MalformedRequestError(400, "Transfer-Encoding with Content-Length, or in HTTP/1.0")
    return None
