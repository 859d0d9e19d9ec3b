"""The moves of a job, as functions from its record to the next one; all stores make them."""

from datetime import datetime, timedelta
from typing import Final, NoReturn

from msgspec.structs import replace

from trio_jobs.job import Ending, Job, JobError, JobStatus, Later, Left, Outcome, with_left
from trio_jobs.pool.store import InvalidTransitionError, check_rerun, check_waits

# On Python 3.11 the look-up of an enum's member costs more than all that a move does with it.
PENDING, PROCESSING, COMPLETED = JobStatus

# How a job ends whose worker is cancelled as the pool ends, and that may not run again.
CUT_OFF: Final = Ending(
    outcome=Outcome.INTERRUPTED,
    error=JobError(
        type="Interrupted", message="the pool ended while the job ran, which may not run twice"
    ),
)


def refuse(job: Job, expected: JobStatus, wanted: JobStatus) -> NoReturn:
    """Refuse a move to ``wanted``, which only a job that is ``expected`` can make."""
    raise InvalidTransitionError(
        f"job {job.id!r} is {job.status}; only a {expected} job can become {wanted}"
    )


def claimed(job: Job, now: datetime) -> Job:
    """Pending → processing."""
    if now < job.created_at:  # the wall clock was set back
        now = job.created_at
    if job.extras is not None or job.run_at is not None:
        job = replace(with_left(job, None), run_at=None)  # few jobs have these; each costs time
    return replace(job, status=PROCESSING, started_at=now, attempts=job.attempts + 1)


def completed(job: Job, ending: Ending, now: datetime, duration: float | None) -> Job:
    """Processing → completed."""
    if job.started_at is not None and now < job.started_at:
        now = job.started_at
    if ending.left is not None:
        job, ending = with_left(job, ending.left), replace(ending, left=None)
    if job.last_error is not None:
        job = replace(job, last_error=None)
    return replace(job, status=COMPLETED, completed_at=now, duration=duration, ending=ending)


def postponed(job: Job, later: Later, now: datetime) -> Job:
    """Processing → pending, with a time: now if the job's cancel was requested."""
    seconds = 0.0 if job.cancel_requested else later.seconds
    return replace(
        with_left(job, later.left, snooze=later.snooze),
        status=PENDING,
        started_at=None,
        attempts=job.attempts - later.snooze,
        run_at=now + timedelta(seconds=seconds),
        last_error=later.error or job.last_error,
    )


def released(job: Job, left: Left | None = None) -> Job:
    """Processing → pending; the attempt does not count."""
    job = with_left(job, left)
    return replace(job, status=PENDING, started_at=None, attempts=job.attempts - 1)


def cancel_requested(job: Job, now: datetime) -> Job:
    """A client wants the job cancelled: if it waits for a time, that time is now."""
    if job.status is COMPLETED:
        raise InvalidTransitionError(f"job {job.id!r} is completed; it can not be cancelled")
    run_at = job.run_at and min(job.run_at, now)
    return replace(job, cancel_requested=True, run_at=run_at)


def made_due(job: Job, now: datetime) -> Job:
    """A waiting job need not wait for its time: that is now."""
    return replace(job, run_at=min(check_waits(job), now))


def rerun(job: Job, new_id: str) -> Job:
    """Note at a completed job that another one re-runs it."""
    check_rerun(job)
    return replace(job, rerun_as=new_id)
