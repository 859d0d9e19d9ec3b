"""`roles_for`: the roles that may make a request.

Of the routes without a line here, ``read`` may read all, and only ``control`` may write.
"""

import re
from typing import Final

from trio_jobs.access import Role

Roles = frozenset[Role | None]

OPEN: Final[Roles] = frozenset({None, *Role})  # also without a token
ALL: Final[Roles] = frozenset(Role)
SUBMITTERS: Final[Roles] = frozenset({Role.SUBMIT, Role.CONTROL})
READERS: Final[Roles] = frozenset({Role.READ, Role.CONTROL})
CONTROLLERS: Final[Roles] = frozenset({Role.CONTROL})

# The page, which has no data, and where its visitors sign in.
_OPEN_PATHS: Final = frozenset({"/", "/ui", "/ui/app.css", "/ui/app.js", "/ui/icon.svg"})
SESSION: Final = "/ui/session"
_SUBMISSIONS: Final = frozenset({"/jobs", "/jobs/batch", "/jobs/stream", "/jobs/pipe"})
# Clients learn from it which payloads the handlers take.
_DOCUMENT: Final = "/openapi.json"
# Who submits a job learns its id, which nobody guesses.
_JOB: Final = re.compile(r"/jobs/[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(/cancel)?")


def named(roles: Roles) -> list[Role]:
    """These roles in the order in which a refusal names them."""
    return sorted(role for role in roles if role is not None)


def roles_for(method: str, path: str) -> Roles:
    """The roles of which a client needs one; with None among them, it needs no token.

    Args:
        method: In capitals.
        path: Decoded, without the query, below the mount.
    """
    if method == "POST":
        if path in _SUBMISSIONS:
            return SUBMITTERS
        if (job := _JOB.fullmatch(path)) and job[1]:
            return SUBMITTERS
    elif method in ("GET", "HEAD"):
        if path in _OPEN_PATHS:
            return OPEN
        if path == _DOCUMENT or ((job := _JOB.fullmatch(path)) and not job[1]):
            return ALL
        if path != SESSION:
            return READERS
    elif method == "OPTIONS":  # answered with the methods of a path, and nothing else
        return ALL
    return OPEN if path == SESSION else CONTROLLERS
