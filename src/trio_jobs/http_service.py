"""`make_http_service`: the HTTP API over the pool, ready to be served."""

import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from trio_jobs.access_changes import AccessChanges
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.drain_state import DrainState
from trio_jobs.api.fast_path import FastPath
from trio_jobs.api.pool_source import feed_of
from trio_jobs.api.route_names import route_names
from trio_jobs.api.sign_in import SignIn
from trio_jobs.handlers.blocking_monitor import BlockingMonitor
from trio_jobs.lifecycle import Lifecycle
from trio_jobs.opened_store import OpenedStore
from trio_jobs.pool.pool import Pool
from trio_jobs.reload import parts_to_reload, run_reloads
from trio_jobs.resources import Resources
from trio_jobs.server.access_control import AccessControl
from trio_jobs.server.serve import serve
from trio_jobs.server.traffic import Traffic
from trio_jobs.sessions import Sessions
from trio_jobs.settings import Config
from trio_jobs.tokens import TokenTable

_HEALTH, _METRICS = "/health", "/metrics"
# The cookie of servers that share a database: of whatever ports they are, one sign-in is for all.
_SHARED_COOKIE = "trio_jobs"


def make_http_service(
    config: Config,
    pool: Pool,
    opened: OpenedStore,
    resources: Resources,
    lifecycle: Lifecycle,
    monitor: BlockingMonitor | None,
) -> Callable[..., Awaitable[None]]:
    """Connect the API, the listeners, the stop, the reload and the metrics; nothing runs yet.

    Args:
        config: The settings.
        pool: The pool.
        opened: Where its jobs are kept.
        resources: What belongs to the process.
        lifecycle: The stop.
        monitor: Knows the longest step of the event loop; with metrics, there is one.

    Returns:
        `serve` with all its arguments but ``task_status``. Beside it the reload runs.
    """
    http = config.http
    exporter = traffic = None
    if config.metrics.enabled and monitor is not None:
        from trio_jobs.metrics.exporter import Exporter  # needs the extra

        exporter = Exporter(pool, monitor)
    has_sessions = http.ui and resources.tokens is not None
    # Several servers accept a session, so its end is a time by which all of them go.
    is_shared = config.store.url is not None
    clock = time.time if is_shared else time.monotonic

    def tokens() -> TokenTable | None:
        return access_control.tokens

    def key_of(fingerprint: bytes) -> bytes | None:
        return None if (table := tokens()) is None else table.session_key(fingerprint)

    sessions = None
    if has_sessions:
        sessions = Sessions(
            _SHARED_COOKIE if is_shared else f"trio_jobs_{resources.listeners.mark}",
            seconds=http.session_seconds,
            secure=http.secure_cookie or resources.listeners.tls is not None,
            clock=clock,
            key_of=key_of if is_shared else None,
        )
    access_control = AccessControl(
        allowed_hosts=[*http.allowed_hosts, *resources.listeners.names],
        tokens=resources.tokens,
        health_path=_HEALTH,
        open_paths=[_METRICS] if config.metrics.open else [],
        sessions=sessions,
    )
    access_changes = AccessChanges(tokens, clock=clock)
    writers = (resources.logs, resources.stop)  # to the log file
    parts = parts_to_reload(config, resources.listeners, access_control, access_changes, *writers)
    drain = DrainState(
        keeps_pending=pool.admission.keeps_pending, grace_left=resources.stop.grace_left
    )
    feed = feed_of(pool, drain)
    context = ApiContext(
        pool=pool,
        http=http,
        shutdown_retry_after=config.pool.retry_after,
        access_changes=access_changes,
        sign_in=None if sessions is None else SignIn(tokens, sessions),
        metrics=exporter,
        tracing=resources.tracing,
        feed=feed,
        drain=drain,
    )
    app = FastPath(context, find=opened.find_nowait)
    if exporter is not None:
        traffic = Traffic(route_names(app.app.url_map))
        exporter.watch(traffic, feed)
    serve_http = partial(
        serve,
        app,
        resources.listeners,
        http,
        access_control,
        closing=lifecycle.closed,
        health_path=_HEALTH,
        reserved_descriptors=pool.places.max_descriptors,
        connection_closed=pool.shortage.note_change,
        traffic=traffic,
        last_moment=partial(resources.stop.wait_grace_over, lifecycle.cancelled),
    )

    async def serve_and_reload(
        *, task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_reloads, resources.other_signals, parts)
            if feed is not None:
                nursery.start_soon(feed.touch_after, lifecycle.draining)
            await serve_http(task_status=task_status)
            nursery.cancel_scope.cancel()

    return serve_and_reload
