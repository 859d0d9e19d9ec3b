"""`run_worker`: receives an id, claims its job, processes it, records how it ended."""

import logging
from collections.abc import Awaitable, Callable

import trio

from trio_jobs.job import Ending, Job, Outcome
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.store import InvalidTransitionError, JobNotFoundError, Moves
from trio_jobs.pool.waiters import CompletionWaiters

log = logging.getLogger(__name__)

# A worker's burst: the jobs that it takes before the event loop turns. A turn serves every
# connection that is ready: with one job a turn, more connections than workers fill the buffer,
# and jobs are refused while workers are idle. Time bounds it, so that all other tasks get their
# turn; the number bounds it where the clock stands still, as a test's does.
BURST_SECONDS = 0.0003
BURST_JOBS = 64

# On Python 3.11 looking up an enum's member costs as much as a call.
_SUCCEEDED = Outcome.SUCCEEDED

# A failure is a warning, so that it stays in sight at `level = "warning"`. A cancel is not: a
# client has asked for it.
_LEVELS = {
    Outcome.SUCCEEDED: logging.DEBUG,
    Outcome.CANCELLED: logging.INFO,
    Outcome.FAILED: logging.WARNING,
    Outcome.TIMED_OUT: logging.WARNING,
}

# Runs one job and says how it ended. It makes an `Ending` of everything that the user's function
# does; it raises `Cancelled`, or what a bug in the project raises.
Process = Callable[[Job], Awaitable[Ending]]


# Where Ctrl-C raises KeyboardInterrupt, it does so at any instruction: between a claim and its
# release, or in a handler, where it would fail one job and stop nothing. Protected, Trio raises
# it in the program's own code.
@trio.lowlevel.enable_ki_protection
async def run_worker(
    jobs: trio.MemoryReceiveChannel[str],
    store: Moves,
    process: Process,
) -> None:
    """Process jobs one at a time until the channel ends.

    A worker processes jobs that do not wait in bursts without a checkpoint, of at most
    `BURST_SECONDS` (by Trio's clock) or `BURST_JOBS`.

    It passes over an id whose job the store holds, and logs an id whose claim the store refuses:
    a second copy of an id, wherever it comes from, does not run its job twice.

    Args:
        jobs: This worker's own clone of the receive channel; closed on exit. It carries job
            ids, the store has everything else.
        store: Where each job is claimed and its outcome recorded.
        process: Awaited with each claimed job.

    Returns:
        Once the send channel is closed and the buffer is empty, or once ``jobs`` is closed: for
        this worker that is the channel's end.

    Cancellation:
        Acted on before each job is received, and inside ``process``. The interrupted job is
        released before ``Cancelled`` leaves this function.

    Checkpoints:
        At least once per burst.
    """
    now = trio.lowlevel.current_clock().current_time
    with jobs:
        while True:
            try:
                job_id = await jobs.receive()  # the event loop turns
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return
            burst_ends = now() + BURST_SECONDS
            left = BURST_JOBS
            while True:
                await _process_one(job_id, store, process, now)
                left -= 1
                if not left or now() >= burst_ends:
                    break
                # Before the next id is taken: a worker that is cancelled with an id in hand
                # would lose its job.
                await trio.lowlevel.checkpoint_if_cancelled()
                try:
                    job_id = jobs.receive_nowait()
                except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                    break


async def _process_one(
    job_id: str, store: Moves, process: Process, now: Callable[[], float]
) -> None:
    try:
        job = store.claim(job_id)
    except (InvalidTransitionError, JobNotFoundError) as refusal:
        log.error("claim_refused", extra={"job_id": job_id, "reason": str(refusal)})
        return
    if job is None:
        return
    started = now()
    verbose = log.isEnabledFor(logging.DEBUG)
    if verbose:
        log.debug("job_started", extra=_fields(job))
    try:
        ending = await process(job)
    except BaseException:  # the pool ends: cancelled, or a bug that ends the server
        store.release(job_id)
        raise
    duration = now() - started
    store.complete(job_id, ending, duration=duration)
    if verbose or ending.outcome is not _SUCCEEDED:
        _log_end(job, ending, duration=duration)


class Workers:
    """Runs a ``number`` of workers, and makes their moves in the store.

    It tells the capacity of slots and claims, and the waiters of completions.
    """

    def __init__(
        self,
        number: int,
        store: Moves,
        process: Process,
        *,
        capacity: Capacity,
        waiters: CompletionWaiters,
    ) -> None:
        self.number = number
        self._store = store
        self._process = process
        self._capacity = capacity
        self._waiters = waiters

    @trio.lowlevel.enable_ki_protection
    async def run(self, jobs: trio.MemoryReceiveChannel[str]) -> None:
        """Run one worker on its clone of the receive channel; see `run_worker`.

        The last worker that ends wakes the tasks that still wait for jobs.

        Raises:
            RuntimeError: The worker has returned before its channel has ended: the pool would
                shrink unseen.
        """
        self._capacity.slot_freed()
        try:
            await run_worker(jobs, self, self._process)
            channel = jobs.statistics()
            if channel.open_send_channels or channel.current_buffer_used:
                raise RuntimeError("a worker has returned before its channel has ended")
        finally:
            self._capacity.slot_lost()
            if jobs.statistics().open_receive_channels == 0:
                self._waiters.end()

    def claim(self, job_id: str) -> Job | None:
        """See `Moves.claim`; measures the flow, or frees the slot if there is nothing to run."""
        job = None
        try:
            job = self._store.claim(job_id)
        finally:
            if job is None:
                self._capacity.slot_freed()
        self._capacity.note_claim()
        return job

    def complete(self, job_id: str, ending: Ending, *, duration: float | None = None) -> Job:
        """See `Moves.complete`; wakes the tasks that wait for the job, and frees its slot."""
        job = self._store.complete(job_id, ending, duration=duration)
        self._waiters.notify(job)
        self._capacity.slot_freed()
        return job

    def release(self, job_id: str) -> None:
        """See `Moves.release`; frees the job's slot."""
        self._store.release(job_id)
        self._capacity.slot_freed()


def _log_end(job: Job, ending: Ending, *, duration: float) -> None:
    fields = _fields(job, duration=duration)
    if ending.error is not None:
        fields["error"] = f"{ending.error.type}: {ending.error.message}"
    log.log(_LEVELS[ending.outcome], f"job_{ending.outcome}", extra=fields)


def _fields(job: Job, **more: object) -> dict[str, object]:
    worker = trio.lowlevel.current_task().name
    return {"job_id": job.id, "job_type": job.type, "worker": worker, **more}
