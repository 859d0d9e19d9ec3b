"""The worker's lines in the log about one job: it has started, and how it ended."""

import logging

import trio

from trio_jobs.job import Ending, Job, Outcome

log = logging.getLogger("trio_jobs.pool.worker")

# A failure is a warning, so that it stays in sight at `level = "warning"`. A cancel is not: a
# client has asked for it.
_LEVELS = {
    Outcome.SUCCEEDED: logging.DEBUG,
    Outcome.CANCELLED: logging.INFO,
    Outcome.FAILED: logging.WARNING,
    Outcome.TIMED_OUT: logging.WARNING,
}


def log_start(job: Job) -> None:
    """Log that a worker has claimed the job."""
    log.debug("job_started", extra=_fields(job))


def log_end(job: Job, ending: Ending, *, duration: float) -> None:
    """Log how the job ended, ``duration`` seconds after its claim."""
    fields = _fields(job, duration=duration)
    if ending.error is not None:
        fields["error"] = f"{ending.error.type}: {ending.error.message}"
    log.log(_LEVELS[ending.outcome], f"job_{ending.outcome}", extra=fields)


def _fields(job: Job, **more: object) -> dict[str, object]:
    worker = trio.lowlevel.current_task().name
    return {"job_id": job.id, "job_type": job.type, "worker": worker, **more}
