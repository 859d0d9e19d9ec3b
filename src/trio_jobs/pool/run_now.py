"""`run_now`: lets a job that waits for a time begin at once."""

from trio_jobs.job import Job
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.refusals import ShuttingDownError


async def run_now(pool: Pool, job_id: str) -> Job:
    """Let a job begin that is delayed, or is between two attempts.

    It is due now: it begins as soon as a slot is free, in turn with other due jobs. A job that is
    due already, and a held one, wait on.

    Returns:
        The job as it is now.

    Raises:
        JobNotFoundError: There is no such job.
        InvalidTransitionError: It has begun, or was to begin as soon as it can.
        ShuttingDownError: The pool takes no more jobs: it begins none that was to wait.
        StoreWriteError: With a file: the job is due, and a crash can take that back.
        StoreTimeoutError: With a file: likewise, and it is unknown whether it is on the disk. With
            a database: it is unknown whether it is due.
    """
    if pool.admission.closed:
        raise ShuttingDownError

    def note(job_id: str) -> None:
        if pool.schedule.waits(job_id) and not pool.schedule.holds(job_id):
            pool.schedule.advance(job_id)

    return await pool.store.make_due(job_id, noted=note)
