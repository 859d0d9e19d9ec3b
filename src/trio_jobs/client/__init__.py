"""Clients of a server over HTTP. They import nothing of the server.

With the extra `client`: ``pip install 'trio-jobs[client]'``.
"""

from importlib.util import find_spec

if find_spec("httpx") is None or find_spec("anyio") is None:
    raise ImportError("trio_jobs.client needs httpx and anyio: pip install 'trio-jobs[client]'")

from trio_jobs.client.arrivals import AsyncArrivals
from trio_jobs.client.async_client import AsyncClient
from trio_jobs.client.blocking_arrivals import Arrivals
from trio_jobs.client.blocking_client import Client
from trio_jobs.client.client_errors import (
    JobForgottenError,
    JobUnsuccessfulError,
    RefusedError,
    ServerGoneError,
)
from trio_jobs.client.job_view import Job, JobError
from trio_jobs.client.result import Result
from trio_jobs.client.results import AsyncResults

__all__ = [
    "Arrivals",
    "AsyncArrivals",
    "AsyncClient",
    "AsyncResults",
    "Client",
    "Job",
    "JobError",
    "JobForgottenError",
    "JobUnsuccessfulError",
    "RefusedError",
    "Result",
    "ServerGoneError",
]
