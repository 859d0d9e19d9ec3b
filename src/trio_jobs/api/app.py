"""`create_app`: the routes, on an application of their own."""

from collections.abc import Callable

from quart import Blueprint
from quart_trio import QuartTrio

from trio_jobs.api.batch import add_batch_route
from trio_jobs.api.context import ApiContext
from trio_jobs.api.error_handlers import register_problems
from trio_jobs.api.health import add_health_routes
from trio_jobs.api.job_routes import add_job_routes
from trio_jobs.api.listing import add_listing_route
from trio_jobs.api.openapi import add_openapi_route
from trio_jobs.api.options import answer_options
from trio_jobs.api.quart_adapter import JobRequest, RequestAdapter
from trio_jobs.api.query_params import refuse_parameters
from trio_jobs.api.stream import add_stream_route
from trio_jobs.api.submit import add_submit_route
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.pool import PoolStatistics
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.stores.memory import MemoryStore


def create_app(
    admission: Admission,
    store: MemoryStore,
    handlers: HandlerRegistry,
    waiters: CompletionWaiters,
    *,
    cancel: Callable[[str], object],
    pool_statistics: Callable[[], PoolStatistics],
    max_body_bytes: int,
    max_wait_seconds: float,
    stream_idle_timeout: float,
    shutdown_retry_after: int,
) -> QuartTrio:
    """The application that clients talk to.

    Args:
        admission: Where jobs come in.
        store: Where they are looked up.
        handlers: Which types there are.
        waiters: Where clients wait for jobs.
        cancel: Cancels the handler of a running job, given the job's id; does
            nothing if the job is not running.
        pool_statistics: What the pool is doing now.
        max_body_bytes: The longest body of a request, and the longest line
            of a stream.
        max_wait_seconds: How long a client may wait for a job at the most.
        stream_idle_timeout: How long, in seconds, the client of a stream may
            send nothing while the server is reading.
        shutdown_retry_after: Whole seconds after which a client that was told
            of a shutdown should find a server again.
    """
    return app_over(
        ApiContext(
            admission=admission,
            store=store,
            handlers=handlers,
            waiters=waiters,
            cancel=cancel,
            pool_statistics=pool_statistics,
            max_body_bytes=max_body_bytes,
            max_wait_seconds=max_wait_seconds,
            stream_idle_timeout=stream_idle_timeout,
            shutdown_retry_after=shutdown_retry_after,
        )
    )


def app_over(parts: ApiContext) -> QuartTrio:
    """The application over these parts."""
    app = QuartTrio("trio_jobs", static_folder=None)
    app.request_class = JobRequest
    app.asgi_http_class = RequestAdapter
    # A redirect to the tidy path would drop a POST's body.
    app.url_map.merge_slashes = False
    register_problems(app)
    app.register_blueprint(create_routes(parts))
    return app


def create_routes(parts: ApiContext) -> Blueprint:
    """The routes alone, for an application whose requests are read by `RequestAdapter`."""
    routes = Blueprint("trio_jobs", __name__)
    answer_options(routes)  # first: one of a path's methods may have parameters
    refuse_parameters(routes, except_on="list_jobs")
    add_submit_route(routes, parts)
    add_batch_route(routes, parts)
    add_stream_route(routes, parts)
    add_listing_route(routes, parts)
    add_job_routes(routes, parts)
    add_health_routes(routes, parts)
    add_openapi_route(routes, parts)
    return routes
