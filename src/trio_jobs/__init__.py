"""A job server in one process: submit over HTTP, N workers, each job exactly once, a clean stop.

For those who use it from Python, everything they need has its name here. It is
imported when it is first asked for: the command and its child processes do not
pay for what they do not use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_jobs.admission import AdmissionError as AdmissionError
    from trio_jobs.admission import QueueFullError as QueueFullError
    from trio_jobs.admission import ShuttingDownError as ShuttingDownError
    from trio_jobs.core import PoolStatus as PoolStatus
    from trio_jobs.embedding import open_jobs as open_jobs
    from trio_jobs.handlers import Handler as Handler
    from trio_jobs.handlers import HandlerError as HandlerError
    from trio_jobs.handlers import JobContext as JobContext
    from trio_jobs.handlers import Run as Run
    from trio_jobs.handlers import UnknownTypeError as UnknownTypeError
    from trio_jobs.job import Ending as Ending
    from trio_jobs.job import IdempotencyKey as IdempotencyKey
    from trio_jobs.job import Job as Job
    from trio_jobs.job import JobError as JobError
    from trio_jobs.job import JobStatus as JobStatus
    from trio_jobs.job import Outcome as Outcome
    from trio_jobs.jobs import Jobs as Jobs
    from trio_jobs.jobs import JobUnsuccessfulError as JobUnsuccessfulError
    from trio_jobs.logs import LogFormatter as LogFormatter
    from trio_jobs.payloads import PayloadError as PayloadError
    from trio_jobs.store import InvalidTransitionError as InvalidTransitionError
    from trio_jobs.store import JobNotFoundError as JobNotFoundError
    from trio_jobs.waiting import TooManyWaitersError as TooManyWaitersError

_MODULES = {
    "AdmissionError": "admission",
    "Ending": "job",
    "Handler": "handlers",
    "HandlerError": "handlers",
    "IdempotencyKey": "job",
    "InvalidTransitionError": "store",
    "Job": "job",
    "JobContext": "handlers",
    "JobError": "job",
    "JobNotFoundError": "store",
    "JobStatus": "job",
    "JobUnsuccessfulError": "jobs",
    "Jobs": "jobs",
    "LogFormatter": "logs",
    "Outcome": "job",
    "PayloadError": "payloads",
    "PoolStatus": "core",
    "QueueFullError": "admission",
    "Run": "handlers",
    "ShuttingDownError": "admission",
    "TooManyWaitersError": "waiting",
    "UnknownTypeError": "handlers",
    "open_jobs": "embedding",
}

__all__ = [
    "AdmissionError",
    "Ending",
    "Handler",
    "HandlerError",
    "IdempotencyKey",
    "InvalidTransitionError",
    "Job",
    "JobContext",
    "JobError",
    "JobNotFoundError",
    "JobStatus",
    "JobUnsuccessfulError",
    "Jobs",
    "LogFormatter",
    "Outcome",
    "PayloadError",
    "PoolStatus",
    "QueueFullError",
    "Run",
    "ShuttingDownError",
    "TooManyWaitersError",
    "UnknownTypeError",
    "open_jobs",
]


if not TYPE_CHECKING:  # or else a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return getattr(import_module(f"trio_jobs.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
