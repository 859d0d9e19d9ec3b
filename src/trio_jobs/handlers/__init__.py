"""The users' functions by job type, and `Processor`, which runs the right one for a job."""

from trio_jobs.handlers.abandoned import GeneratorEnds
from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.loading import HandlerError, load_function
from trio_jobs.handlers.payload import PayloadSchemas
from trio_jobs.handlers.processes import Processes
from trio_jobs.handlers.processor import Processor
from trio_jobs.handlers.results import ResultError, encode_result
from trio_jobs.handlers.slow_steps import SlowSteps
from trio_jobs.handlers.start_shortage import StartShortage
from trio_jobs.handlers.table import Handlers, UnknownTypeError, describe_payloads

__all__ = [
    "GeneratorEnds",
    "Handler",
    "HandlerError",
    "Handlers",
    "JobContext",
    "PayloadSchemas",
    "Processes",
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
