"""The answers about one job, and the refusals, as values that know nothing of Quart."""

from enum import Enum
from typing import Final

import msgspec

from trio_jobs import problem_details
from trio_jobs.access import Access
from trio_jobs.api import serialization
from trio_jobs.api.api_context import ApiContext
from trio_jobs.handlers.reports import with_reports
from trio_jobs.job import Job, JobStatus
from trio_jobs.pool.idempotency import KeyReusedError
from trio_jobs.pool.refusals import (
    AdmissionError,
    IntakePausedError,
    QueueFullError,
    ShuttingDownError,
    StoreTimeoutError,
    StoreUnavailableError,
    StoreWriteError,
)
from trio_jobs.pool.schedule import retry_after
from trio_jobs.pool.store import InvalidTransitionError, JobNotFoundError, StoreError
from trio_jobs.problem_details import Problem

# The errors for which `refused` has an answer.
REFUSALS = (Problem, AdmissionError, StoreError, StoreTimeoutError)


class Asked(Enum):
    """What a request asks for.

    The value has what a refusal leaves of it, and what the client of one in doubt should do.
    """

    LOOK_UP = "", "repeat it"
    CHANGE = "; nothing has changed", "repeat it"
    RERUN = "; nothing was kept", "repeat it"  # a job is re-run once
    JOBS = "; nothing was kept", "repeat it with the same key"


# Seconds. A disk that is full stays so until an operator acts, and each try is cheap.
_STORE_RETRY_AFTER: Final = 5


class Answer(msgspec.Struct, frozen=True):
    """A whole answer; the routes and the fast path render it.

    Attributes:
        status: The HTTP status.
        headers: Values by name, beyond those that each answer has.
        body: The body.
        media_type: Of the body.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    media_type: str = serialization.MEDIA_TYPE


def accepted(job: Job, headers: dict[str, str]) -> Answer:
    """201: the job as it was at its submission; ``headers`` has its ``Location``."""
    return Answer(201, headers, serialization.accepted_json(job))


def whole_json(job: Job, context: ApiContext, access: Access) -> bytes:
    """All of the job that this client may see."""
    job = with_reports(job, context.pool.executor.running.get(job.id))
    if context.withholds_from(access):
        return serialization.withheld_json(job)
    handlers = context.pool.handlers
    return serialization.job_json(job, hide=handlers.hidden(job.type) if handlers.hides else ())


def shown(
    job: Job, context: ApiContext, access: Access, headers: dict[str, str] | None = None
) -> Answer:
    """200: all of the job as it is now, as far as this client may see it."""
    headers = dict(headers or {})
    if job.status is not JobStatus.COMPLETED:
        headers["Retry-After"] = "1"
        if job.run_at is not None:
            seconds = (job.run_at - context.pool.now()).total_seconds()
            headers["Retry-After"] = str(retry_after(seconds))
    return Answer(200, headers, whole_json(job, context, access))


def refused(error: Exception, context: ApiContext, asked: Asked) -> Answer:
    """The answer to one of `REFUSALS`; raises any other error, which is the server's own fault."""
    problem = problem_of(error, context, asked)
    return Answer(problem.status, problem.headers, problem.body(), problem_details.MEDIA_TYPE)


def _no_room(error: QueueFullError, left: str, **members: int) -> Problem:
    seconds = error.retry_after
    detail = f"{error}{left}; try again in {seconds} s"
    headers = {"Retry-After": str(seconds)}
    return Problem(429, detail, headers=headers, retry_after=seconds, **members)


def _paused(error: IntakePausedError, left: str, **members: int) -> Problem:
    seconds = error.retry_after
    return Problem(
        503,
        f"{error}{left}; try again in {seconds} s",
        headers={"Retry-After": str(seconds)},
        retry_after=seconds,
        reason=error.reason,
        **members,
    )


def _store_problem(error: Exception, left: str, again: str, **members: int) -> Problem:
    if isinstance(error, StoreTimeoutError):
        if members:
            left += ", and perhaps more"
        else:
            left = "; it is unknown whether the request has been carried out"
        status = 504
        detail = f"{error}{left}; {again}"
    elif isinstance(error, StoreUnavailableError):
        status, detail = 503, f"{error}{left}"
    else:
        if isinstance(error, StoreWriteError) and error.holds and not members:
            left = f"; {error.kept}"
        status, detail = 507, f"the jobs cannot be written: {error}{left}"
    reason = {"reason": "store_away"} if status == 503 else {}
    seconds = _STORE_RETRY_AFTER
    headers = {"Retry-After": str(seconds)}
    return Problem(status, detail, headers=headers, retry_after=seconds, **reason, **members)


def problem_of(
    error: Exception, context: ApiContext, asked: Asked = Asked.JOBS, **members: int
) -> Problem:
    """The Problem for one of `REFUSALS`, which counts.

    Args:
        error: Raises any other error.
        context: Of the API.
        asked: What the request asks for.
        members: Of a stream, the number of jobs ``accepted`` so far.
    """
    if context.metrics is not None and isinstance(error, AdmissionError | StoreTimeoutError):
        context.metrics.refusals[error.reason] += 1
    left, again = asked.value
    if members:
        left = f"; {members['accepted']} jobs are in"
    match error:
        case Problem():
            return error
        case QueueFullError():
            return _no_room(error, left, **members)
        case ShuttingDownError():
            return context.shutting_down(left, **members)
        case IntakePausedError():
            return _paused(error, left, **members)
        case StoreWriteError() | StoreUnavailableError() | StoreTimeoutError():
            return _store_problem(error, left, again, **members)
        case KeyReusedError():
            return Problem(422, str(error))
        case JobNotFoundError():
            return Problem(404, str(error))
        case InvalidTransitionError():
            return Problem(409, str(error))
    raise error
