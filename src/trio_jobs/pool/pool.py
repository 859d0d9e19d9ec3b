"""`Pool`: wires store, admission, capacity, waiters and executor of one pool.

`unfinished_lines` names the jobs that have not completed by type and id, never by payload.
`main` and `open_jobs` each open the channel, and the nursery in which they start the workers.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from urllib.parse import quote

import trio

from trio_jobs.error_text import readable
from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.process_pool import ProcessPool
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.handlers.start_shortage import StartShortage
from trio_jobs.job import Job, Outcome
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.ids import Uuid7
from trio_jobs.pool.store import Store, UnfinishedJobs
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.pool.worker import Workers
from trio_jobs.settings import HttpSettings, PoolSettings, StoreSettings

utc_now = partial(datetime.now, UTC)

# An event and its fields.
Line = tuple[str, Mapping[str, object]]

# Of 37 characters each: a log line keeps 2,000 of a field.
_IDS_PER_LINE = 50

# A `default` handler takes any type that a client chooses: a type of any length would make the log
# cut the line's ids.
_MAX_TYPE = 200

# Clients may choose as many types as there are jobs: a stop has no time for a line for each.
_TYPES_WITH_OWN_LINES = 50

# In a line of many types, for each and for all of them.
_MAX_SHARED_TYPE = 60
_MAX_TYPES_FIELD = 2_000

# Needs no percent-encoding. A match is faster than `quote`, and there may be 100,000 types.
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]{1,60}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """The state of the pool at one moment.

    Attributes:
        status: ``ready``, or ``shutting down``: no more jobs are taken.
        workers: How many workers there are.
        busy: How many of them have a job.
        buffered: Jobs in the buffer.
        buffer_size: How many jobs the buffer can hold.
        oldest_running_seconds: For how long the job that began first has been running; None if
            no job runs.
        blocked: Why jobs that have a worker cannot begin, such as what this process or its machine
            has run out of; None while no job has to wait.
        dropped: By outcome, how many completed jobs have made room for others.
    """

    status: str
    workers: int
    busy: int
    buffered: int
    buffer_size: int
    oldest_running_seconds: float | None
    blocked: str | None
    dropped: Mapping[Outcome, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The parts of one pool; made by `make_pool`.

    Attributes:
        workers: Run on clones of the channel's receive end, in the caller's nursery.
        handlers: The users' functions.
        store: Every job.
        capacity: The slots for jobs.
        admission: Takes jobs in. It owns the channel's one send end: closing it begins the drain.
        waiters: The tasks that wait for jobs.
        processes: The child processes; the caller enters this block around the nursery of the
            workers. None if no handler asks for a process.
        executor: Processes each job that a worker has claimed.
        shortage: Holds the jobs that cannot begin. The caller calls `note_change` when it has freed
            a resource, such as a connection's descriptor.
    """

    workers: Workers
    handlers: HandlerRegistry
    store: Store
    capacity: Capacity
    admission: Admission
    waiters: CompletionWaiters
    processes: ProcessPool | None
    executor: JobExecutor
    shortage: StartShortage

    async def cancel(self, job_id: str) -> Job:
        """Ask for a job to be cancelled.

        A pending job keeps its place: the worker that claims it completes it without running
        it. A running job completes when its handler has unwound.

        Returns:
            The job as it is now.

        Raises:
            JobNotFoundError: There is no such job.
            InvalidTransitionError: The job has completed.
        """
        job = await self.store.request_cancel(job_id)
        self.executor.cancel(job_id)
        return job

    def unfinished(self) -> UnfinishedJobs:
        """The jobs that have not completed. Any thread may call this while the jobs go on."""
        jobs = self.store.unfinished()
        begun: list[Job] = []
        waiting: list[Job] = []  # claimed, but still without a thread or a process
        for job in jobs.begun:
            (begun if self.executor.has_begun(job.id) else waiting).append(job)
        if not waiting:
            return jobs
        not_begun = sorted([*waiting, *jobs.not_begun], key=attrgetter("id"))
        return UnfinishedJobs(begun=begun, not_begun=not_begun)

    def statistics(self) -> PoolStatistics:
        """The state of the pool now."""
        jobs = self.store.statistics()
        return PoolStatistics(
            status="shutting down" if self.admission.closed else "ready",
            workers=self.workers.number,
            busy=jobs.processing,
            buffered=self.admission.buffered,
            buffer_size=self.capacity.buffer_size,
            oldest_running_seconds=self.executor.oldest_running_seconds(),
            blocked=self.shortage.cause,
            dropped=jobs.dropped,
        )


