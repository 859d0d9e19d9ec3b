"""The answers about one job, and the refusals, as values that know nothing of Quart."""

from typing import NamedTuple

from trio_jobs import problem_details
from trio_jobs.api import serialization
from trio_jobs.api.api_context import ApiContext
from trio_jobs.job import Job, JobStatus
from trio_jobs.pool.admission import AdmissionError, QueueFullError, ShuttingDownError
from trio_jobs.pool.store import InvalidTransitionError, JobNotFoundError, StoreError
from trio_jobs.problem_details import Problem

# The errors for which `refused` has an answer.
REFUSALS = (Problem, AdmissionError, StoreError)


class Answer(NamedTuple):
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


def accepted(job: Job, headers: dict[str, str], *, whole: bool = False) -> Answer:
    """201: the job has been submitted; ``headers`` has its ``Location``.

    The body is the job as it was at its submission, or the ``whole`` job as it is now.
    """
    body = serialization.job_json(job) if whole else serialization.accepted_json(job)
    return Answer(201, headers, body)


def shown(job: Job, headers: dict[str, str] | None = None) -> Answer:
    """200: all of the job as it is now."""
    headers = dict(headers or {})
    if job.status is not JobStatus.COMPLETED:
        headers["Retry-After"] = "1"
    return Answer(200, headers, serialization.job_json(job))


def refused(error: Exception, context: ApiContext) -> Answer:
    """The answer to one of `REFUSALS`; raises any other error, which is the server's own fault."""
    problem = _problem_of(error, context)
    return Answer(problem.status, problem.headers, problem.body(), problem_details.MEDIA_TYPE)


def _problem_of(error: Exception, context: ApiContext) -> Problem:
    match error:
        case Problem():
            return error
        case QueueFullError(retry_after=seconds):
            detail = f"{error}; nothing was kept; try again in {seconds} s"
            headers = {"Retry-After": str(seconds)}
            return Problem(429, detail, headers=headers, retry_after=seconds)
        case ShuttingDownError():
            return context.shutting_down()
        case JobNotFoundError():
            return Problem(404, str(error))
        case InvalidTransitionError():
            return Problem(409, str(error))
    raise error
