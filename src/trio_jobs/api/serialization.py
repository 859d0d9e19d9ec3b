"""A job as JSON, for clients: all of it, as in lists, or as just accepted."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from trio_jobs.hidden_values import hide_values
from trio_jobs.job import Job, JobError, JobStatus, Outcome
from trio_jobs.progress import Progress

MEDIA_TYPE = "application/json"

# Jobs to encode between two checkpoints: about a millisecond's work.
STRIDE = 500

# Characters of an error's message in a list: so a page of 1,000 failures stays below 1 MB.
MAX_LISTED_MESSAGE = 300

_PENDING = JobStatus.PENDING  # looked up once: on Python 3.11 that costs as much as a call

_encode = msgspec.json.Encoder().encode


class _ErrorType(msgspec.Struct, frozen=True, gc=False):
    """An error without its message."""

    type: str


class _Brief(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    id: str
    type: str
    status: JobStatus
    created_at: datetime | str
    started_at: datetime | str | None = None
    completed_at: datetime | str | None = None
    duration: float | None = None
    outcome: Outcome | None = None
    attempts: int = 0
    interruptions: int = 0
    run_at: datetime | str | None = None
    rerun_of: str | None = None
    rerun_as: str | None = None
    submitted_by: str | None = None
    error: JobError | _ErrorType | None = None
    last_error: JobError | _ErrorType | None = None
    withheld: bool = False


def accepted_json(job: Job) -> bytes:
    """The job as it was at its submission, even if it has begun since."""
    return _encode(_accepted(job, time_json(job.created_at)))


def accepted_together_json(jobs: Sequence[Job]) -> bytes:
    """An array of jobs as they were at their submission; at least one."""
    # Jobs that were admitted in one step have the same object as their time.
    first = jobs[0].created_at
    shown = time_json(first)
    return _encode(
        [
            _accepted(job, shown if job.created_at is first else time_json(job.created_at))
            for job in jobs
        ]
    )


def _accepted(job: Job, created_at: datetime | str) -> _Brief:
    return _Brief(
        id=job.id,
        type=job.type,
        status=_PENDING,
        created_at=created_at,
        run_at=None if job.run_at is None else time_json(job.run_at),
        rerun_of=job.rerun_of,
    )


def job_json(job: Job, *, hide: Sequence[str] = ()) -> bytes:
    """All of the job; its payload and result are JSON already.

    Args:
        job: The job.
        hide: Paths into payload and result; see `hide_values`.
    """
    payload = hide_values(job.payload, hide) if hide else job.payload
    parts = [_encode(_brief(job))[:-1], b',"payload":', payload]
    if job.ending is not None and job.ending.result is not None:
        result = hide_values(job.ending.result, hide) if hide else job.ending.result
        parts += b',"result":', result
    if job.ending is not None and job.ending.error is not None:
        parts += b',"error":', _encode(job.ending.error)
    if job.last_error is not None:
        parts += b',"last_error":', _encode(job.last_error)
    return b"".join([*parts, *_reports(job), b"}"])


def withheld_json(job: Job) -> bytes:
    """All of the job but what its client and its handler have written."""
    return b"".join([_encode(_without_messages(job))[:-1], *_reports(job, withheld=True), b"}"])


def _reports(job: Job, *, withheld: bool = False) -> list[bytes]:
    """Members of what the handler has reported and logged, and the trace."""
    parts: list[bytes] = []
    if job.progress is not None:
        parts += b',"progress":', _encode(progress_json(job.progress, withheld=withheld))
    if job.lines and not withheld:
        parts += b',"log":', _encode(job.lines)
    if job.trace is not None:
        parts += b',"trace_id":', _encode(job.trace[3:35])
    return parts


def jobs_json(jobs: Iterable[Job], *, withheld: bool = False) -> bytes:
    """An array of jobs as in lists: without payloads and results, and with the start of errors.

    Args:
        jobs: The jobs.
        withheld: Whether errors have no message.
    """
    return _encode([_listed(job, withheld=withheld) for job in jobs])


def _listed(job: Job, *, withheld: bool) -> _Brief:
    error = None if job.ending is None else job.ending.error
    if error is None and job.last_error is None:
        return _brief(job)
    if withheld:
        return _without_messages(job)
    return replace(_brief(job), error=_start_of(error), last_error=_start_of(job.last_error))


def _without_messages(job: Job) -> _Brief:
    error = None if job.ending is None else job.ending.error
    return replace(
        _brief(job), error=_type_of(error), last_error=_type_of(job.last_error), withheld=True
    )


def _type_of(error: JobError | None) -> _ErrorType | None:
    return None if error is None else _ErrorType(error.type)


def _start_of(error: JobError | None) -> JobError | None:
    if error is None or len(error.message) <= MAX_LISTED_MESSAGE:
        return error
    return replace(error, message=f"{error.message[: MAX_LISTED_MESSAGE - 1]}…")


def _brief(job: Job) -> _Brief:
    return _Brief(
        id=job.id,
        type=job.type,
        status=job.status,
        created_at=time_json(job.created_at),
        started_at=None if job.started_at is None else time_json(job.started_at),
        completed_at=None if job.completed_at is None else time_json(job.completed_at),
        duration=None if job.duration is None else round(job.duration, 6),
        outcome=None if job.ending is None else job.ending.outcome,
        attempts=job.attempts,
        interruptions=job.interruptions,
        run_at=None if job.run_at is None else time_json(job.run_at),
        rerun_of=job.rerun_of,
        rerun_as=job.rerun_as,
        submitted_by=job.submitted_by,
    )


def progress_json(progress: Progress, *, withheld: bool = False) -> dict[str, object]:
    """The progress for JSON, without what the handler has left out, or without its message."""
    found: dict[str, object] = {"done": progress.done}
    if progress.total is not None:
        found["total"] = progress.total
    if progress.message and not withheld:
        found["message"] = progress.message
    return {**found, "at": time_json(progress.at)}


def time_json(time: datetime) -> datetime | str:
    """A time in UTC for msgspec, which writes ``…T12:00:00.000001Z`` at a tenth of Python's cost.

    Microseconds that are 0 msgspec leaves out; clients get six digits always.
    """
    if time.microsecond:
        return time
    return time.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
