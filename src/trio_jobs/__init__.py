"""A job server in one process: submit over HTTP, N workers, each job exactly once, a clean stop.

This package has the public names. Each is imported at its first use, so the
command and its child processes import no more than they need.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_jobs.access import Access as Access
    from trio_jobs.access import Role as Role
    from trio_jobs.base_jobs import JobUnsuccessfulError as JobUnsuccessfulError
    from trio_jobs.embed import open_jobs as open_jobs
    from trio_jobs.embedded_jobs import DurableJobs as DurableJobs
    from trio_jobs.embedded_jobs import Jobs as Jobs
    from trio_jobs.handlers.context import JobContext as JobContext
    from trio_jobs.handlers.handler import Handler as Handler
    from trio_jobs.handlers.handler import Run as Run
    from trio_jobs.handlers.importing import HandlerError as HandlerError
    from trio_jobs.handlers.opening_errors import LifespanError as LifespanError
    from trio_jobs.handlers.opening_errors import LoopStartError as LoopStartError
    from trio_jobs.handlers.payload_faults import PayloadError as PayloadError
    from trio_jobs.handlers.registry import UnknownTypeError as UnknownTypeError
    from trio_jobs.handlers.retry_policy import RetryPolicy as RetryPolicy
    from trio_jobs.job import Ending as Ending
    from trio_jobs.job import Extras as Extras
    from trio_jobs.job import IdempotencyKey as IdempotencyKey
    from trio_jobs.job import Job as Job
    from trio_jobs.job import JobError as JobError
    from trio_jobs.job import JobStatus as JobStatus
    from trio_jobs.job import Left as Left
    from trio_jobs.job import Outcome as Outcome
    from trio_jobs.job import Waiting as Waiting
    from trio_jobs.job_queue import JobQueue as JobQueue
    from trio_jobs.logs.formatter import LogFormatter as LogFormatter
    from trio_jobs.pool.idempotency import KeyReusedError as KeyReusedError
    from trio_jobs.pool.job_counts import JobCounts as JobCounts
    from trio_jobs.pool.page_options import PageOptions as PageOptions
    from trio_jobs.pool.refusals import AdmissionError as AdmissionError
    from trio_jobs.pool.refusals import IntakePausedError as IntakePausedError
    from trio_jobs.pool.refusals import QueueFullError as QueueFullError
    from trio_jobs.pool.refusals import ShuttingDownError as ShuttingDownError
    from trio_jobs.pool.refusals import StoreTimeoutError as StoreTimeoutError
    from trio_jobs.pool.refusals import StoreUnavailableError as StoreUnavailableError
    from trio_jobs.pool.refusals import StoreWriteError as StoreWriteError
    from trio_jobs.pool.statistics import PoolStatistics as PoolStatistics
    from trio_jobs.pool.store import InvalidTransitionError as InvalidTransitionError
    from trio_jobs.pool.store import JobNotFoundError as JobNotFoundError
    from trio_jobs.pool.store import StoreDatabaseError as StoreDatabaseError
    from trio_jobs.pool.store import StoreFileError as StoreFileError
    from trio_jobs.pool.waiters import TooManyWaitersError as TooManyWaitersError
    from trio_jobs.progress import Progress as Progress
    from trio_jobs.retries import GiveUp as GiveUp
    from trio_jobs.retries import ProcessDied as ProcessDied
    from trio_jobs.retries import Retry as Retry
    from trio_jobs.retries import Snooze as Snooze
    from trio_jobs.tokens import TokenTable as TokenTable

_MODULES = {
    "Access": "access",
    "AdmissionError": "pool.refusals",
    "DurableJobs": "embedded_jobs",
    "Ending": "job",
    "Extras": "job",
    "GiveUp": "retries",
    "Handler": "handlers.handler",
    "HandlerError": "handlers.importing",
    "IdempotencyKey": "job",
    "IntakePausedError": "pool.refusals",
    "InvalidTransitionError": "pool.store",
    "Job": "job",
    "JobContext": "handlers.context",
    "JobCounts": "pool.job_counts",
    "JobError": "job",
    "JobNotFoundError": "pool.store",
    "JobQueue": "job_queue",
    "JobStatus": "job",
    "JobUnsuccessfulError": "base_jobs",
    "Jobs": "embedded_jobs",
    "KeyReusedError": "pool.idempotency",
    "Left": "job",
    "LifespanError": "handlers.opening_errors",
    "LogFormatter": "logs.formatter",
    "LoopStartError": "handlers.opening_errors",
    "Outcome": "job",
    "PageOptions": "pool.page_options",
    "PayloadError": "handlers.payload_faults",
    "PoolStatistics": "pool.statistics",
    "ProcessDied": "retries",
    "Progress": "progress",
    "QueueFullError": "pool.refusals",
    "Retry": "retries",
    "RetryPolicy": "handlers.retry_policy",
    "Role": "access",
    "Run": "handlers.handler",
    "ShuttingDownError": "pool.refusals",
    "Snooze": "retries",
    "StoreDatabaseError": "pool.store",
    "StoreFileError": "pool.store",
    "StoreTimeoutError": "pool.refusals",
    "StoreUnavailableError": "pool.refusals",
    "StoreWriteError": "pool.refusals",
    "TokenTable": "tokens",
    "TooManyWaitersError": "pool.waiters",
    "UnknownTypeError": "handlers.registry",
    "Waiting": "job",
    "open_jobs": "embed",
}

__all__ = [*_MODULES]


if not TYPE_CHECKING:  # a type checker would believe that every name is here

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return getattr(import_module(f"trio_jobs.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
