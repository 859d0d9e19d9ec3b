"""`Pool`: store, admission, capacity, waiters and executor of one pool, and what they do together.

`main` and `open_jobs` each open the channel, and the nursery in which they start the workers.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import trio

from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.places import Places
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.handlers.start_shortage import StartShortage
from trio_jobs.job import Job
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.disk_timer import DiskTimer
from trio_jobs.pool.limited_admission import LimitedAdmission
from trio_jobs.pool.paused_types import PausedTypes
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.statistics import PoolStatistics, Sharing
from trio_jobs.pool.store import Store, UnfinishedJobs
from trio_jobs.pool.unfinished import by_begin
from trio_jobs.pool.waiters import CompletionWaiters
from trio_jobs.pool.worker import Workers
from trio_jobs.pool.worker_tasks import WorkerTasks

if TYPE_CHECKING:  # a pool that counts nothing does not import it
    from trio_jobs.pool.observation import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The parts of one pool; made by `wiring.make_pool`.

    Attributes:
        workers: What each worker runs.
        worker_tasks: The tasks of the workers. The caller opens it with its nursery, and starts the
            workers on clones of the channel's receive end.
        handlers: The users' functions.
        store: Every job.
        capacity: The slots for jobs.
        admission: Takes jobs in, unless its ``intake`` is paused. It owns the channel's one send
            end: closing it begins the drain.
        paused: The types whose jobs are held.
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
        sharing: Of the database that servers share; None without one.
    """

    workers: Workers
    worker_tasks: WorkerTasks
    handlers: HandlerRegistry
    store: Store
    capacity: Capacity
    admission: LimitedAdmission
    paused: PausedTypes
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
    sharing: Sharing | None = None

    async def cancel(self, job_id: str) -> Job:
        """Ask for a job to be cancelled.

        A pending job keeps its position, and a waiting one is due now: the worker that claims it
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
        return by_begin(self.store.unfinished(), self.executor.has_begun, self.paused.holds)

    def left_behind(self) -> UnfinishedJobs:
        """The jobs that a stop has cancelled or lost: with a file, those that had begun."""
        jobs = self.unfinished()
        return jobs if self.store.disk is None else UnfinishedJobs(begun=jobs.begun, not_begun=())

    @property
    def kept(self) -> int:
        """How many jobs that have not begun are kept in the file; 0 without a file."""
        jobs = self.unfinished()
        return 0 if self.store.disk is None else jobs.count - len(jobs.begun)

    def statistics(self) -> PoolStatistics:
        """The state of the pool now."""
        jobs, disk, sharing = self.store.statistics(), self.store.disk, self.sharing
        return PoolStatistics(
            status="shutting down" if self.admission.closed else "ready",
            intake="open" if self.admission.intake.is_open else "paused",
            paused=self.paused.types,
            workers=self.worker_tasks.number,
            leaving=self.worker_tasks.leaving,
            busy=jobs.processing,
            buffered=self.admission.buffered,
            buffer_size=self.capacity.buffer_size,
            peak_buffered=self.admission.peak_buffered,
            pending=jobs.pending,
            waiting=self.schedule.count,
            held=self.schedule.held,
            kept=jobs.completed,
            max_kept=self.max_kept,
            oldest_running_seconds=self.executor.oldest_running_seconds(),
            blocked=self.shortage.cause,
            dropped=jobs.dropped,
            unwritten=0 if disk is None else disk.unwritten,
            store_failing_seconds=None if disk is None else disk.failing_seconds,
            members=() if sharing is None else sharing.members,
            open=0 if sharing is None else sharing.unfinished,
            database=None if sharing is None else "away" if sharing.is_away else "ok",
        )
