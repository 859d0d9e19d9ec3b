"""The worker's lines in the log about one job: it has started, how it ended or was postponed."""

import logging

import trio

from trio_jobs.job import Ending, Job, JobError, Later, Outcome

log = logging.getLogger("trio_jobs.pool.worker")

# A failure is a warning, so that it stays in sight at `level = "warning"`. A cancel is not: a
# client has asked for it.
_LEVELS = {
    Outcome.SUCCEEDED: logging.DEBUG,
    Outcome.CANCELLED: logging.INFO,
    Outcome.FAILED: logging.WARNING,
    Outcome.TIMED_OUT: logging.WARNING,
    Outcome.INTERRUPTED: logging.WARNING,
}


def log_start(job: Job) -> None:
    """Log that a worker has claimed the job."""
    log.debug("job_started", extra=_fields(job))


def log_end(job: Job, ending: Ending, *, duration: float) -> None:
    """Log how the job ended, ``duration`` seconds after its claim."""
    fields = _fields(job, ending.error, duration=duration)
    log.log(_LEVELS[ending.outcome], f"job_{ending.outcome}", extra=fields)


def log_postponed(job: Job, later: Later, *, duration: float) -> None:
    """Log that the attempt ended after ``duration`` seconds, and that the job gets another one."""
    level = logging.INFO if later.snooze else logging.WARNING
    times = {"seconds": round(later.seconds, 6), "duration": round(duration, 6)}
    log.log(level, "job_postponed", extra=_fields(job, later.error, attempt=job.attempts, **times))


def _fields(job: Job, error: JobError | None = None, **more: object) -> dict[str, object]:
    worker = trio.lowlevel.current_task().name
    fields = {"job_id": job.id, "job_type": job.type, "worker": worker, **more}
    if error is not None:
        fields["error"] = f"{error.type}: {error.message}"
    return fields
