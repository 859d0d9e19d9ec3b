"""`POST /jobs`: one job; its client may wait for it, and repeat the request under a key."""

from collections.abc import Sequence

from msgspec.structs import replace
from quart import Quart, Response, request

from trio_jobs.api.answers import Answer, accepted, whole_json
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.current_access import current_access
from trio_jobs.api.keys import VISIBLE
from trio_jobs.api.prefer_wait import find_after_wait
from trio_jobs.api.quart_adapter import current_path, to_response
from trio_jobs.api.request_body import read_body
from trio_jobs.api.submission_json import KEY, parse_submission
from trio_jobs.api.submission_span import submission_span, with_span
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.job import Job
from trio_jobs.pool import idempotency
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.pool.schedule import date_of
from trio_jobs.problem_details import Problem


def add_submit_route(app: Quart, context: ApiContext) -> None:
    """Add ``POST /jobs``."""
    admission = context.pool.admission

    @app.post("/jobs")
    async def submit_job() -> Response:
        # A repeated request gets its first answer also from a closed pool.
        if admission.closed and KEY not in request.headers:
            raise ShuttingDownError
        body = await read_body(max_bytes=context.http.max_body_bytes)
        pool = context.pool
        key, access = checked_key(request.headers.getlist(KEY)), current_access()
        spec = parse_submission(body, pool.handlers, pool.now, key=key, submitted_by=access.name)
        with submission_span(context, [spec]) as span:
            submitted = await idempotency.admit(with_span(spec, span), admission, pool.store)
            if span is not None:
                span.note_job(submitted.job.id)
        job = submitted.job
        first, headers = as_first_answered(submitted, body, pool.handlers)
        headers["Location"] = f"{current_path()}/{job.id}"
        applied: dict[str, str] = {}
        if "Prefer" in request.headers:
            job, applied = await find_after_wait(job.id, context)
        if applied:
            return to_response(Answer(201, headers | applied, whole_json(job, context, access)))
        return to_response(accepted(first, headers))


def as_submitted(job: Job, spec: JobSpec) -> Job:
    """The job with the time that it was submitted for, by what was parsed at its admission."""
    run_at = None if spec.due is None else date_of(spec.due, job.created_at)
    return replace(job, run_at=run_at)


def as_first_answered(
    submitted: idempotency.Submitted, body: bytes, handlers: HandlerRegistry
) -> tuple[Job, dict[str, str]]:
    """The job as the answer to its submission shows it, and that answer's headers."""
    job = submitted.job
    if not submitted.replayed:
        return job, {}
    at_first = parse_submission(body, handlers, lambda: job.created_at)
    return as_submitted(job, at_first), {"Idempotent-Replayed": "true"}


def checked_key(texts: Sequence[str]) -> str | None:
    """The idempotency key in a request's headers of this name; None without one.

    Raises:
        Problem: 400, there are several keys, or the key is not 1 to 255
            visible ASCII characters.
    """
    if not texts:
        return None
    if len(texts) > 1 or not VISIBLE.fullmatch(texts[0]):
        raise Problem(400, f"{KEY} must be one value of 1 to 255 visible ASCII characters")
    return texts[0]
