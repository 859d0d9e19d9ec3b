"""`POST /jobs`: one job. The client may wait for it, and name it so as to repeat the request."""

import hashlib
import re

from quart import Blueprint, Response, request

from trio_jobs.admission import QueueFullError, ShuttingDownError
from trio_jobs.api import views
from trio_jobs.api.connection import current_path, read_body
from trio_jobs.api.parsing import parse_submission
from trio_jobs.api.parts import Parts
from trio_jobs.api.problems import Problem, no_room, shutting_down
from trio_jobs.api.waiting import wait_if_preferred
from trio_jobs.job import IdempotencyKey, Job

_KEY = "Idempotency-Key"
_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")


def add_submit_route(routes: Blueprint, parts: Parts) -> None:
    """Add ``POST /jobs``."""
    submissions, store = parts.submissions, parts.store

    @routes.post("/jobs")
    async def submit_job() -> Response:
        # A key may stand for a job that is in already, and that answer is due also now.
        if submissions.closed and _KEY not in request.headers:
            raise shutting_down(parts.shutdown_retry_after)
        body = await read_body(max_bytes=parts.max_body_bytes)
        submission = parse_submission(body, parts.handlers)
        key = read_key(body)
        # No await from here to the admission: of two requests with one key
        # at the same instant the second finds the first one's job.
        job = None if key is None else find_first(key)
        headers = {} if job is None else {"Idempotent-Replayed": "true"}
        if job is None:
            try:
                job = submissions.submit(submission.type, submission.payload, key=key)
            except QueueFullError as error:
                raise no_room(error) from None
            except ShuttingDownError:
                raise shutting_down(parts.shutdown_retry_after) from None
        headers["Location"] = f"{current_path()}/{job.id}"
        applied: dict[str, str] = {}
        if "Prefer" in request.headers:
            job, applied = await wait_if_preferred(job, parts)
        view = views.whole(job) if applied else views.submitted(job)
        return Response(view, 201, headers=headers | applied, content_type=views.MEDIA_TYPE)

    def find_first(key: IdempotencyKey) -> Job | None:
        job = store.find_key(key.text)
        if job is not None and job.key != key:
            raise Problem(422, f"the {_KEY} {key.text!r} was used with another body")
        return job


def read_key(body: bytes) -> IdempotencyKey | None:
    """The current request's idempotency key.

    Raises:
        Problem: 400, there are several, or it has other characters than it may.
    """
    texts = request.headers.getlist(_KEY)
    if not texts:
        return None
    if len(texts) > 1 or not _VISIBLE.fullmatch(texts[0]):
        raise Problem(400, f"{_KEY} must be one value of 1 to 255 visible ASCII characters")
    return IdempotencyKey(text=texts[0], digest=hashlib.sha256(body).digest())
