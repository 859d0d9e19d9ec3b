"""Health: the event loop is alive, and what the pool is doing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """What the pool is doing now.

    Attributes:
        status: ``ready``, or ``shutting down``: no more jobs are taken.
        workers: How many there are.
        busy: How many of them have a job.
        buffered: Jobs in the buffer.
        buffer_size: How many jobs it can hold.
        oldest_running_seconds: How long the job that began first has been
            running; null if none is.
    """

    status: str
    workers: int
    busy: int
    buffered: int
    buffer_size: int
    oldest_running_seconds: float | None
