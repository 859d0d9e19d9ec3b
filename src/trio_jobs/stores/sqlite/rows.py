"""What the rows of the file's tables say, and a job of its rows."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from trio_jobs.job import Ending, Extras, IdempotencyKey, Job, JobError, JobStatus, Outcome
from trio_jobs.progress import Progress
from trio_jobs.timestamps import time_at

PENDING: Final = 0
PROCESSING: Final = 1
COMPLETED: Final = 2

# What most handlers return. It has no row: a job that has succeeded without one has this result.
NO_RESULT: Final = b"null"

_STATUSES: Final = tuple(JobStatus)
NUMBERS: Final = {status: number for number, status in enumerate(_STATUSES)}
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}

_PROGRESS: Final = msgspec.json.Decoder(Progress)
_LINES: Final = msgspec.json.Decoder(tuple[str, ...])

# What a job is from its first record on, and what its moves change.
FIXED: Final = (
    "seq",
    "id",
    "type",
    "created_at",
    "key",
    "digest",
    "rerun_of",
    "submitted_by",
    "trace",
)
MOVED: Final = (
    "status",
    "started_at",
    "completed_at",
    "duration",
    "outcome",
    "error_type",
    "error_message",
    "cancel_requested",
    "attempts",
    "interruptions",
    "snoozes",
    "run_at",
    "rerun_as",
    "size",
    "progress",
    "lines",
)
_COLUMNS: Final = ", ".join(FIXED + MOVED)

# With the payload and the result behind the columns; for `whole_job`.
SELECT_WHOLE: Final = (
    f"SELECT {_COLUMNS}, payload, result "  # noqa: S608
    "FROM jobs JOIN payloads USING (seq) LEFT JOIN results USING (seq)"
)
# For `brief_job`.
SELECT_BRIEF: Final = f"SELECT {_COLUMNS} FROM jobs"  # noqa: S608


def whole_job(row: Sequence[Any]) -> tuple[int, Job]:
    """A row of `SELECT_WHOLE` as the job's position in the order of admission, and the job."""
    return row[0], _job(row, payload=row[-2], result=row[-1], without_a_row=NO_RESULT)


def brief_job(row: Sequence[Any]) -> Job:
    """A row of `SELECT_BRIEF` as a job with the payload ``null`` and without its result."""
    return _job(row, payload=b"null", result=None, without_a_row=None)


def _job(
    row: Sequence[Any], *, payload: bytes, result: bytes | None, without_a_row: bytes | None
) -> Job:
    # In the order of FIXED and MOVED.
    _seq, job_id, job_type, created_at, key, digest, rerun_of, submitted_by, trace = row[:9]
    status, started_at, completed_at, duration, outcome, error_type, error_message = row[9:16]
    cancel_requested, attempts, interruptions, snoozes, run_at, rerun_as = row[16:22]
    _size, progress, lines = row[22:25]
    error = None if error_type is None else JobError(type=error_type, message=error_message)
    ending = None
    if outcome is not None:
        if result is None and outcome == Outcome.SUCCEEDED:
            result = without_a_row
        ending = Ending(outcome=_OUTCOMES[outcome], result=result, error=error)
    return Job(
        id=job_id,
        type=job_type,
        payload=payload,
        created_at=time_at(created_at),
        status=_STATUSES[status],
        started_at=_time(started_at),
        completed_at=_time(completed_at),
        duration=duration,
        ending=ending,
        cancel_requested=bool(cancel_requested),
        key=None if key is None else IdempotencyKey(text=key, digest=digest),
        attempts=attempts,
        interruptions=interruptions,
        run_at=_time(run_at),
        last_error=error if ending is None else None,
        rerun_of=rerun_of,
        rerun_as=rerun_as,
        extras=Extras.of(
            snoozes=snoozes,
            progress=None if progress is None else _PROGRESS.decode(progress),
            lines=() if lines is None else _LINES.decode(lines),
            submitted_by=submitted_by,
            trace=trace,
        ),
    )


def _time(since: int | None) -> datetime | None:
    return None if since is None else time_at(since)
