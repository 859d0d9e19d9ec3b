"""`OPTIONS`: the methods that a path has."""

from quart import Blueprint, Response, request
from quart.globals import request_ctx

from trio_jobs.api.connection import no_content
from trio_jobs.api.problems import allow


def answer_options(routes: Blueprint) -> None:
    """Answer ``OPTIONS`` for all of these routes: Quart's own answer is an empty HTML page."""

    @routes.before_request
    async def options() -> Response | None:
        adapter = request_ctx.url_adapter
        if request.method != "OPTIONS" or adapter is None:
            return None
        return no_content({"Allow": allow(adapter.allowed_methods())})
