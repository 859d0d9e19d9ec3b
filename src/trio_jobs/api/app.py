"""`create_app`: all routes in one application, and each of its errors as a Problem."""

from collections.abc import Iterable
from http import HTTPStatus

from quart import Response, current_app, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect

from trio_jobs.api.answers import REFUSALS, Asked, refused
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.batch import add_batch_route
from trio_jobs.api.cancel_route import add_cancel_route
from trio_jobs.api.control_routes import add_control_routes
from trio_jobs.api.events_route import add_events_route
from trio_jobs.api.health import add_health_routes
from trio_jobs.api.job_routes import add_job_routes
from trio_jobs.api.listing import add_listing_route
from trio_jobs.api.metrics_route import add_metrics_route
from trio_jobs.api.openapi import add_openapi_route
from trio_jobs.api.page import add_page_routes
from trio_jobs.api.pipe_route import add_pipe_route
from trio_jobs.api.pool_route import add_pool_route
from trio_jobs.api.quart_adapter import JobRequest, RequestAdapter, no_content, to_response
from trio_jobs.api.query_params import read_parameters, unknown_parameter
from trio_jobs.api.rerun_routes import add_rerun_routes
from trio_jobs.api.session_routes import add_session_routes
from trio_jobs.api.stream import add_stream_route
from trio_jobs.api.submit import add_submit_route
from trio_jobs.problem_details import PHRASES, Problem

# How the paths end to which jobs are submitted.
_SUBMISSIONS = ("/jobs", "/jobs/batch", "/jobs/stream", "/jobs/pipe")

_DETAILS = {
    404: "no such path, or no such job",
    405: "the path does not have this method; Allow names those it has",
    500: "internal error; the server's log has more",
}


def create_app(context: ApiContext) -> QuartTrio:
    """The application with all routes over one pool."""
    app = QuartTrio("trio_jobs", static_folder=None)
    app.request_class = JobRequest
    app.asgi_http_class = RequestAdapter
    # With merged slashes Quart answers `POST //jobs` by a redirect, which drops the body.
    app.url_map.merge_slashes = False

    async def answer_error(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = _problem_of_werkzeug(error)
        return to_response(refused(error, context, _asked()))

    for kind in (*REFUSALS, HTTPException):
        app.register_error_handler(kind, answer_error)
    app.before_request(_answer_options)  # first: the answer to OPTIONS ignores parameters
    app.before_request(_refuse_parameters)
    add_submit_route(app, context)
    add_batch_route(app, context)
    add_stream_route(app, context)
    add_pipe_route(app, context)
    add_listing_route(app, context)
    add_job_routes(app, context)
    add_cancel_route(app, context)
    add_rerun_routes(app, context)
    add_events_route(app, context)
    add_health_routes(app, context)
    add_pool_route(app, context)
    add_metrics_route(app, context)
    add_control_routes(app, context)
    add_openapi_route(app, context)
    if context.http.ui:
        add_page_routes(app)
        add_session_routes(app, context)
    return app


def _asked() -> Asked:
    """What the current request asks for."""
    if request.method in ("GET", "HEAD"):
        return Asked.LOOK_UP
    rule = "" if request.url_rule is None else request.url_rule.rule
    if rule.endswith("/rerun"):
        return Asked.RERUN
    return Asked.JOBS if rule.endswith(_SUBMISSIONS) else Asked.CHANGE


async def _answer_options() -> Response | None:
    """Answer ``OPTIONS`` with ``Allow`` alone; Quart's own answer is an empty HTML page."""
    rule = request.url_rule
    if request.method != "OPTIONS" or rule is None:
        return None
    # A path has a rule for each of its routes. Quart's URL adapter knows the methods of a path,
    # but Quart keeps this adapter in a different place from version to version.
    rules = [each for each in current_app.url_map.iter_rules() if each.rule == rule.rule]
    return no_content({"Allow": _allow(set().union(*(each.methods or () for each in rules)))})


async def _refuse_parameters() -> None:
    """Refuse query parameters on every path except those that check their own."""
    checked = ("list_jobs", "show_counts", "events", "pipe")
    if request.url_rule is None or request.endpoint in checked:
        return
    for name, _ in read_parameters(request.query_string):
        raise unknown_parameter(name)


def _problem_of_werkzeug(error: HTTPException) -> Problem:
    """The Problem for Werkzeug's error; a bug in a route comes as InternalServerError."""
    headers = {
        name: value
        for name, value in error.get_headers()
        if name.lower() not in ("content-type", "content-length", "location", "allow")
    }
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = _allow(error.valid_methods or ())
    # A redirect to the path with or without its last slash would drop a POST's body.
    redirect = isinstance(error, RequestRedirect)
    status = HTTPStatus.NOT_FOUND if redirect else error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    detail = _DETAILS.get(status) or error.description or PHRASES[status]
    return Problem(status, detail, headers=headers)


def _allow(methods: Iterable[str]) -> str:
    """The value of ``Allow``; sorted, because the order of a set differs from run to run."""
    return ", ".join(sorted(methods))
