"""`ApiContext`: what each route is given."""

from dataclasses import dataclass

from trio_jobs.pool.pool import Pool
from trio_jobs.settings import HttpSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """One pool, and the limits of the HTTP API over it.

    Attributes:
        pool: Takes the jobs in, and knows them.
        http: The limits on bodies, waits and streams.
        shutdown_retry_after: The ``Retry-After``, in whole seconds, of answers
            to admission that come after the pool has closed.
    """

    pool: Pool
    http: HttpSettings
    shutdown_retry_after: int
