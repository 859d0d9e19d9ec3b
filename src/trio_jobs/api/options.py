"""`OPTIONS`: the methods that a path has."""

from quart import Blueprint, Response, current_app, request

from trio_jobs.api.error_handlers import allow
from trio_jobs.api.quart_adapter import no_content


def answer_options(routes: Blueprint) -> None:
    """Answer ``OPTIONS`` for all of these routes: Quart's own answer is an empty HTML page."""

    @routes.before_request
    async def options() -> Response | None:
        rule = request.url_rule
        if request.method != "OPTIONS" or rule is None:
            return None
        # One rule for each function: a path can have several. What Quart has an adapter for, its
        # versions keep in different places.
        rules = [each for each in current_app.url_map.iter_rules() if each.rule == rule.rule]
        return no_content({"Allow": allow(set().union(*(each.methods or () for each in rules)))})
