"""`Pool`: wires store, admission, capacity, waiters and executor of one pool.

`main` and `open_jobs` each open the channel, and the nursery in which they start the workers.
"""

import secrets
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import trio

from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.handler import Run
from trio_jobs.handlers.places import Places
from trio_jobs.handlers.registry import DEFAULT, HandlerRegistry
from trio_jobs.handlers.start_shortage import StartShortage
from trio_jobs.job import Job
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.disk_timer import DiskTimer
from trio_jobs.pool.ids import Uuid7
from trio_jobs.pool.limited_admission import LimitedAdmission
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.statistics import PoolStatistics
from trio_jobs.pool.store import DurableStore, NewJobs, Store, StoreMoves, UnfinishedJobs
from trio_jobs.pool.type_limits import TypeLimits
from trio_jobs.pool.unfinished import by_begin
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.pool.worker import Workers
from trio_jobs.pool.worker_tasks import WorkerTasks
from trio_jobs.settings import HttpSettings, MetricsSettings, PoolSettings, StoreSettings

if TYPE_CHECKING:  # a program whose handlers need no asyncio does not import it
    from trio_jobs.handlers.asyncio_runner import LoopChoice
    from trio_jobs.pool.observation import Observation

_NO_METRICS = MetricsSettings(enabled=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The parts of one pool; made by `make_pool`.

    Attributes:
        workers: What each worker runs.
        worker_tasks: The tasks of the workers. The caller opens it with its nursery, and starts the
            workers on clones of the channel's receive end.
        handlers: The users' functions.
        store: Every job.
        capacity: The slots for jobs.
        admission: Takes jobs in. It owns the channel's one send end: closing it begins the drain.
        waiters: The tasks that wait for jobs.
        schedule: The jobs that wait for a time. The caller starts `run_schedule` in the nursery of
            the workers.
        places: Where the handlers run; the caller opens them around the nursery of the workers.
        executor: Processes each job that a worker has claimed.
        shortage: Holds the jobs that cannot begin. The caller calls `note_change` when it has freed
            a resource, such as a connection's descriptor.
        now: The wall clock, as an aware UTC time.
        disk_timer: Times the waits of submissions for the disk; None without a file.
        boot: Eight characters that name this start of the pool.
        started_at: When it was made (UTC).
        max_kept: See `PoolStatistics`.
        observation: What is counted of the jobs; None if nobody looks.
    """

    workers: Workers
    worker_tasks: WorkerTasks
    handlers: HandlerRegistry
    store: Store
    capacity: Capacity
    admission: Admission
    waiters: CompletionWaiters
    schedule: Schedule
    places: Places
    executor: JobExecutor
    shortage: StartShortage
    now: Callable[[], datetime]
    disk_timer: DiskTimer | None = None
    boot: str
    started_at: datetime
    max_kept: int
    observation: "Observation | None" = None

    async def cancel(self, job_id: str) -> Job:
        """Ask for a job to be cancelled.

        A pending job keeps its place, and a waiting one is due now: the worker that claims it
        completes it without running it. A running job completes when its handler has unwound.

        Returns:
            The job as it is now.

        Raises:
            JobNotFoundError: There is no such job.
            InvalidTransitionError: The job has completed.
        """
        return await self.store.request_cancel(job_id, noted=self.note_cancel)

    def note_cancel(self, job_id: str) -> None:
        """Let a job end whose cancel was requested: cancel its handler, or make it due now."""
        self.executor.cancel(job_id)
        self.schedule.advance(job_id)

    async def run_schedule(self) -> None:
        """Feed the waiting jobs as they come due; see `Schedule` and `Admission.until_fed`.

        With a file, it times the waits for the disk, too.
        """
        if (timer := self.disk_timer) is None:
            await self._feed_due()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timer.run, name="disk-timer")
            await self._feed_due()
            timer.close()

    async def _feed_due(self) -> None:
        with suppress(ShuttingDownError), self.admission.until_fed():
            await self.schedule.run(self._feed)

    async def _feed(self, job_ids: deque[str]) -> None:
        if self.observation is not None:
            self.observation.note_can_begin(job_ids)
        await self.admission.feed(job_ids)

    def unfinished(self) -> UnfinishedJobs:
        """The jobs that have not completed. Any thread may call this while the jobs go on."""
        return by_begin(self.store.unfinished(), self.executor.has_begun)

    def left_behind(self) -> UnfinishedJobs:
        """The jobs that a stop has cancelled or lost: with a file, those that had begun."""
        jobs = self.unfinished()
        return jobs if self.store.disk is None else UnfinishedJobs(begun=jobs.begun, not_begun=())

    @property
    def kept(self) -> int:
        """How many jobs that have not begun are kept in the file; 0 without a file."""
        jobs = self.unfinished()
        return 0 if self.store.disk is None else len(jobs.not_begun) + len(jobs.waiting)

    def statistics(self) -> PoolStatistics:
        """The state of the pool now."""
        jobs, disk = self.store.statistics(), self.store.disk
        return PoolStatistics(
            status="shutting down" if self.admission.closed else "ready",
            workers=self.worker_tasks.number,
            leaving=self.worker_tasks.leaving,
            busy=jobs.processing,
            buffered=self.admission.buffered,
            buffer_size=self.capacity.buffer_size,
            peak_buffered=self.admission.peak_buffer_used,
            pending=jobs.pending,
            waiting=self.schedule.count,
            kept=jobs.completed,
            max_kept=self.max_kept,
            oldest_running_seconds=self.executor.oldest_running_seconds(),
            blocked=self.shortage.cause,
            dropped=jobs.dropped,
            unwritten=0 if disk is None else disk.unwritten,
            store_failing_seconds=None if disk is None else disk.failing_seconds,
        )


def make_pool(
    handlers: HandlerRegistry,
    send: trio.MemorySendChannel[str],
    store: Store,
    settings: PoolSettings,
    bounds: StoreSettings,
    http: HttpSettings,
    metrics: MetricsSettings = _NO_METRICS,
    *,
    states: Mapping[Run, object] | None = None,
    asyncio_loop: "LoopChoice | None" = None,
    folder: int | None = None,
    last_id: str = "",
    now: Callable[[], datetime] = utc_now,
) -> Pool:
    """Make the parts and connect them; nothing runs yet.

    Args:
        handlers: The users' functions.
        send: The job channel's one send end; ``admission`` owns it from now on. The channel holds
            ``buffer_size`` items and one for each worker that may ever be asked for, so that it has
            room for all slots.
        store: Where the jobs are kept. If it has a disk, it is a `DurableStore`.
        settings: The sizes of the pool.
        bounds: The bound of a result.
        http: The bound of the tasks that wait for jobs at the same time, and whether there is a
            page: then what the page shows of the jobs is counted.
        metrics: Whether there are metrics: then the jobs are counted, too. And how many types are
            counted apart.
        states: See `Places`.
        asyncio_loop: See `Places`; None for that of the settings.
        folder: See `ProcessPool`.
        last_id: The greatest id in the store.
        now: The wall clock, as an aware UTC time.

    Raises:
        LoopStartError: The loop is uvloop, which is not installed.
    """
    capacity = Capacity(settings.buffer_size)
    shortage = StartShortage()
    places = Places(
        handlers,
        workers=settings.workers,
        processes=settings.processes,
        asyncio_loop=asyncio_loop or settings.asyncio_loop,
        states=states,
        shortage=shortage,
        folder=folder,
    )
    executor = JobExecutor(
        handlers, max_result_bytes=bounds.max_result_bytes, places=places, shortage=shortage
    )
    observation = None
    new_jobs: NewJobs = store
    if http.ui or metrics.enabled:  # the one place that decides whether jobs are counted
        # Imported here: a pool that counts nothing needs none of it.
        from trio_jobs.pool.counted_moves import CountedJobs, CountedMoves
        from trio_jobs.pool.observation import Observation

        observation = Observation(
            store, handlers.table.keys() - {DEFAULT}, max_types=metrics.max_types, now=now
        )
        new_jobs = CountedJobs(store, observation)
    ended = None if observation is None else observation.end
    waiters = CompletionWaiters(max_waiters=http.max_waiters, ended=ended)
    schedule = Schedule(settings.max_waiting, now=now)
    new_id = Uuid7(after=last_id)
    limited = (send, capacity, schedule, handlers.max_running)
    show = waiters.notify if observation is None else observation.beside(waiters.notify)
    moves: StoreMoves
    disk_timer = None
    if isinstance(store, DurableStore):
        # Imported here: a pool in memory needs none of it.
        from trio_jobs.pool.durable_admission import DurableAdmission
        from trio_jobs.pool.suspects import Suspects

        suspects = Suspects(store, schedule, executor.has_begun, executor.left_by, show)
        moves = limits = TypeLimits(store, suspects, *limited, default=DEFAULT)
        admission: Admission = DurableAdmission(
            send,
            store,
            capacity,
            schedule,
            limits,
            suspects,
            disk_timer := DiskTimer(store.timeout),
            keeps_pending=settings.drain != "all",
            new_id=new_id,
            now=now,
            admitted=None if observation is None else observation.note_admitted,
        )
    elif handlers.max_running:
        moves = limits = TypeLimits(store, store, *limited, default=DEFAULT)
        admission = LimitedAdmission(
            send, new_jobs, capacity, schedule, limits, new_id=new_id, now=now
        )
    else:
        moves = store
        admission = Admission(send, new_jobs, capacity, schedule, new_id=new_id, now=now)
    if observation is not None:
        moves = CountedMoves(moves, store, observation)
    workers = Workers(moves, executor.for_worker, capacity, waiters, schedule, show)
    return Pool(
        workers=workers,
        worker_tasks=WorkerTasks(settings.workers, workers.run, capacity, places.limit_threads),
        handlers=handlers,
        store=store,
        capacity=capacity,
        admission=admission,
        waiters=waiters,
        schedule=schedule,
        places=places,
        executor=executor,
        shortage=shortage,
        now=now,
        boot=secrets.token_hex(4),
        started_at=now(),
        max_kept=bounds.keep_completed + bounds.keep_failed,
        disk_timer=disk_timer,
        observation=observation,
    )
