"""Errors as clients see them: one JSON shape, `application/problem+json` (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from trio_jobs.admission import QueueFullError

MEDIA_TYPE = "application/problem+json"

_encode = msgspec.json.Encoder().encode


class Problem(Exception):  # noqa: N818  (RFC 9457's word for it)
    """Raised in a route: the request ends with this answer.

    Args:
        status: The HTTP status.
        detail: What was expected and what was found, for a client to act on.
        headers: More headers for the answer.
        members: More members for its body.
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

    def response(self) -> Response:
        """The answer."""
        body = {
            "type": "about:blank",
            "title": _TITLES.get(self.status) or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "error": self.detail,
            **self.members,
        }
        return Response(_encode(body), self.status, headers=self.headers, content_type=MEDIA_TYPE)


def no_room(error: QueueFullError) -> Problem:
    """The buffer is full."""
    return Problem(
        429,
        f"{error}; nothing was kept; try again in {error.retry_after} s",
        headers={"Retry-After": str(error.retry_after)},
        retry_after=error.retry_after,
    )


def shutting_down(retry_after: int, **members: object) -> Problem:
    """No more jobs are taken; ``members`` may tell how many of a stream were."""
    kept = "nothing was kept" if "accepted" not in members else f"{members['accepted']} jobs are in"
    return Problem(
        503,
        f"shutting down; {kept}",
        headers={"Retry-After": str(retry_after), "Connection": "close"},
        retry_after=retry_after,
        **members,
    )


def register_problems(app: QuartTrio) -> None:
    """Give every error of the application this form, also 404, 405 and 500."""

    @app.errorhandler(Problem)
    async def problem(error: Problem) -> Response:
        return error.response()

    @app.errorhandler(HTTPException)
    async def http_exception(error: HTTPException) -> Response:
        # What werkzeug raises itself, and, as InternalServerError, what a
        # route raised and Quart has logged with its traceback.
        headers = {
            name: value
            for name, value in error.get_headers()
            if name.lower() not in ("content-type", "content-length")
        }
        status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
        detail = _DETAILS.get(status) or error.description or HTTPStatus(status).phrase
        return Problem(status, detail, headers=headers).response()


# Pythons before 3.13 know these by their names of before RFC 9110.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}

_DETAILS = {
    404: "no such path, or no such job",
    405: "the path does not have this method; Allow names those it has",
    500: "internal error; the server's log has more",
}
