"""What the routes are given: the parts they work on, and their settings."""

from collections.abc import Callable
from dataclasses import dataclass

from trio_jobs.admission import Submissions
from trio_jobs.handlers import Handlers
from trio_jobs.store import JobStore
from trio_jobs.waiting import Completions


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """What the pool is doing now.

    Attributes:
        status: ``ready``, or ``shutting down``: no more jobs are taken.
        workers: How many there are.
        busy: How many of them have a job.
        buffered: Jobs in the buffer.
        buffer_size: How many jobs it can hold.
        oldest_running_seconds: How long the job that began first has been
            running; null if none is.
    """

    status: str
    workers: int
    busy: int
    buffered: int
    buffer_size: int
    oldest_running_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """See `create_app`."""

    submissions: Submissions
    store: JobStore
    handlers: Handlers
    completions: Completions
    cancel: Callable[[str], object]
    pool_status: Callable[[], PoolStatus]
    max_body_bytes: int
    max_wait_seconds: float
    stream_idle_timeout: float
    shutdown_retry_after: int
