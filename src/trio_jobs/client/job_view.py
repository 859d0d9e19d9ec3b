"""`Job`: a job as the server shows it to a client."""

from datetime import datetime
from typing import Any

import msgspec

from trio_jobs.progress import Progress


class JobError(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why a job, or its last attempt, did not succeed.

    Attributes:
        type: The name of the exception's class.
        message: Its text; empty if the server withholds it.
    """

    type: str
    message: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """A job as the server has shown it; it does not change when the job does.

    An answer to a submission has neither `payload` nor `result`, even if the job has them. A later
    server may have other words for `status` and `outcome`.

    Attributes:
        id: A UUIDv7; ids sort in the order of admission.
        type: Which handler processes it.
        status: ``pending``, ``processing`` or ``completed``.
        created_at: When the server admitted it (UTC).
        started_at: When a worker took it.
        completed_at: When it ended.
        duration: Seconds from its start to its end.
        outcome: How it ended: ``succeeded``, ``failed``, ``timed_out``, ``cancelled`` or
            ``interrupted``; None before it has completed.
        attempts: How often a worker has taken it; snoozes do not count.
        interruptions: How often the server has died while it ran.
        run_at: When it may begin, while it waits for that time.
        rerun_of: The id of the job that it re-runs.
        rerun_as: The id of the job that re-runs it.
        submitted_by: The name of the client that submitted it, if the server knows names.
        trace_id: The trace of its submission, if the server traces.
        payload: The submitted JSON.
        result: What its handler returned, as JSON values; None before it has succeeded.
        error: Why it did not succeed.
        last_error: Why its last attempt failed, until the job has completed.
        progress: The last report of its handler, until the job has succeeded.
        log: The last lines that its last attempt has logged, if the server keeps them.
        withheld: Whether the server leaves out what the role of the token may not see.
    """

    id: str
    type: str
    status: str
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration: float | None = None
    outcome: str | None = None
    attempts: int = 0
    interruptions: int = 0
    run_at: datetime | None = None
    rerun_of: str | None = None
    rerun_as: str | None = None
    submitted_by: str | None = None
    trace_id: str | None = None
    payload: Any = None
    result: Any = None
    error: JobError | None = None
    last_error: JobError | None = None
    progress: Progress | None = None
    log: tuple[str, ...] = ()
    withheld: bool = False

    @property
    def completed(self) -> bool:
        """Whether it has ended."""
        return self.status == "completed"
