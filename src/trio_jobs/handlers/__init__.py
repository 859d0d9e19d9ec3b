"""The users' functions by job type, and `Processor`, which runs the right one for a job.

A name is imported when it is first asked for: a child process needs a part of this package, and
runs without Trio.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_jobs.handlers.abandoned import GeneratorEnds as GeneratorEnds
    from trio_jobs.handlers.context import JobContext as JobContext
    from trio_jobs.handlers.handler import Handler as Handler
    from trio_jobs.handlers.handler import Run as Run
    from trio_jobs.handlers.loading import HandlerError as HandlerError
    from trio_jobs.handlers.loading import load_function as load_function
    from trio_jobs.handlers.payload import PayloadSchemas as PayloadSchemas
    from trio_jobs.handlers.process_pool import ProcessPool as ProcessPool
    from trio_jobs.handlers.processor import Processor as Processor
    from trio_jobs.handlers.results import ResultError as ResultError
    from trio_jobs.handlers.results import encode_result as encode_result
    from trio_jobs.handlers.slow_steps import SlowSteps as SlowSteps
    from trio_jobs.handlers.start_shortage import StartShortage as StartShortage
    from trio_jobs.handlers.table import Handlers as Handlers
    from trio_jobs.handlers.table import UnknownTypeError as UnknownTypeError
    from trio_jobs.handlers.table import describe_payloads as describe_payloads

_MODULES = {
    "GeneratorEnds": "abandoned",
    "Handler": "handler",
    "HandlerError": "loading",
    "Handlers": "table",
    "JobContext": "context",
    "PayloadSchemas": "payload",
    "ProcessPool": "process_pool",
    "Processor": "processor",
    "ResultError": "results",
    "Run": "handler",
    "SlowSteps": "slow_steps",
    "StartShortage": "start_shortage",
    "UnknownTypeError": "table",
    "describe_payloads": "table",
    "encode_result": "results",
    "load_function": "loading",
}

__all__ = [
    "GeneratorEnds",
    "Handler",
    "HandlerError",
    "Handlers",
    "JobContext",
    "PayloadSchemas",
    "ProcessPool",
    "Processor",
    "ResultError",
    "Run",
    "SlowSteps",
    "StartShortage",
    "UnknownTypeError",
    "describe_payloads",
    "encode_result",
    "load_function",
]


if not TYPE_CHECKING:  # or else a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return getattr(import_module(f"trio_jobs.handlers.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
