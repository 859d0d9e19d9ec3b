"""Our routes in somebody else's application, under a prefix; its own routes stay as they are."""

import logging
import re
from dataclasses import replace
from functools import partial
from typing import Any, cast

from hypercorn.typing import HTTPScope
from quart import Blueprint, Quart, Response, request
from quart.typing import ASGIHTTPProtocol
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, InternalServerError, default_exceptions

from trio_jobs.api.app import create_routes
from trio_jobs.api.context import ApiContext
from trio_jobs.api.error_handlers import problem_for, register_problems
from trio_jobs.api.hosted_body import HostedBody
from trio_jobs.api.quart_adapter import JobRequest, RequestAdapter

log = logging.getLogger(__name__)

# What stands for itself in a route, in a client's URL and in a header's. A segment of one or two
# dots clients take away.
_PREFIX = re.compile(r"(/(?!\.\.?(/|\Z))[A-Za-z0-9._~-]+)+")


def add_routes(app: QuartTrio, parts: ApiContext, *, prefix: str) -> None:
    """Add the routes.

    Requests below the prefix are read by `RequestAdapter`, all others as before.

    Args:
        app: The application, before its first request.
        parts: What the routes work on.
        prefix: What their paths begin with: ``"/queue"``.

    Raises:
        ValueError: The prefix is no such path, or has routes of ours already.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(
            "prefix must be a path such as '/queue' or '/api/v1', of letters, digits and -._~,"
            f" got {prefix!r}"
        )
    # The name is the blueprint's own, so that one application can have several pools. Of these it
    # may not have a dot, and no prefix has a colon.
    name = f"trio_jobs:{prefix.replace('.', ':')}"
    if name in app.blueprints:
        raise ValueError(f"prefix {prefix!r} has the routes of a pool already")
    routes = create_routes(replace(parts, prefix=prefix))
    register_problems(routes)
    _answer_all_errors(routes, prefix)
    app.register_blueprint(routes, url_prefix=prefix, name=name)
    # Whatever the application has made of its requests, ours can be read piece by piece as well.
    if not issubclass(app.request_class, JobRequest):
        both = type("HostedRequest", (JobRequest, app.request_class), {})
        app.request_class = cast("type[JobRequest]", both)
    app.asgi_http_class = cast("Any", partial(_connection, prefix, app.asgi_http_class))


def _answer_all_errors(routes: Blueprint, prefix: str) -> None:
    """Answer our errors here, whatever handlers the application has.

    Of the application's and the blueprint's Quart takes the one for the status
    first, and one for any exception before it makes a 500 of it. And where
    there is no route it does not ask the blueprint.
    """

    async def http_exception(error: HTTPException) -> Response:
        return problem_for(error).response()

    for status in default_exceptions:
        routes.register_error_handler(status, http_exception)

    @routes.errorhandler(Exception)
    async def bug(error: Exception) -> Response:
        log.error("request_failed", exc_info=error, extra={"path": request.path})
        return problem_for(InternalServerError()).response()

    @routes.before_app_request  # after those that the application has already
    async def no_route() -> Response | None:
        fault = request.routing_exception
        if isinstance(fault, HTTPException) and _is_below(prefix, request.path):
            return problem_for(fault).response()
        return None


def _is_below(prefix: str, path: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


def _connection(
    prefix: str, other: type[ASGIHTTPProtocol], app: Quart, scope: HTTPScope
) -> ASGIHTTPProtocol:
    root = scope.get("root_path", "")
    path = scope["path"].removeprefix(root)
    # Of several slashes Werkzeug takes all but one away, and our route would run on the host's
    # request. Below the prefix there is no such path.
    if path.startswith("//") and _is_below(prefix, f"/{path.lstrip('/')}"):
        path = f"{prefix}/{path}"
        scope = {**scope, "path": f"{root}{path}"}
    return HostedConnection(app, scope) if _is_below(prefix, path) else other(app, scope)


class HostedConnection(RequestAdapter):
    """Runs one request to our routes."""

    async def respond(self, job_request: JobRequest) -> Response:
        """The route's answer, or that of one of the application's hooks."""
        job_request.body = HostedBody(
            job_request.receive_chunk,
            content_length=job_request.content_length,
            max_content_length=self.app.config["MAX_CONTENT_LENGTH"],
        )
        response: Any = await super().respond(job_request)
        if isinstance(response, Response):
            return response
        # A redirect that a hook has answered with may be werkzeug's own.
        body = b"".join(response.iter_encoded())
        return Response(body, response.status_code, response.headers)
