"""`AccessMiddleware`: `AccessControl` for an application that another server runs."""

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Self

from trio_jobs.access import EXTENSION
from trio_jobs.problem_details import Problem
from trio_jobs.server.access_control import AccessControl, fields_of
from trio_jobs.server.host_roles import HostRoles

App = Callable[[Any, Any, Any], Awaitable[None]]


class AccessMiddleware:
    """An ASGI application that passes on those requests that access control admits.

    The scope of each of them says who asks, in ``extensions``.

    Args:
        app: The application that answers the admitted requests.
        access_control: Checks each request, by its path without ``root_path``.
        host_roles: Says who asks, in the place of ``access_control``, which knows no tokens then.
    """

    def __init__(
        self, app: App, access_control: AccessControl, host_roles: HostRoles | None = None
    ) -> None:
        self._app = app
        self._access_control = access_control
        self._host_roles = host_roles

    def around(self, wrap: Callable[[App], App]) -> Self:
        """The same access control for what ``wrap`` makes of the application."""
        return type(self)(wrap(self._app), self._access_control, self._host_roles)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        """Run the application, or answer 401 or 403.

        Raises:
            Exception: The error of the function of ``host_roles``; the server answers 500.
        """
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
            method, fields = scope["method"], fields_of(list(scope["headers"]))
            control = self._access_control
            try:
                access = control.check(method, path, fields, loopback=_is_loopback(scope))
                if self._host_roles is not None:
                    is_open = control.is_probe(method, path)
                    access = self._host_roles.check(scope, method, path, is_open=is_open)
            except Problem as problem:
                headers, body = problem.render()
                start = {"type": "http.response.start", "status": problem.status}
                await send({**start, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
            extensions = {**(scope.get("extensions") or {}), EXTENSION: access}
            scope = {**scope, "extensions": extensions}
        await self._app(scope, receive, send)


def _is_loopback(scope: dict[str, Any]) -> bool:
    """Whether the request came to a TCP socket that only this machine can reach."""
    host, _ = scope.get("server") or ("", None)
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:  # a name, or the path of a Unix socket
        return False
