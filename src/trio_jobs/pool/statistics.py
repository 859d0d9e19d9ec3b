"""`PoolStatistics`, `JobStatistics`: numbers of the pool at one moment. One name for each of them.

`GET /health/ready`, `GET /pool`, the events and `Jobs.statistics` use these names.
`trio_jobs.metrics.families` gives metrics names in the manner of Prometheus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trio_jobs.job import Outcome


class Sharing(Protocol):
    """What a server knows of the database that it shares with others; see `PoolStatistics`."""

    @property
    def members(self) -> Sequence[str]:
        """The names of the servers."""

    @property
    def max_open(self) -> int:
        """How many jobs may be unfinished."""

    @property
    def unfinished(self) -> int:
        """About how many unfinished jobs there are."""

    @property
    def is_away(self) -> bool:
        """Whether the database has not answered for longer than a request waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """The state of the pool at one moment.

    Attributes:
        status: ``ready``, or ``shutting down``: no more jobs are taken.
        intake: ``open``, or ``paused``: an operator lets no new jobs in.
        paused: The types whose jobs an operator has paused, sorted.
        workers: How many workers are asked for.
        leaving: How many more end when their jobs have ended.
        busy: How many workers have a job.
        buffered: Jobs in the buffer.
        buffer_size: How many jobs the buffer can hold.
        peak_buffered: The most jobs that were in the buffer at the same time so far.
        pending: Jobs that no worker has claimed, in the buffer or outside it.
        waiting: Jobs that are delayed, wait for their next attempt, or are held.
        held: Jobs that could begin, and wait for others of their type, or for its resume.
        kept: Completed jobs that can be looked up.
        max_kept: How many of these there can be: `keep_completed` and `keep_failed` together,
            and what a file holds beyond them (`StoreSettings.spare`).
        oldest_running_seconds: For how long the job that began first has been running; None if
            no job runs.
        blocked: Why jobs that have a worker cannot begin, such as what this process or its machine
            has run out of; None while no job has to wait.
        dropped: By outcome, how many completed jobs have made room for others.
        unwritten: With a file or a database, how many records are on their way to it.
        store_failing_seconds: With a file or a database, for how long it could not be written; None
            while it can.
        members: With a database, the names of the servers that share it, as of the last heartbeat.
        open: With a database, about how many unfinished jobs it has, of all servers.
        database: With a database, ``ok``; or ``away``, if it has not answered for longer than a
            request waits.
    """

    status: str
    intake: str
    paused: Sequence[str]
    workers: int
    leaving: int
    busy: int
    buffered: int
    buffer_size: int
    peak_buffered: int
    pending: int
    waiting: int
    held: int
    kept: int
    max_kept: int
    oldest_running_seconds: float | None
    blocked: str | None
    dropped: Mapping[Outcome, int]
    unwritten: int = 0
    store_failing_seconds: float | None = None
    members: Sequence[str] = ()
    open: int = 0
    database: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeStatistics:
    """The numbers of the jobs of one type, at one moment.

    The percentiles are those of jobs that ended in the last 5 to 10 minutes, exact to 3.2 %; None
    if there are none. Neither has a cancelled job.

    Attributes:
        submitted: Jobs that came in since the server began.
        pending: Jobs that no worker has claimed.
        retrying: Those of them that are between two attempts.
        processing: Jobs that a worker has claimed. With a file this includes those whose end is on
            its way to the disk.
        outcomes: Jobs that have completed since the server began, by outcome; only outcomes that
            occurred.
        attempts_failed: Attempts since the server began that failed or timed out, whether or not
            another one follows.
        interruptions: Attempts that ended with the death of an earlier process, as this start found
            them.
        run_p50_seconds: The median time from claim to end, of a job's last attempt.
        run_p95_seconds: The time that 95 of 100 jobs do not exceed.
        wait_p50_seconds: The median time from admission to claim, of jobs that ran at their first
            attempt and were not submitted for a later time.
        wait_p95_seconds: The time that 95 of 100 of these do not exceed.
    """

    submitted: int
    pending: int
    retrying: int
    processing: int
    outcomes: Mapping[Outcome, int]
    attempts_failed: int
    interruptions: int
    run_p50_seconds: float | None
    run_p95_seconds: float | None
    wait_p50_seconds: float | None
    wait_p95_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatistics:
    """What a pool that counts its jobs has counted, at one moment.

    Attributes:
        oldest_pending_seconds: For how long the job that waits longest for a worker could have
            begun: since its admission, or since the time that it waited for. None if none waits.
        totals: Jobs that have completed since the server began, by outcome.
        ended_per_second: For each of the last 60 whole seconds, the oldest first, how many jobs
            succeeded, and how many ended otherwise.
        types: By type. Beyond a number of types, the jobs of all further ones are counted as
            `OTHER`, and so are those of a very long type.
    """

    oldest_pending_seconds: float | None
    totals: Mapping[Outcome, int]
    ended_per_second: Sequence[tuple[int, int]]
    types: Mapping[str, TypeStatistics]


# What the types beyond the greatest number are called together.
OTHER = "(other)"