def make_pool(
    handlers: HandlerRegistry,
    send: trio.MemorySendChannel[str],
    store: Store,
    settings: PoolSettings,
    bounds: StoreSettings,
    http: HttpSettings,
    *,
    folder: int | None = None,
    now: Callable[[], datetime] = utc_now,
) -> Pool:
    """Make the parts and connect them; nothing runs yet.

    Args:
        handlers: The users' functions.
        send: The job channel's one send end, of ``buffer_size + workers`` items, so that it has
            room for all slots; ``admission`` owns it from now on.
        store: Where the jobs are kept.
        settings: The sizes of the pool.
        bounds: The bound of a result.
        http: The bound of the tasks that wait for jobs at the same time.
        folder: See `ProcessPool`.
        now: The wall clock, as an aware UTC time.
    """
    capacity = Capacity(settings.buffer_size)
    shortage = StartShortage()
    processes = None
    if names := handlers.process_names:
        processes = ProcessPool(settings.processes, names=names, shortage=shortage, folder=folder)
    executor = JobExecutor(
        handlers,
        workers=settings.workers,
        max_result_bytes=bounds.max_result_bytes,
        processes=processes,
        shortage=shortage,
    )
    waiters = CompletionWaiters(max_waiters=http.max_waiters)
    for_worker = executor.for_worker
    return Pool(
        workers=Workers(settings.workers, store, for_worker, capacity=capacity, waiters=waiters),
        handlers=handlers,
        store=store,
        capacity=capacity,
        admission=Admission(send, store, capacity, new_id=Uuid7(), now=now),
        waiters=waiters,
        processes=processes,
        executor=executor,
        shortage=shortage,
    )


def unfinished_lines(jobs: UnfinishedJobs) -> Iterator[Line]:
    """Yield lines that name all jobs.

    A line names jobs of one type. Jobs of the types after the first 50 share lines, which have a
    type for each id.
    """
    for event, some in (("jobs_interrupted", jobs.begun), ("jobs_not_started", jobs.not_begun)):
        by_type: dict[str, list[str]] = {}
        others: list[Job] = []
        for job in some:
            if job.type in by_type:
                by_type[job.type].append(job.id)
            elif len(by_type) < _TYPES_WITH_OWN_LINES:
                by_type[job.type] = [job.id]
            else:
                others.append(job)
        for job_type, ids in by_type.items():
            shown = readable(job_type, _MAX_TYPE)
            for start in range(0, len(ids), _IDS_PER_LINE):
                job_ids = ",".join(ids[start : start + _IDS_PER_LINE])
                yield event, {"job_type": shown, "job_ids": job_ids}
        for fields in _shared(others):
            yield event, fields


def count_ids(fields: Mapping[str, object]) -> int:
    """Return how many jobs a line names."""
    return str(fields["job_ids"]).count(",") + 1


def _shared(jobs: Iterable[Job]) -> Iterator[Mapping[str, str]]:
    """The fields of lines with a type for each id: as many as fit into a line."""
    types: list[str] = []
    ids: list[str] = []
    size = 0
    for job in jobs:
        shown = job.type
        if not _PLAIN.fullmatch(shown):  # a comma would part it, a blank would need quotes
            shown = quote(readable(shown, _MAX_SHARED_TYPE), safe=":/@+")
        if len(ids) == _IDS_PER_LINE or size + len(shown) > _MAX_TYPES_FIELD:
            yield {"job_types": ",".join(types), "job_ids": ",".join(ids)}
            types, ids, size = [], [], 0
        types.append(shown)
        ids.append(job.id)
        size += len(shown) + 1
    if ids:
        yield {"job_types": ",".join(types), "job_ids": ",".join(ids)}
