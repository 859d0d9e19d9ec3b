"""`MountedApi`: the HTTP API of an embedded pool as an ASGI application, with access control."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

from trio_jobs.access import RoleFunction
from trio_jobs.api.api_context import ApiContext
from trio_jobs.pool.pool import Pool
from trio_jobs.server.access_control import AccessControl
from trio_jobs.server.access_middleware import AccessMiddleware
from trio_jobs.server.host_roles import HostRoles
from trio_jobs.setting_type import build
from trio_jobs.settings import RETRY_AFTER, HttpSettings
from trio_jobs.tokens import TokenTable

App = Callable[[Any, Any, Any], Awaitable[None]]

# The module of the API's application. Its import takes 0.2 s.
API = "trio_jobs.api.app"


class MountedApi:
    """The checked options of the HTTP API; `BaseJobs.asgi` says what each of them does.

    Raises:
        ValueError: A number is out of range, ``payloads`` is another text, no client could send
            the token, or there is a token beside ``role`` or ``ui``.
        TypeError: ``role`` is no plain function.
    """

    def __init__(
        self,
        *,
        token: str | TokenTable | None,
        payloads: str,
        allowed_hosts: Iterable[str],
        max_wait_seconds: float,
        stream_idle_timeout: float,
        max_event_streams: int,
        max_pipes: int,
        shutdown_retry_after: int,
        ui: bool,
        role: RoleFunction | None,
    ) -> None:
        if token is not None and role is not None:
            raise ValueError(
                "either token or role says what a client may do: a role function can look tokens"
                " up itself, in a TokenTable"
            )
        if token is not None and ui:
            raise ValueError(
                "below a mount nobody can sign in on the page with a token: with ui, let role say"
                " who asks"
            )
        self._http = build(
            HttpSettings,
            payloads=payloads,
            max_wait_seconds=max_wait_seconds,
            stream_idle_timeout=stream_idle_timeout,
            max_event_streams=max_event_streams,
            max_pipes=max_pipes,
            ui=ui,
        )
        RETRY_AFTER.convert(shutdown_retry_after, where="shutdown_retry_after")
        self._shutdown_retry_after = shutdown_retry_after
        self._access_control = AccessControl(
            allowed_hosts=allowed_hosts,
            tokens=TokenTable.of_one(token) if isinstance(token, str) else token,
            health_path="/health",
        )
        self._host_roles = None if role is None else HostRoles(role)

    def over(self, pool: Pool, *, max_payload_bytes: int) -> AccessMiddleware:
        """Make the application.

        Args:
            pool: The pool.
            max_payload_bytes: The longest body of a request, in bytes.
        """
        # Imported here: a program may never need it.
        from trio_jobs.api.app import create_app
        from trio_jobs.api.pool_source import feed_of

        context = ApiContext(
            pool=pool,
            http=replace(self._http, max_body_bytes=max_payload_bytes),
            shutdown_retry_after=self._shutdown_retry_after,
            feed=feed_of(pool),
            offers_sign_in=False,
        )
        return AccessMiddleware(create_app(context), self._access_control, self._host_roles)
