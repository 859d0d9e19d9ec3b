"""A job as rows of the file's tables, and back."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from trio_jobs.job import Ending, IdempotencyKey, Job, JobError, JobStatus, Outcome

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

PENDING: Final = 0
PROCESSING: Final = 1
COMPLETED: Final = 2

# What most handlers return. It has no row: a job that has succeeded without one has this result.
NO_RESULT: Final = b"null"

_STATUSES: Final = tuple(JobStatus)
_NUMBERS: Final = {status: number for number, status in enumerate(_STATUSES)}
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}

# What a job is from its first record on, and what its moves change.
_FIXED: Final = ("seq", "id", "type", "created_at", "key", "digest", "rerun_of")
_MOVED: Final = (
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
)
_COLUMNS: Final = ", ".join(_FIXED + _MOVED)

_ROW: Final = f"(?{', ?' * (len(_FIXED + _MOVED) - 1)})"
_MOVE: Final = f"(?{', ?' * len(_MOVED)})"

# Each for one row, and for `TOGETHER` rows. Between two statements the thread that writes has to
# wait for the interpreter, which the event loop may hold for milliseconds; within one it has not.
TOGETHER: Final = 50
INSERT: Final = f"INSERT INTO jobs({_COLUMNS}) VALUES {_ROW}"  # noqa: S608
INSERT_MANY: Final = INSERT + f", {_ROW}" * (TOGETHER - 1)
INSERT_PAYLOAD: Final = "INSERT INTO payloads VALUES (?, ?)"
INSERT_PAYLOADS: Final = INSERT_PAYLOAD + ", (?, ?)" * (TOGETHER - 1)
INSERT_RESULT: Final = "INSERT OR IGNORE INTO results VALUES (?, ?)"
INSERT_RESULTS: Final = INSERT_RESULT + ", (?, ?)" * (TOGETHER - 1)
UPDATE: Final = f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in _MOVED)} WHERE seq = ?"  # noqa: S608
UPDATE_MANY: Final = (
    f"UPDATE jobs SET {', '.join(f'{name} = column{n}' for n, name in enumerate(_MOVED, 1))} "  # noqa: S608
    f"FROM (VALUES {_MOVE}{f', {_MOVE}' * (TOGETHER - 1)}) WHERE seq = column{len(_MOVED) + 1}"
)
# With the payload and the result behind the columns; for `whole_job`.
SELECT_WHOLE: Final = (
    f"SELECT {_COLUMNS}, payload, result "  # noqa: S608
    "FROM jobs JOIN payloads USING (seq) LEFT JOIN results USING (seq)"
)
# For `brief_job`.
SELECT_BRIEF: Final = f"SELECT {_COLUMNS} FROM jobs"  # noqa: S608


def new_row(seq: int, job: Job) -> tuple[object, ...]:
    """The parameters of `INSERT`."""
    key = job.key
    return (
        seq,
        job.id,
        job.type,
        microseconds(job.created_at),
        None if key is None else key.text,
        None if key is None else key.digest,
        job.rerun_of,
        *_moved(job),
    )


def moved_row(seq: int, job: Job) -> tuple[object, ...]:
    """The parameters of `UPDATE`."""
    return (*_moved(job), seq)


def whole_job(row: Sequence[Any]) -> tuple[int, Job]:
    """A row of `SELECT_WHOLE` as the job's place in the order of admission, and the job."""
    return row[0], _job(row, payload=row[-2], result=row[-1], without_a_row=NO_RESULT)


def brief_job(row: Sequence[Any]) -> Job:
    """A row of `SELECT_BRIEF` as a job with the payload ``null`` and without its result."""
    return _job(row, payload=b"null", result=None, without_a_row=None)


def microseconds(time: datetime) -> int:
    """A time as microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def _moved(job: Job) -> tuple[object, ...]:
    ending = job.ending
    error = job.last_error if ending is None else ending.error
    return (
        _NUMBERS[job.status],
        None if job.started_at is None else microseconds(job.started_at),
        None if job.completed_at is None else microseconds(job.completed_at),
        job.duration,
        None if ending is None else ending.outcome.value,
        None if error is None else _text(error.type),
        None if error is None else _text(error.message),
        job.cancel_requested,
        job.attempts,
        job.interruptions,
        job.snoozes,
        None if job.run_at is None else microseconds(job.run_at),
        job.rerun_as,
        0 if ending is None else job.size,
    )


def _job(
    row: Sequence[Any], *, payload: bytes, result: bytes | None, without_a_row: bytes | None
) -> Job:
    # In the order of _FIXED and _MOVED.
    _seq, job_id, job_type, created_at, key, digest, rerun_of = row[:7]
    status, started_at, completed_at, duration, outcome, error_type, error_message = row[7:14]
    cancel_requested, attempts, interruptions, snoozes, run_at, rerun_as = row[14:20]
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
        created_at=_EPOCH + timedelta(microseconds=created_at),
        status=_STATUSES[status],
        started_at=_time(started_at),
        completed_at=_time(completed_at),
        duration=duration,
        ending=ending,
        cancel_requested=bool(cancel_requested),
        key=None if key is None else IdempotencyKey(text=key, digest=digest),
        attempts=attempts,
        interruptions=interruptions,
        snoozes=snoozes,
        run_at=_time(run_at),
        last_error=error if ending is None else None,
        rerun_of=rerun_of,
        rerun_as=rerun_as,
    )


def _time(since: int | None) -> datetime | None:
    return None if since is None else _EPOCH + timedelta(microseconds=since)


def _text(text: str) -> str:
    """The text; a lone surrogate, which the file cannot hold, becomes a question mark."""
    return text if text.isascii() else text.encode(errors="replace").decode()
