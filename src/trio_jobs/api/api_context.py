"""`ApiContext`: what each route is given."""

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from trio_jobs.access import Access, Role
from trio_jobs.access_changes import AccessChanges
from trio_jobs.api.drain_state import DrainState
from trio_jobs.api.feed import Feed
from trio_jobs.api.sign_in import SignIn
from trio_jobs.pool.pool import Pool
from trio_jobs.problem_details import Problem
from trio_jobs.settings import HttpSettings


class Metrics(Protocol):
    """Writes the metrics of the pool.

    Attributes:
        refusals: How many requests were refused, by reason.
    """

    refusals: Counter[str]

    async def write(self, accept: str) -> tuple[str, bytes]:
        """The media type and the text for a client with this ``Accept``."""


class SubmissionSpan(Protocol):
    """The span of one request that submits jobs.

    Attributes:
        trace: What each of its jobs keeps; None if there is no trace.
    """

    trace: str | None

    def note_job(self, job_id: str) -> None:
        """Name the one job of the request."""

    def note_count(self, count: int) -> None:
        """Tell how many jobs were accepted."""


class Tracing(Protocol):
    """Makes spans of submissions."""

    def submitting(
        self, traceparent: str | None, job_type: str | None
    ) -> AbstractContextManager[SubmissionSpan]:
        """A span around a submission: the request's header, and the jobs' type if it is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """One pool, and the limits of the HTTP API over it.

    Attributes:
        pool: Takes the jobs in, and knows them.
        http: The limits on bodies, waits and streams.
        shutdown_retry_after: The ``Retry-After``, in whole seconds, of answers
            to submissions that come after the pool has closed.
        access_changes: Tells when a client has lost its access; None behind another server.
        sign_in: The door to the page; None if clients need no token, or behind another server.
        metrics: Counts the refusals, and writes the answers of ``/metrics``; None without metrics.
        tracing: Makes spans of submissions; None without tracing.
        feed: What ``GET /events`` sends; None if the pool is not observed.
        drain: What a stop still finishes; None behind another server.
        offers_sign_in: Whether people can sign in on the page; not behind another server.
    """

    pool: Pool
    http: HttpSettings
    shutdown_retry_after: int
    access_changes: AccessChanges | None = None
    sign_in: SignIn | None = None
    metrics: Metrics | None = None
    tracing: Tracing | None = None
    feed: Feed | None = None
    drain: DrainState | None = None
    offers_sign_in: bool = True

    def withholds_from(self, access: Access) -> bool:
        """Whether this client sees no payloads, results, messages and log lines."""
        return access.role is Role.READ and self.http.payloads == "control"

    def shutting_down(self, left: str, **members: int) -> Problem:
        """The refusal of a closed pool.

        Args:
            left: What it leaves of the request, as the rest of its text.
            **members: Of a stream, the number of jobs ``accepted`` so far.
        """
        return Problem(
            503,
            f"shutting down{left}",
            headers={"Retry-After": str(self.shutdown_retry_after), "Connection": "close"},
            retry_after=self.shutdown_retry_after,
            **members,
        )
