"""The answer to a request of canonical form: made without ASGI, and written without h11."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import trio

from trio_jobs.problem_details import PHRASES, Problem
from trio_jobs.server.canonical_request import TOKEN
from trio_jobs.server.request_cycle import log_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from trio_jobs.access import Access
    from trio_jobs.server.canonical_request import CanonicalRequest
    from trio_jobs.server.h11_connection import H11Connection
    from trio_jobs.server.request_head import HeaderList
    from trio_jobs.server.server_context import Answer, ServerContext

# Status, the length of the answer's body, and the bytes to send.
CanonicalAnswer = tuple[int, int, bytes]

# No blanks surround a value.
_HEADER = re.compile(TOKEN + rb": (?:(?![\t ])[\t -~\x80-\xff]++(?<![\t ]))?\r\n")
# How many lines of headers are kept: most answers have the same ones.
_KEPT_LINES = 64
_STATUS_LINES = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode("ascii"))
    for status, phrase in PHRASES.items()
}


def answer_canonical(
    context: ServerContext,
    http: H11Connection,
    request: CanonicalRequest,
    data: bytes,
    access: Access,
) -> CanonicalAnswer | Awaitable[CanonicalAnswer] | None:
    """Have the application answer a request of canonical form without ASGI.

    Args:
        context: Of the server.
        http: Has no byte of the request. If the application fails, this gets ``data``, as it has
            got the request when an application fails by ASGI.
        request: Access control has admitted it.
        data: The bytes of the request, and those behind it.
        access: Who asks.

    Returns:
        The answer, or what the caller awaits for it; None if the body is incomplete, or if the
        application declines.

    Raises:
        Problem: 500: the application has failed.
    """
    if context.answer_now is None or len(data) < request.end:
        return None
    method, body = request.method.decode(), data[request.body_start : request.end]
    try:
        answer = context.answer_now(method, request.target, request.fields, body, access)
        if answer is None:
            return None
        if not isinstance(answer, tuple):
            return _answer_later(answer, http, request, data)
        return _finished(answer, http)
    except BaseException as error:  # noqa: BLE001 - the boundary around one request
        raise _failed(error, http, request, data) from None  # noqa: ASYNC104


async def _answer_later(
    answer: Awaitable[Answer], http: H11Connection, request: CanonicalRequest, data: bytes
) -> CanonicalAnswer:
    try:
        return _finished(await answer, http)
    except trio.Cancelled:
        raise
    except BaseException as error:  # noqa: BLE001 - the boundary around one request
        raise _failed(error, http, request, data) from None  # noqa: ASYNC104


def _finished(answer: Answer, http: H11Connection) -> CanonicalAnswer:
    status, headers, body = answer
    http.requests += 1
    http.complete_canonical_headers(headers)
    return status, len(body), answer_bytes(status, headers, body)


def _failed(
    error: BaseException, http: H11Connection, request: CanonicalRequest, data: bytes
) -> Problem:
    http.take(data)
    http.next_event()
    if isinstance(error, Problem):
        return error
    method, path = request.method.decode(), request.target.decode()
    return log_failure(error, method=method, path=path, client=http.client_name)


def answer_bytes(status: int, headers: HeaderList, body: bytes) -> bytes:
    """The bytes of an answer to a request of canonical form, as h11 would write them.

    Args:
        status: One of ``PHRASES`` whose answers have a body.
        headers: All of them; ``Content-Length`` gives the length of ``body``.
        body: Complete.

    Raises:
        ValueError: A header's name is not a token, or its value has a control character or blanks
            around it. A client could read a line break in it as the start of another answer.
    """
    return b"".join([_STATUS_LINES[status], *map(_header_line, headers), b"\r\n", body])


@lru_cache(_KEPT_LINES)
def _header_line(header: tuple[bytes, bytes]) -> bytes:
    line = b"%b: %b\r\n" % header
    if _HEADER.fullmatch(line) is None:
        raise ValueError(f"illegal header of an answer: {header!r}")
    return line
