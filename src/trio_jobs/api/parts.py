"""What the routes are given: the parts they work on, and their settings."""

from collections.abc import Callable
from dataclasses import dataclass

from trio_jobs.admission import Submissions
from trio_jobs.core import PoolStatus
from trio_jobs.handlers import Handlers
from trio_jobs.store import JobStore
from trio_jobs.waiting import Completions


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
    prefix: str = ""  # what the paths begin with, in an application of somebody else's
