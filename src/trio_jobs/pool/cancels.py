"""`cancel_all`: asks for many jobs to be cancelled."""

import logging
from contextlib import suppress

import trio

from trio_jobs.job import Job, JobStatus
from trio_jobs.pool.job_query import JobQuery, names
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.refusals import StoreTimeoutError, StoreUnavailableError
from trio_jobs.pool.store import DurableStorePort, KeepingStore, StoreError
from trio_jobs.shown_value import shown

log = logging.getLogger(__name__)

# Jobs to cancel between two checkpoints: about a millisecond's work.
STRIDE = 100

_UNFINISHED = (JobStatus.PENDING, JobStatus.PROCESSING)


def cancel_query(type: object, status: object) -> JobQuery:  # noqa: A002
    """Check the filters of a cancel, and make the query.

    Args:
        type: Types, at least one; None for all.
        status: ``pending``, ``processing`` or both; None for both.

    Raises:
        ValueError: One is no such value, or neither is given: nobody cancels all jobs by leaving
            something out.
    """
    if type is None and status is None:
        raise ValueError("type or status must be given, or both")
    statuses = _UNFINISHED if status is None else names("status", status)
    for each in statuses:
        if each not in _UNFINISHED:
            raise ValueError(f"status must be pending, processing or both, got {shown(each)}")
    return JobQuery(
        statuses=frozenset(JobStatus(each) for each in statuses),
        types=frozenset() if type is None else frozenset(names("type", type)),
    )


async def cancel_all(pool: Pool, query: JobQuery) -> int:
    """Ask for the cancel of all unfinished jobs that a query wants; see `Pool.cancel`.

    Each job that is there at the call and that the query still wants when its turn comes is asked
    for; jobs that come in meanwhile may be. With a file the requests are on the disk at the return;
    with a database they are there, and the servers that run the jobs have been told.

    Args:
        pool: Where the jobs are.
        query: Which jobs; those that have completed are left alone.

    Returns:
        How many jobs will be cancelled. A job that ends otherwise before its turn is not counted.

    Raises:
        StoreTimeoutError: With a file: it is unknown whether all requests are on the disk. They
            have taken effect. With a database: those will that it has, or gets; others were not
            made.
        StoreUnavailableError: The database does not answer; no cancel was asked for.

    Cancellation:
        Jobs whose turn has come will be cancelled, the others not.

    Checkpoints:
        At least one, and one after each millisecond's work.
    """
    store, after, number = pool.store, None, 0
    while True:
        try:
            jobs = await store.page(query, after=after, limit=STRIDE)
        except StoreUnavailableError:
            if number == 0 or not isinstance(store, KeepingStore):
                raise
            raise StoreTimeoutError(store.timeout, "the database") from None
        number += sum(_cancel(pool, job) for job in query.select(jobs))
        await trio.lowlevel.checkpoint()
        if len(jobs) < STRIDE:
            break
        after = query.position(jobs[-1])
    if number:
        log.info("jobs_cancelled", extra={"count": number})
    if isinstance(store, KeepingStore) and store.disk is not None:
        with trio.move_on_after(store.timeout) as limit:
            await store.disk.settled()
        if limit.cancelled_caught:
            waited_for = "the disk" if isinstance(store, DurableStorePort) else "the database"
            raise StoreTimeoutError(store.timeout, waited_for)
    return number


def _cancel(pool: Pool, job: Job) -> bool:
    """Whether the job will be cancelled."""
    return job.status is not JobStatus.COMPLETED and cancel_nowait(pool, job.id)


def cancel_nowait(pool: Pool, job_id: str) -> bool:
    """Ask for the cancel of a job, without waiting for a disk.

    Returns:
        Whether it will be cancelled; it may have ended, or be new to the file's memory. With a
        database, a job that another server has counts as one that will be.
    """
    with suppress(StoreError):
        pool.store.request_cancel_nowait(job_id)
        pool.note_cancel(job_id)
        return True
    return False
