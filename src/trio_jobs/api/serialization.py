"""A job as JSON, for clients: all of it, brief, or as just accepted."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from trio_jobs.job import Job, JobError, JobStatus, Outcome

MEDIA_TYPE = "application/json"

# Jobs to encode between two checkpoints: about a millisecond's work.
STRIDE = 500

_encode = msgspec.json.Encoder().encode


class _Brief(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    id: str
    type: str
    status: JobStatus
    created_at: str
    started_at: str | None = None
    completed_at: str | None = None
    duration: float | None = None
    outcome: Outcome | None = None


class _Whole(_Brief, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    payload: msgspec.Raw
    result: msgspec.Raw | None = None
    error: JobError | None = None


def accepted_json(job: Job) -> bytes:
    """The job as it was at its submission, also if it has begun since."""
    return _encode(
        _Brief(
            id=job.id,
            type=job.type,
            status=JobStatus.PENDING,
            created_at=_text(job.created_at),
        )
    )


def accepted_together_json(jobs: Sequence[Job]) -> bytes:
    """An array of jobs as they were at their submission; at least one, admitted in one step."""
    # They share one time. Its text costs more than the rest of a job.
    created_at = _text(jobs[0].created_at)
    pending = JobStatus.PENDING
    return _encode(
        [_Brief(id=job.id, type=job.type, status=pending, created_at=created_at) for job in jobs]
    )


def job_json(job: Job) -> bytes:
    """All of the job."""
    result = error = None
    if job.ending is not None:
        error = job.ending.error
        if job.ending.result is not None:
            result = msgspec.Raw(job.ending.result)
    return _encode(
        _Whole(
            id=job.id,
            type=job.type,
            status=job.status,
            created_at=_text(job.created_at),
            started_at=_text_or_none(job.started_at),
            completed_at=_text_or_none(job.completed_at),
            duration=_seconds(job),
            outcome=None if job.ending is None else job.ending.outcome,
            payload=msgspec.Raw(job.payload),
            result=result,
            error=error,
        )
    )


def jobs_json(jobs: Iterable[Job]) -> bytes:
    """An array of brief jobs."""
    return _encode([_brief(job) for job in jobs])


def _brief(job: Job) -> _Brief:
    return _Brief(
        id=job.id,
        type=job.type,
        status=job.status,
        created_at=_text(job.created_at),
        started_at=_text_or_none(job.started_at),
        completed_at=_text_or_none(job.completed_at),
        duration=_seconds(job),
        outcome=None if job.ending is None else job.ending.outcome,
    )


def _seconds(job: Job) -> float | None:
    return None if job.duration is None else round(job.duration, 6)


def _text_or_none(time: datetime | None) -> str | None:
    return None if time is None else _text(time)


def _text(time: datetime) -> str:
    # msgspec's own conversion leaves out microseconds that are 0.
    return time.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
