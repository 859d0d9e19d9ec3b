"""The columns of the table of jobs as queries select them, and a job of a row.

Times come as microseconds, and ids, JSON and outcomes as text: so a row does not depend on the
time zone of the connection, or on what it makes of a JSON value.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from trio_jobs.job import Ending, Extras, IdempotencyKey, Job, JobError, JobStatus, Outcome
from trio_jobs.progress import Progress
from trio_jobs.stores.postgres.round import OwnedJob
from trio_jobs.timestamps import time_at

# The JSON null. The database stores it as null, in a payload or in a succeeded job's result.
NULL: Final = b"null"

_PROGRESS: Final = msgspec.json.Decoder(Progress)
_LINES: Final = msgspec.json.Decoder(tuple[str, ...])
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}

_PENDING, _PROCESSING, _COMPLETED = JobStatus

_COLUMNS: Final = (
    "id::text",
    "type",
    "trio_jobs.micros(created_at)",
    "key",
    "key_digest",
    "rerun_of::text",
    "submitted_by",
    "trace",
    "owner",
    "attempts",
    "interruptions",
    "snoozes",
    "trio_jobs.micros(run_at)",
    "trio_jobs.micros(started_at)",
    "trio_jobs.micros(completed_at)",
    "duration",
    "outcome::text",
    "error_type",
    "error_message",
    "cancel_requested",
    "rerun_as::text",
    "progress::text",
    "lines::text",
)

# With the payload and the result behind the columns; for `whole_job`. The last column is `fetches`.
SELECT_WHOLE: Final = (
    f"SELECT {', '.join(_COLUMNS)}, payload::text, result::text, fetches "  # noqa: S608
    "FROM trio_jobs.jobs"
)
# For `brief_job`.
SELECT_BRIEF: Final = f"SELECT {', '.join(_COLUMNS)} FROM trio_jobs.jobs"  # noqa: S608


def whole_job(row: Sequence[Any]) -> Job:
    """A row of `SELECT_WHOLE` as a job."""
    payload, result = row[23:25]
    return _job(row, payload=json_bytes(payload), result=json_bytes(result))


def brief_job(row: Sequence[Any]) -> Job:
    """A row of `SELECT_BRIEF` as a job with the payload ``null`` and without its result."""
    return _job(row, payload=NULL, result=None)


def owned_job(row: Sequence[Any]) -> OwnedJob:
    """A row of `SELECT_WHOLE` as a job that its owner has fetched."""
    *_, fetches = row
    job = whole_job(row)
    return OwnedJob(job, row[8], fetches)


def json_bytes(text: str | None) -> bytes:
    """The JSON of a column."""
    return NULL if text is None else text.encode()


def time_of(micros: int | None) -> datetime | None:
    """The time of a column."""
    return None if micros is None else time_at(micros)


def key_of(text: str | None, digest: bytes | None) -> IdempotencyKey | None:
    """The key of a row. A job submitted by SQL has no digest: no request matches its key."""
    return None if text is None else IdempotencyKey(text=text, digest=bytes(digest or b""))


def error_of(type_: str | None, message: str | None) -> JobError | None:
    """The error of a row."""
    return None if type_ is None else JobError(type=type_, message=message or "")


def extras_of(
    *,
    snoozes: int,
    progress: str | None,
    lines: str | None,
    submitted_by: str | None,
    trace: str | None,
) -> Extras | None:
    """The rare values of a row."""
    return Extras.of(
        snoozes=snoozes,
        progress=None if progress is None else _PROGRESS.decode(progress),
        lines=() if lines is None else _LINES.decode(lines),
        submitted_by=submitted_by,
        trace=trace,
    )


def _job(row: Sequence[Any], *, payload: bytes, result: bytes | None) -> Job:
    # In the order of the columns.
    job_id, type_, created_at, key, digest, rerun_of, submitted_by, trace, owner = row[:9]
    attempts, interruptions, snoozes, run_at, started_at, completed_at, duration = row[9:16]
    outcome, error_type, error_message, cancel_requested, rerun_as, progress, lines = row[16:23]
    error = error_of(error_type, error_message)
    status, ending = _PENDING, None
    if outcome is not None:
        status = _COMPLETED
        ending = Ending(
            outcome=_OUTCOMES[outcome],
            result=result if outcome == Outcome.SUCCEEDED else None,
            error=error,
        )
    elif started_at is not None:
        status = _PROCESSING
    elif owner is not None:
        attempts -= 1  # a fetch counts once the job begins
    return Job(
        id=job_id,
        type=type_,
        payload=payload,
        created_at=time_at(created_at),
        status=status,
        started_at=time_of(started_at),
        completed_at=time_of(completed_at),
        duration=duration,
        ending=ending,
        cancel_requested=cancel_requested,
        key=key_of(key, digest),
        attempts=attempts,
        interruptions=interruptions,
        run_at=time_of(run_at),
        last_error=error if ending is None else None,
        rerun_of=rerun_of,
        rerun_as=rerun_as,
        extras=extras_of(
            snoozes=snoozes,
            progress=progress,
            lines=lines,
            submitted_by=submitted_by,
            trace=trace,
        ),
    )
