"""The users' functions by job type, and `Processor`, which runs the right one for a job."""

from trio_jobs.handlers.handler import Handler, HandlerError, Run
from trio_jobs.handlers.loading import load_function
from trio_jobs.handlers.processor import Processor
from trio_jobs.handlers.table import Handlers, UnknownTypeError

__all__ = [
    "Handler",
    "HandlerError",
    "Handlers",
    "Processor",
    "Run",
    "UnknownTypeError",
    "load_function",
]
