"""`JobSpec`: what a client asks for, before it is a job."""

from datetime import datetime
from typing import NamedTuple

from trio_jobs.job import IdempotencyKey


class JobSpec(NamedTuple):
    """What a client asks for.

    Attributes:
        type: The job's type.
        payload: Its payload as JSON.
        due: When it may begin: seconds from its admission on, or a UTC time. None for now.
        key: Its idempotency key, if it has one.
        rerun_of: The id of the completed job that it re-runs.
    """

    type: str
    payload: bytes
    due: float | datetime | None = None
    key: IdempotencyKey | None = None
    rerun_of: str | None = None
