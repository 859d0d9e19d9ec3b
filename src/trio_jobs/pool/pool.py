"""`Pool`: what stands around the job channel, put together in the one way there is.

Nothing runs here. `main` and `open_jobs` each open the channel, and the nursery
in which their workers run on clones of its receive end.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter

import trio

from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.process_pool import ProcessPool
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.handlers.start_shortage import StartShortage
from trio_jobs.job import Job, Outcome
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.drop_log import DropLog
from trio_jobs.pool.ids import Uuid7
from trio_jobs.pool.store import UnfinishedJobs
from trio_jobs.pool.unfinished import unfinished_lines
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.stores.memory import MemoryStore

_now = partial(datetime.now, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """What the pool is doing now.

    Attributes:
        status: ``ready``, or ``shutting down``: no more jobs are taken.
        workers: How many there are.
        busy: How many of them have a job.
        buffered: Jobs in the buffer.
        buffer_size: How many jobs it can hold.
        oldest_running_seconds: How long the job that began first has been
            running; null if none is.
        blocked: Why jobs that have a worker cannot begin: what this process or
            its machine has run out of; null while none has to wait.
        dropped: How many completed jobs have had to make room for others, by
            outcome.
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
    """The parts that belong to one pool; made by `make_pool`.

    Attributes:
        workers: How many of them the parts are made for.
        handlers: The users' functions.
        store: Every job.
        admission: Where jobs come in. It owns the channel's one send end:
            closing it begins the drain.
        waiters: Where tasks wait for jobs. Whoever runs the pool ends it.
        processes: The child processes, to be entered around the pool; None if
            no handler asks for them.
        executor: What the workers process a job with.
        shortage: Where jobs wait that cannot begin; to be told of what comes free.
        drop_log: Says that completed jobs are dropped.
    """

    workers: int
    handlers: HandlerRegistry
    store: MemoryStore
    admission: Admission
    waiters: CompletionWaiters
    processes: ProcessPool | None
    executor: JobExecutor
    shortage: StartShortage
    drop_log: DropLog

    def statistics(self) -> PoolStatistics:
        """What the pool is doing now."""
        statistics = self.store.statistics()
        return PoolStatistics(
            status="shutting down" if self.admission.closed else "ready",
            workers=self.workers,
            busy=statistics.processing,
            buffered=self.admission.buffered,
            buffer_size=self.admission.buffer_size,
            oldest_running_seconds=self.executor.oldest_running_seconds(),
            blocked=self.shortage.cause,
            dropped=statistics.dropped,
        )

    def unfinished_jobs(self) -> UnfinishedJobs:
        """The jobs that have not completed: those begun, those not begun.

        May be called in another thread while the jobs go on.
        """
        jobs = self.store.unfinished_jobs()
        begun: list[Job] = []
        waiting: list[Job] = []  # claimed, but for a thread or a process
        for job in jobs.begun:
            (begun if self.executor.has_begun(job.id) else waiting).append(job)
        if not waiting:
            return jobs
        return UnfinishedJobs(
            begun=begun, not_begun=sorted([*waiting, *jobs.not_begun], key=attrgetter("id"))
        )

    def unfinished_ids(self) -> tuple[list[str], list[str]]:
        """The ids of the jobs that have not completed: those begun, those not begun."""
        jobs = self.unfinished_jobs()
        return [job.id for job in jobs.begun], [job.id for job in jobs.not_begun]

    def report_dropped(self) -> None:
        """Log what has been dropped since the last line about it."""
        self.drop_log.report(self.store.statistics().dropped)

    def unfinished(self) -> Iterator[tuple[str, Mapping[str, object]]]:
        """What names the unfinished jobs in the log: an event and its fields for each line."""
        return unfinished_lines(self.unfinished_jobs())


def make_pool(
    handlers: HandlerRegistry,
    send: trio.MemorySendChannel[str],
    *,
    workers: int,
    processes: int | None,
    keep_completed: int,
    keep_completed_bytes: int,
    max_result_bytes: int,
    max_waiters: int,
    folder: int | None = None,
    now: Callable[[], datetime] = _now,
) -> Pool:
    """The parts, connected with each other.

    Args:
        handlers: The users' functions.
        send: The job channel's one send end; ``admission`` owns it from now on.
        workers: How many workers there will be.
        processes: How many child processes there are at the most; None for as
            many as there are processors.
        keep_completed: See `MemoryStore`.
        keep_completed_bytes: See `MemoryStore`.
        max_result_bytes: The largest result, as JSON.
        max_waiters: How many tasks may wait for jobs at the same time.
        folder: See `ProcessPool`.
        now: The wall clock, as an aware UTC time.
    """
    places = Capacity()
    waiters = CompletionWaiters(max_waiters=max_waiters)
    drop_log = DropLog()

    def completed(job: Job) -> None:
        waiters.note(job)
        places.note_completion()

    store = MemoryStore(
        now=now,
        keep_completed=keep_completed,
        keep_completed_bytes=keep_completed_bytes,
        claimed=places.slot_freed,
        completed=completed,
        dropped=drop_log.note,
    )
    names = handlers.process_names
    shortage = StartShortage()
    children = None
    if names:
        children = ProcessPool(processes, names=names, shortage=shortage, folder=folder)
    return Pool(
        workers=workers,
        handlers=handlers,
        store=store,
        admission=Admission(send, store, places=places, new_id=Uuid7(), now=now),
        waiters=waiters,
        processes=children,
        executor=JobExecutor(
            handlers,
            workers=workers,
            max_result_bytes=max_result_bytes,
            processes=children,
            shortage=shortage,
        ),
        shortage=shortage,
        drop_log=drop_log,
    )
