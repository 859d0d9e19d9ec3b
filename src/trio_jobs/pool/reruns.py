"""Re-runs: a job that did not succeed is submitted once more, as a new job."""

import logging

import msgspec

from trio_jobs.error_text import readable
from trio_jobs.handlers.registry import HandlerRegistry, UnknownTypeError
from trio_jobs.job import Job
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.store import InvalidTransitionError, check_rerun

log = logging.getLogger(__name__)

# The longest text of a refused payload's fault, in characters.
_MAX_FAULT = 400


def rerun(pool: Pool, job: Job) -> Job:
    """Submit a completed job once more; it needs room in the buffer, as any job.

    Args:
        pool: Where to.
        job: The job as it is now, in the pool's store.

    Returns:
        The new job, with the old one's type and payload. Each names the other by its id.

    Raises:
        InvalidTransitionError: The job cannot be re-run; see `check_rerun`. Or its handler is
            gone, or does not take its payload any more.
        QueueFullError: There is no room for it.
        ShuttingDownError: The pool takes no more jobs.
    """
    check_rerun(job)
    check_handler(job, pool.handlers)
    [new] = pool.admission.submit_all([JobSpec(job.type, job.payload, rerun_of=job.id)])
    log.info("job_rerun", extra={"job_id": new.id, "job_type": new.type, "rerun_of": job.id})
    return new


def check_handler(job: Job, handlers: HandlerRegistry) -> None:
    """Check that there is a handler that takes the job's payload.

    Raises:
        InvalidTransitionError: There is none.
    """
    try:
        handlers.validate(job.type, job.payload)
    except (UnknownTypeError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        fault = readable(str(error), _MAX_FAULT)
        raise InvalidTransitionError(f"job {job.id!r} can not be re-run: {fault}") from None
