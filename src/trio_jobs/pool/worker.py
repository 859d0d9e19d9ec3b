"""`run_worker`: receives an id, claims its job, processes it, records how it ended."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

import trio

from trio_jobs.elapsed import elapsed_clock
from trio_jobs.job import Ending, Job, Later, Outcome
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.job_log import log_end, log_postponed, log_start
from trio_jobs.pool.store import (
    InvalidTransitionError,
    JobNotFoundError,
    Moves,
    StoreMoves,
)
from trio_jobs.pool.waiters import CompletionWaiters

log = logging.getLogger(__name__)

# A worker's burst: the jobs that it takes in one turn of the event loop. A turn serves every
# connection that is ready: if each worker took one job a turn, more connections than workers would
# fill the buffer, and the server would refuse jobs while workers are idle. The time bounds a burst,
# so that all other tasks get their turn; the number bounds it if the clock stands still, in a test.
BURST_SECONDS = 0.0003
BURST_JOBS = 64

# On Python 3.11 looking up an enum's member costs as much as a call.
_SUCCEEDED = Outcome.SUCCEEDED

# Runs one job and says how it ended, or that it wants to run again. It makes an `Ending` or a
# `Later` of everything that the user's function does; it raises `Cancelled`, or what a bug in the
# project raises.
Process = Callable[[Job], Awaitable[Ending | Later]]

# Each worker enters a block, and runs its jobs in it by the function that the block gives.
ProcessBlock = Callable[[], AbstractContextManager[Process]]


# Without this, Ctrl-C could raise KeyboardInterrupt at any instruction: between a claim and its
# release, or in a handler, where it would fail one job and stop nothing. With this, Trio raises
# KeyboardInterrupt in the program's own code.
@trio.lowlevel.enable_ki_protection
async def run_worker(jobs: trio.MemoryReceiveChannel[str], store: Moves, process: Process) -> bool:
    """Process jobs one at a time until the channel ends.

    A worker takes jobs in bursts of at most `BURST_SECONDS` (by Trio's clock) or `BURST_JOBS`.
    Only the handlers make checkpoints within a burst.

    The worker skips an id whose job the store holds back (see `Moves.claim`). If the store refuses
    the claim of an id, the worker logs that: so a second copy of an id does not run its job twice.

    Args:
        jobs: This worker's own clone of the receive channel; closed on exit. It carries job
            ids, the store has everything else.
        store: Where each job is claimed and its outcome recorded.
        process: Awaited with each claimed job.

    Returns:
        False once the send channel is closed and the buffer is empty. True once another task has
        closed ``jobs``: for this worker the channel has ended.

    Cancellation:
        Acted on before each job is received, and inside ``process``. The interrupted job is
        released before ``Cancelled`` leaves this function.

    Checkpoints:
        At least once per burst.
    """
    now = elapsed_clock()
    task = _readable_task()
    with jobs:
        while True:
            try:
                job_id = await jobs.receive()  # the event loop turns
            except trio.EndOfChannel:
                return False
            except trio.ClosedResourceError:
                return True
            await _process_burst(job_id, jobs, store, process, now, task)


async def _process_burst(
    job_id: str,
    jobs: trio.MemoryReceiveChannel[str],
    store: Moves,
    process: Process,
    now: Callable[[], float],
    task: trio.lowlevel.Task | None,
) -> None:
    """Run one burst.

    Args:
        job_id: The first job.
        jobs: See `run_worker`, as for the next two.
        store: See there.
        process: See there.
        now: A clock for the durations.
        task: See `_readable_task`.
    """
    disk, verbose = store.disk, log.isEnabledFor(logging.DEBUG)
    left, time = BURST_JOBS, now()
    burst_ends = time + BURST_SECONDS
    while True:  # noqa: ASYNC913 - a burst is bounded, and the worker waits after it
        job = None
        try:
            job = store.claim(job_id)
        except (InvalidTransitionError, JobNotFoundError) as refusal:
            log.error("claim_refused", extra={"job_id": job_id, "reason": str(refusal)})
        if job is not None:
            started = time  # the end of the job before, if there is one: nothing has run since
            if verbose:
                log_start(job)
            try:
                if disk is not None and disk.begins_later(job):
                    job = await disk.begun(job)
                end = await process(job)
            except BaseException:  # the pool ends: cancelled, or a bug that ends the server
                store.release(job_id)
                raise
            time = now()
            if type(end) is Later:  # `isinstance` calls a method of the class's metaclass
                store.postpone(job_id, end)
                if not end.lost:
                    log_postponed(job, end, duration=time - started)
            else:
                store.complete(job_id, end, duration=time - started)
                if verbose or end.outcome is not _SUCCEEDED:
                    log_end(job, end, duration=time - started)
            if disk is not None and disk.is_behind:
                await disk.caught_up()
                time = now()
        left -= 1
        if not left or time >= burst_ends:
            return
        # Raise a cancellation before the next id is taken: a worker that is cancelled with an
        # unclaimed id in hand would lose its job. To ask by Trio's coroutine costs ten times as
        # much as to read what it reads.
        if task is None or task._cancel_status.effectively_cancelled:
            await trio.lowlevel.checkpoint_if_cancelled()
        try:
            job_id = jobs.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            return


def _readable_task() -> trio.lowlevel.Task | None:
    """This task; None if Trio has not the private names that say whether a task is cancelled."""
    task = trio.lowlevel.current_task()
    status = getattr(task, "_cancel_status", None)
    return task if hasattr(status, "effectively_cancelled") else None


class Delays(Protocol):
    """Where postponed jobs wait."""

    def add(self, job_id: str, due: float | datetime) -> None:
        """See `Schedule.add`."""


class Workers:
    """Runs each worker, and makes their moves in the store.

    It reports slots and claims to the capacity, postponed jobs to the schedule, ends to ``show``,
    which calls `CompletionWaiters.notify`. ``moves`` makes the moves; a pause of types replaces it.
    """

    def __init__(
        self,
        store: StoreMoves,
        for_worker: ProcessBlock,
        capacity: Capacity,
        waiters: CompletionWaiters,
        schedule: Delays,
        show: Callable[[Job], None],
    ) -> None:
        self.disk = store.disk
        self.moves = store
        self._for_worker = for_worker
        self._capacity = capacity
        self._waiters = waiters
        self._schedule = schedule
        self._show = show
        self._running = 0

    @trio.lowlevel.enable_ki_protection
    async def run(self, jobs: trio.MemoryReceiveChannel[str]) -> None:
        """Run one worker on its clone of the receive channel; see `run_worker`.

        The last worker that ends waits for the disk, and wakes the tasks that still wait for jobs.

        Raises:
            RuntimeError: The worker has returned before its channel has ended, and its clone was
                not closed, or was the last one: the pool would shrink unseen, or be gone.
        """
        self._capacity.slot_freed()
        self._running += 1
        try:
            with self._for_worker() as process:
                clone_closed = await run_worker(jobs, self, process)
            channel = jobs.statistics()
            go_on = channel.open_send_channels or channel.current_buffer_used
            if go_on and not (clone_closed and channel.open_receive_channels):
                raise RuntimeError("a worker has returned before its channel has ended")
            if self.disk is not None and self._is_last(jobs):
                await self.disk.settled()  # clients see no end before it is on the disk
        finally:
            self._capacity.has_workers = jobs.statistics().open_receive_channels > 0
            self._capacity.slot_lost()
            if self._is_last(jobs):
                self._waiters.end()
            self._running -= 1

    def _is_last(self, jobs: trio.MemoryReceiveChannel[str]) -> bool:
        # A worker whose clone was closed may have a job; one that has not begun has an open clone.
        return self._running == 1 and jobs.statistics().open_receive_channels == 0

    def claim(self, job_id: str) -> Job | None:
        """See `Moves.claim`; measures the flow, or frees the slot if there is nothing to run."""
        job = None
        try:
            job = self.moves.claim(job_id)
        finally:
            if job is None:
                self._capacity.slot_freed()
        self._capacity.measure_claim()
        return job

    def complete(self, job_id: str, ending: Ending, *, duration: float | None = None) -> Job:
        """See `StoreMoves.complete`; calls ``show`` with the job, and frees its slot."""
        job = self.moves.complete(job_id, ending, duration=duration, show=self._show)
        self._capacity.slot_freed()
        return job

    def postpone(self, job_id: str, later: Later) -> Job:
        """See `Moves.postpone`; lets the job wait in the schedule, and frees its slot."""
        job = self.moves.postpone(job_id, later)
        self._schedule.add(job_id, 0.0 if job.cancel_requested else later.seconds)
        self._capacity.slot_freed()
        return job

    def release(self, job_id: str) -> None:
        """See `Moves.release`; frees the job's slot."""
        self.moves.release(job_id)
        self._capacity.slot_freed()
