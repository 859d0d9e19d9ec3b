"""`route_names`: gives each path the name of its route, for counts."""

import re
from collections.abc import Callable

from werkzeug.routing import Map

# Of paths without a route: clients can send any.
NO_ROUTE = "(other)"

_PARAMETER = re.compile(r"<(?:(\w+):)?(\w+)>")


def route_names(routes: Map) -> Callable[[str], str]:
    """A function from paths to the names of their routes, such as ``/jobs/{id}``.

    It looks at the path alone: Werkzeug's own look-up takes ten times as long, and raises for a
    method that the path does not have.
    """
    names: dict[str, str] = {}
    patterns: list[tuple[re.Pattern[str], str]] = []
    for route in routes.iter_rules():
        if not route.arguments:
            names[route.rule] = route.rule
            continue
        pattern = name = ""
        end = 0
        for match in _PARAMETER.finditer(route.rule):
            between = route.rule[end : match.start()]
            pattern += re.escape(between) + routes.converters[match[1] or "default"].regex
            name += between + "{" + match[2].removeprefix("job_") + "}"
            end = match.end()
        rest = route.rule[end:]
        patterns.append((re.compile(pattern + re.escape(rest)), name + rest))

    def name_of(path: str) -> str:
        if (name := names.get(path)) is not None:
            return name
        return next((name for each, name in patterns if each.fullmatch(path)), NO_ROUTE)

    return name_of
