"""`HostRoles`: who asks, as the application says that has the API below a mount."""

import inspect
from collections.abc import MutableMapping
from typing import Any, Final

from trio_jobs.access import NOBODY, Access, Role, RoleFunction
from trio_jobs.problem_details import Problem
from trio_jobs.server.roles import READERS, named, roles_for

# RFC 9110, 11.6.1: a 401 has a challenge. How people sign in is the application's affair. The page
# knows by this scheme that it has no form for them.
CHALLENGE: Final = 'Application realm="trio-jobs"'

# The length of the longest e-mail address.
_MAX_NAME: Final = 254


class HostRoles:
    """Admits or refuses a request by what a function of the application says.

    Args:
        function: Called with the ASGI scope of each request, in the event loop of the server. It
            returns the role; or an `Access` with role and name, and nothing else of it counts; or
            None, which admits the request to the server's health alone.

    Raises:
        TypeError: It is no plain function.
    """

    def __init__(self, function: RoleFunction) -> None:
        called = (function, getattr(function, "__call__", None))  # noqa: B004 - of an object's class
        if not callable(function) or any(map(inspect.iscoroutinefunction, called)):
            raise TypeError(
                "role must be a plain function of the ASGI scope, not an async one; what has to be"
                " awaited, a middleware puts into the scope"
            )
        self._function = function

    def check(
        self, scope: MutableMapping[str, Any], method: str, path: str, *, is_open: bool
    ) -> Access:
        """Ask who makes one request, and check it.

        Args:
            scope: Of the request.
            method: In capitals.
            path: Decoded, without the query, below the mount.
            is_open: Whether it needs no role.

        Raises:
            Problem: 401 without a role, 403 with one that may not make the request.
            TypeError: The function returns something else.
            ValueError: It returns a name that is too long or not printable.
            Exception: The function's own error.
        """
        access = _access_of(self._function(scope))
        roles = roles_for(method, path)
        if None in roles:  # with tokens, people get the page to sign in there
            roles = READERS
        if is_open or access.role in roles:
            return access
        headers = {"WWW-Authenticate": CHALLENGE}
        if access.role is None:
            raise Problem(401, "the application gives this request no role", headers=headers)
        needed = named(roles)
        raise Problem(
            403,
            f"this needs the role {' or '.join(needed)}, the application gives {access.role}",
            headers=headers,
            roles=needed,
        )


def _access_of(answer: object) -> Access:
    """Who asks. A text that equals a `Role` is refused: nothing would be withheld from it."""
    if answer is None:
        return NOBODY
    role, name = (answer.role, answer.name) if isinstance(answer, Access) else (answer, None)
    if role is not None and not isinstance(role, Role):
        raise TypeError(f"role must return a Role, an Access with a Role, or None, got {role!r}")
    if name is not None and not isinstance(name, str):
        raise TypeError(f"the name that role returns must be a text, got {name!r}")
    if name is not None and not (0 < len(name) <= _MAX_NAME and name.isprintable()):
        raise ValueError(
            f"the name that role returns must be 1 to {_MAX_NAME} printable characters"
        )
    return Access(role=role, name=name)
