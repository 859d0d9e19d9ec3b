"""`create_app`: the routes."""

from collections.abc import Callable

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from trio_jobs.admission import QueueFullError, ShuttingDownError, Submissions
from trio_jobs.api import views
from trio_jobs.api.connection import Connection, JobRequest, read_body
from trio_jobs.api.health import PoolStatus
from trio_jobs.api.listing import parse_query, read_page, stream_all
from trio_jobs.api.parsing import parse_submission
from trio_jobs.api.problems import Problem, register_problems
from trio_jobs.handlers import Handlers
from trio_jobs.job import Job, JobStatus
from trio_jobs.store import JobNotFoundError, JobStore

_JSON = "application/json"


def create_app(
    submissions: Submissions,
    store: JobStore,
    handlers: Handlers,
    *,
    pool_status: Callable[[], PoolStatus],
    max_body_bytes: int,
    shutdown_retry_after: int,
) -> QuartTrio:
    """The application that clients talk to.

    Args:
        submissions: Where jobs come in.
        store: Where they are looked up.
        handlers: Which types there are.
        pool_status: What the pool is doing now.
        max_body_bytes: The longest body of a request.
        shutdown_retry_after: Whole seconds after which a client that was told
            of a shutdown should find a server again.
    """
    app = QuartTrio("trio_jobs", static_folder=None)
    app.request_class = JobRequest
    app.asgi_http_class = Connection
    # A redirect to the tidy path would drop a POST's body.
    app.url_map.merge_slashes = False
    register_problems(app)

    @app.post("/jobs")
    async def submit_job() -> Response:
        if submissions.closed:
            raise shutting_down()
        body = await read_body(max_bytes=max_body_bytes)
        submission = parse_submission(body, handlers)
        try:
            job = submissions.submit(submission.type, submission.payload)
        except QueueFullError as error:
            raise no_room(error) from None
        except ShuttingDownError:
            raise shutting_down() from None
        return Response(
            views.brief(job),
            201,
            headers={"Location": f"{request.path}/{job.id}"},
            content_type=_JSON,
        )

    @app.get("/jobs")
    async def list_jobs() -> Response:
        query = parse_query(request.query_string)
        if query.limit is None:
            response = Response(stream_all(store, query), content_type=_JSON)
            response.timeout = None
            return response
        jobs, more = await read_page(store, query)
        response = Response(views.listing(jobs), content_type=_JSON)
        if more:
            response.headers["Link"] = (
                f'<{request.path}?{query.next_page(jobs[-1].id)}>; rel="next"'
            )
        return response

    @app.get("/jobs/<job_id>")
    async def get_job(job_id: str) -> Response:
        job = find(job_id)
        headers = {} if job.status is JobStatus.COMPLETED else {"Retry-After": "1"}
        return Response(views.whole(job), headers=headers, content_type=_JSON)

    @app.get("/health")
    async def health() -> Response:
        return Response(b'{"status":"ok"}', content_type=_JSON)

    @app.get("/health/ready")
    async def ready() -> Response:
        status = 503 if submissions.closed else 200
        return Response(msgspec.json.encode(pool_status()), status, content_type=_JSON)

    def find(job_id: str) -> Job:
        try:
            return store.get(job_id)
        except JobNotFoundError as error:
            raise Problem(404, str(error)) from None

    def no_room(error: QueueFullError) -> Problem:
        return Problem(
            429,
            f"{error}; nothing was kept; try again in {error.retry_after} s",
            headers={"Retry-After": str(error.retry_after)},
            retry_after=error.retry_after,
        )

    def shutting_down() -> Problem:
        return Problem(
            503,
            "shutting down; nothing was kept",
            headers={"Retry-After": str(shutdown_retry_after), "Connection": "close"},
            retry_after=shutdown_retry_after,
        )

    return app
