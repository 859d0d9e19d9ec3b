"""The worker: receive an id, claim its job, process it, record how it ended."""

import logging
from collections.abc import Awaitable, Callable

import trio

from trio_jobs.job import Ending, Job, Outcome
from trio_jobs.pool.store import InvalidTransitionError, JobNotFoundError
from trio_jobs.stores.memory import MemoryStore

log = logging.getLogger(__name__)

# A worker's burst: the jobs that it takes before the event loop turns. A turn serves every
# connection that is ready: with one job a turn, more connections than workers fill the buffer,
# and jobs are refused while workers are idle. Time bounds it, so that all other tasks get their
# turn; the number bounds it where the clock stands still, as a test's does.
BURST_SECONDS = 0.0003
BURST_JOBS = 64

_SUCCEEDED = Outcome.SUCCEEDED  # looked up once, as in the store

# A failure is a warning, so that it stays in sight at `level = "warning"`; what a client has asked
# for is none.
_LEVELS = {
    Outcome.SUCCEEDED: logging.DEBUG,
    Outcome.CANCELLED: logging.INFO,
    Outcome.FAILED: logging.WARNING,
    Outcome.TIMED_OUT: logging.WARNING,
}

# Runs one job and says how it ended. It turns whatever the user's function
# does into an `Ending`; what it raises is `Cancelled`, or a bug of ours.
Process = Callable[[Job], Awaitable[Ending]]


# In a program whose Ctrl-C is Python's own, a KeyboardInterrupt comes at any instruction: between a
# claim and its release, or in a handler, where it would fail one job and stop nothing. So Trio is
# to raise it in the program's own code.
@trio.lowlevel.enable_ki_protection
async def run_worker(
    jobs: trio.MemoryReceiveChannel[str],
    store: MemoryStore,
    process: Process,
) -> None:
    """Process jobs one at a time until the channel ends.

    Jobs that do not wait are processed in bursts of at most `BURST_SECONDS` (by Trio's clock) or
    `BURST_JOBS`, without a checkpoint. The job that goes beyond the time is the burst's last.

    An id whose job cannot be claimed is logged and passed over: whatever put
    a second copy of it into the channel, the job does not run twice.

    Args:
        jobs: This worker's own clone of the receive channel; closed on exit.
            It carries job ids, the store holds everything else.
        store: Where each job is claimed and its outcome recorded.
        process: Awaited with each claimed job.

    Returns:
        Once the send channel is closed and the buffer is empty, or once
        ``jobs`` is closed: for this worker that is the channel's end.

    Cancellation:
        Acted on before each job is received, and inside ``process``. A job cut
        short is released in the store before ``Cancelled`` leaves this
        function, so no job is left ``processing`` without a worker.

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
    job_id: str, store: MemoryStore, process: Process, now: Callable[[], float]
) -> None:
    try:
        job = store.claim(job_id)
    except (InvalidTransitionError, JobNotFoundError) as refusal:
        log.error("claim_refused", extra={"job_id": job_id, "reason": str(refusal)})
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


def check_channel_has_ended(jobs: trio.MemoryReceiveChannel[str]) -> None:
    """Check that a worker had a reason to return: a pool must not shrink unseen.

    Not for a worker whose clone the caller itself has closed.

    Raises:
        RuntimeError: The worker's channel has not ended.
    """
    channel = jobs.statistics()
    if channel.open_send_channels or channel.current_buffer_used:
        raise RuntimeError("a worker has returned before its channel has ended")


def _log_end(job: Job, ending: Ending, *, duration: float) -> None:
    fields = _fields(job, duration=duration)
    if ending.error is not None:
        fields["error"] = f"{ending.error.type}: {ending.error.message}"
    log.log(_LEVELS[ending.outcome], f"job_{ending.outcome}", extra=fields)


def _fields(job: Job, **more: object) -> dict[str, object]:
    worker = trio.lowlevel.current_task().name
    return {"job_id": job.id, "job_type": job.type, "worker": worker, **more}
