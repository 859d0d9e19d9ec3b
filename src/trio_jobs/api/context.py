"""What the routes are given: the parts they work on, and their settings."""

from collections.abc import Callable
from dataclasses import dataclass

from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.pool import PoolStatistics
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.stores.memory import MemoryStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """See `create_app`."""

    admission: Admission
    store: MemoryStore
    handlers: HandlerRegistry
    waiters: CompletionWaiters
    cancel: Callable[[str], object]
    pool_statistics: Callable[[], PoolStatistics]
    max_body_bytes: int
    max_wait_seconds: float
    stream_idle_timeout: float
    shutdown_retry_after: int
    prefix: str = ""  # what the paths begin with, in an application of somebody else's
