"""The current request's whole body, and the wait for its client's disconnect."""

from quart import request

from trio_jobs.api.body_stream import DisconnectedProblem
from trio_jobs.api.quart_adapter import current_request
from trio_jobs.problem_details import Problem


async def read_body(*, max_bytes: int) -> bytes:
    """The current request's whole body.

    Raises:
        Problem: 413, it is longer than ``max_bytes``; 415, it is encoded; 400,
            the client disconnected before the body's end; 408, the body did
            not arrive in time.

    Checkpoints:
        As ASGI's ``receive`` does; none if the server has read the whole body.
    """
    refuse_encoded_body()
    job_request = current_request()
    if (job_request.content_length or 0) > max_bytes:
        raise _too_long(max_bytes)
    server_body = job_request.server_body
    if server_body is not None and server_body.complete is not None:
        return server_body.complete
    body = bytearray()
    more = True
    while more:
        chunk = await job_request.read_chunk()
        if chunk is None:
            raise DisconnectedProblem
        piece, more = chunk
        body += piece
        if len(body) > max_bytes:
            raise _too_long(max_bytes)
    return bytes(body)


def refuse_encoded_body() -> None:
    """Refuse a compressed body.

    Raises:
        Problem: 415, the current request has a ``Content-Encoding`` other than
            ``identity``.
    """
    for header in request.headers.getlist("Content-Encoding"):
        for coding in header.split(","):
            if coding.strip(" \t").lower() not in ("", "identity"):
                raise Problem(
                    415,
                    f"Content-Encoding must be identity, as without it, got {header[:100]!r}",
                    # RFC 9110, 12.5.3. Close the connection, since the body stays unread.
                    headers={"Accept-Encoding": "identity", "Connection": "close"},
                )


def _too_long(max_bytes: int) -> Problem:
    return Problem(
        413,
        f"the body must be at most {max_bytes} bytes",
        headers={"Connection": "close"},
        limit=max_bytes,
    )
