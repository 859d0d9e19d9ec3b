"""`POST /jobs`: one job. The client may wait for it, and name it so as to repeat the request."""

from quart import Blueprint, Response, request

from trio_jobs.api import serialization
from trio_jobs.api.context import ApiContext
from trio_jobs.api.error_handlers import Problem, no_room, shutting_down
from trio_jobs.api.idempotency import KEY, read_key
from trio_jobs.api.prefer_wait import wait_if_preferred
from trio_jobs.api.quart_adapter import current_path, read_body
from trio_jobs.api.submission_json import parse_submission
from trio_jobs.job import IdempotencyKey, Job
from trio_jobs.pool.admission import QueueFullError, ShuttingDownError


def add_submit_route(routes: Blueprint, context: ApiContext) -> None:
    """Add ``POST /jobs``."""
    admission, store = context.pool.admission, context.pool.store

    @routes.post("/jobs")
    async def submit_job() -> Response:
        # A key may stand for a job that is in already, and that answer is due also now.
        if admission.closed and KEY not in request.headers:
            raise shutting_down(context.shutdown_retry_after)
        body = await read_body(max_bytes=context.http.max_body_bytes)
        submission = parse_submission(body, context.pool.handlers)
        key = read_key(body)
        # No await from here to the admission: of two requests with one key
        # at the same instant the second finds the first one's job.
        job = None if key is None else find_first(key)
        headers = {} if job is None else {"Idempotent-Replayed": "true"}
        if job is None:
            try:
                job = admission.submit(submission.type, submission.payload, key=key)
            except QueueFullError as error:
                raise no_room(error) from None
            except ShuttingDownError:
                raise shutting_down(context.shutdown_retry_after) from None
        headers["Location"] = f"{current_path()}/{job.id}"
        applied: dict[str, str] = {}
        if "Prefer" in request.headers:
            job, applied = await wait_if_preferred(job, context)
        view = serialization.job_json(job) if applied else serialization.accepted_json(job)
        return Response(view, 201, headers=headers | applied, content_type=serialization.MEDIA_TYPE)

    def find_first(key: IdempotencyKey) -> Job | None:
        job = store.find_key(key.text)
        if job is not None and job.key != key:
            raise Problem(422, f"the {KEY} {key.text!r} was used with another body")
        return job
