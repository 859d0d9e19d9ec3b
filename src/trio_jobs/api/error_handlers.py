"""Errors as clients see them: raised in a route, answered in one JSON shape."""

from collections.abc import Iterable
from http import HTTPStatus

from quart import Blueprint, Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect

from trio_jobs.pool.admission import QueueFullError
from trio_jobs.problem_details import MEDIA_TYPE, PHRASES
from trio_jobs.problem_details import Problem as Problem


def response_to(problem: Problem) -> Response:
    """The answer that a problem is."""
    return Response(
        problem.body(), problem.status, headers=problem.headers, content_type=MEDIA_TYPE
    )


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


def problem_for(error: HTTPException) -> Problem:
    """What werkzeug raises itself; and, as InternalServerError, what a route raised."""
    headers = {
        name: value
        for name, value in error.get_headers()
        if name.lower() not in ("content-type", "content-length", "location", "allow")
    }
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = allow(error.valid_methods or ())
    # A redirect to the tidy path would drop a POST's body: there is no such path.
    redirect = isinstance(error, RequestRedirect)
    status = HTTPStatus.NOT_FOUND if redirect else error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    detail = _DETAILS.get(status) or error.description or PHRASES[status]
    return Problem(status, detail, headers=headers)


def allow(methods: Iterable[str]) -> str:
    """The value of ``Allow``, in an order of its own: that of a set differs each time."""
    return ", ".join(sorted(methods))


def register_problems(app: QuartTrio | Blueprint) -> None:
    """Give every error of the application, or of these routes, this form: also 404, 405, 500."""

    @app.errorhandler(Problem)
    async def problem(error: Problem) -> Response:
        return response_to(error)

    @app.errorhandler(HTTPException)
    async def http_exception(error: HTTPException) -> Response:
        return response_to(problem_for(error))


_DETAILS = {
    404: "no such path, or no such job",
    405: "the path does not have this method; Allow names those it has",
    500: "internal error; the server's log has more",
}
