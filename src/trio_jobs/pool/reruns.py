"""Re-runs: jobs that did not succeed are submitted once more, as new jobs."""

import logging
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

import msgspec
import trio

from trio_jobs.error_text import readable
from trio_jobs.handlers.registry import HandlerRegistry, UnknownTypeError
from trio_jobs.job import Job, Outcome
from trio_jobs.pool.job_query import JobQuery, names
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.refusals import QueueFullError
from trio_jobs.pool.store import (
    InvalidTransitionError,
    JobNotFoundError,
    StoreError,
    check_rerun,
)
from trio_jobs.shown_value import shown

log = logging.getLogger(__name__)

# The longest text of a refused payload's fault, in characters.
_MAX_FAULT = 400

# Between two checkpoints `rerun_all` looks at so many jobs, or checks so many bytes of payloads:
# about a millisecond's work.
_STRIDE = 500
_AT_ONCE = 100  # whose payloads it reads together
_TURN_COST = 100_000
_ITEM_COST = 100

_OUTCOMES = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.INTERRUPTED, Outcome.CANCELLED)


class Selection(NamedTuple):
    """Which jobs to re-run, of those that can be re-run; made by `of`.

    Attributes:
        query: Which jobs.
        limit: So many at the most, in the order of their submission; None for all.
    """

    query: JobQuery
    limit: int | None

    @classmethod
    def of(cls, outcome: object, type: object, limit: object) -> "Selection":  # noqa: A002
        """Check the values, and make the selection.

        Args:
            outcome: Outcomes other than ``succeeded``, at least one. None for ``failed`` and
                ``timed_out``: nobody wants a cancelled job but those who name it.
            type: Types, at least one; None for all.
            limit: An integer, at least 1; None for no limit.

        Raises:
            ValueError: One is no such value; the text names it.
        """
        outcomes = _OUTCOMES[:2] if outcome is None else names("outcome", outcome)
        for each in outcomes:
            if each not in _OUTCOMES:
                wanted = ", ".join(_OUTCOMES)
                raise ValueError(f"outcome must be some of {wanted}, got {shown(each)}")
        # A bool is an int.
        if limit is not None and (not isinstance(limit, int) or limit is True or limit < 1):
            raise ValueError(f"limit must be an integer of at least 1, got {shown(limit)}")
        query = JobQuery(
            outcomes=frozenset(Outcome(each) for each in outcomes),
            types=frozenset() if type is None else frozenset(names("type", type)),
            rerun=False,
        )
        return cls(query, limit)


def rerun_nowait(pool: Pool, job: Job) -> Job:
    """Do the same as `rerun`, in a pool with its store in memory."""
    [new] = pool.admission.submit_all([_spec(pool, job)])
    _log(new, job)
    return new


async def rerun(pool: Pool, job: Job, *, submitted_by: str | None = None) -> Job:
    """Submit a completed job once more; it needs room in the buffer, as any job.

    With the store in memory, this makes no checkpoint.

    Args:
        pool: Where to.
        job: The job as it is now, in the pool's store.
        submitted_by: The name of who asks, if there is one.

    Returns:
        The new job, with the old one's type and payload. Each names the other by its id.

    Raises:
        InvalidTransitionError: The job cannot be re-run; see `check_rerun`. Or its handler is
            gone, or does not take its payload any more.
        QueueFullError: There is no room for it.
        ShuttingDownError: The pool takes no more jobs.
    """
    [new] = await pool.admission.admit_all([_spec(pool, job, submitted_by)])
    _log(new, job)
    return new


def _spec(pool: Pool, job: Job, submitted_by: str | None = None) -> JobSpec:
    check_rerun(job)
    check_handler(job, pool.handlers)
    return JobSpec(job.type, job.payload, rerun_of=job.id, submitted_by=submitted_by)


def _log(new: Job, old: Job) -> None:
    log.info("job_rerun", extra={"job_id": new.id, "job_type": new.type, "rerun_of": old.id})


async def rerun_all(
    pool: Pool, selection: Selection, *, submitted_by: str | None = None
) -> list[Job]:
    """Submit the selected jobs once more: all or none.

    The new jobs are waiting jobs that are due now: they need room among the jobs that wait, and
    none in the buffer. Each job is re-run once, even if several tasks select it. A selected job
    that is dropped before the step that admits the new ones is not re-run.

    Args:
        pool: Where the jobs are.
        selection: Which jobs.
        submitted_by: The name of who asks, if there is one.

    Returns:
        The new jobs, in the order in which the old ones were submitted.

    Raises:
        InvalidTransitionError: The handler of one of them is gone, or does not take its payload
            any more; the text names the job.
        QueueFullError: Too many jobs wait for so many more.
        ShuttingDownError: The pool takes no more jobs.

    Checkpoints:
        At least one, and one after each millisecond's work, before jobs are admitted; none after.
    """
    job_ids = await _collect(pool, selection)
    jobs, tried = None, len(job_ids) + 1
    while jobs is None:
        specs = await _specs(pool, job_ids, submitted_by)
        try:
            jobs = await pool.admission.admit_all(specs)
        except QueueFullError as error:
            room, state = pool.schedule.room, "wait"
            if (sharing := pool.sharing) is not None:
                room, state = max(sharing.max_open - sharing.unfinished, 0), "be open"
            text = f"{len(specs)} jobs to re-run, and {room} more may {state}"
            text += " (a limit takes the oldest)"
            raise QueueFullError(error.retry_after, text, reason=error.reason) from None
        except (InvalidTransitionError, JobNotFoundError):
            # With a file: another task has re-run one of them since the look-up, or it was dropped.
            if len(specs) == tried:
                raise
            tried = len(specs)
    if jobs:
        log.info("jobs_rerun", extra={"count": len(jobs)})
    return jobs


async def _specs(pool: Pool, job_ids: Collection[str], submitted_by: str | None) -> list[JobSpec]:
    """The re-runs of those of these jobs that can be re-run now.

    Checkpoints:
        None after the look-up; with the store in memory, none at all.
    """
    specs = []
    for job in await pool.store.find_many(job_ids):  # without those that were dropped meanwhile
        with suppress(StoreError):  # meanwhile it was re-run by another task
            check_rerun(job)
            specs.append(
                JobSpec(job.type, job.payload, due=0.0, rerun_of=job.id, submitted_by=submitted_by)
            )
    return specs


async def _collect(pool: Pool, selection: Selection) -> list[str]:
    """The ids of the selected jobs, oldest first, up to the limit."""
    job_ids: list[str] = []
    after, cost = None, 0
    query = selection.query
    while True:
        page = await pool.store.page(query, after=after, limit=_STRIDE)
        selected = [job.id for job in query.select(page)]
        if selection.limit is not None:
            selected = selected[: selection.limit - len(job_ids)]
        for first in range(0, len(selected), _AT_ONCE):
            # The jobs of a page have no payloads, if the store is a file.
            for job in await pool.store.find_many(selected[first : first + _AT_ONCE]):
                check_handler(job, pool.handlers)
                job_ids.append(job.id)
                cost += len(job.payload) + _ITEM_COST
                if cost > _TURN_COST:
                    cost = 0
                    await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        if len(page) < _STRIDE or len(job_ids) == selection.limit:
            return job_ids
        after = page[-1].id


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
