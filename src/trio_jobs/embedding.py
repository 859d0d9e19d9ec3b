"""`open_jobs`: a pool of workers inside any Trio program, made of the parts that `main` uses."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext

import trio

from trio_jobs.core import Core, make_core
from trio_jobs.handlers import GeneratorEnds, Handlers
from trio_jobs.jobs import Jobs
from trio_jobs.ranges import check_numbers
from trio_jobs.worker import check_channel_has_ended, run_worker

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_jobs(
    handlers: Mapping[str, object],
    *,
    workers: int = 10,
    buffer_size: int = 100,
    processes: int | None = None,
    keep_completed: int = 10_000,
    keep_completed_bytes: int = 268_435_456,
    max_payload_bytes: int = 1_048_576,
    max_result_bytes: int = 1_048_576,
    max_waiters: int = 10_000,
) -> AsyncIterator[Jobs]:
    """A pool of workers for the length of an ``async with`` block.

    Leaving the block drains: no more jobs are taken, and those already accepted
    are completed first. An exception that leaves the block cuts them short, and
    so does cancelling the scope around it; what is then unfinished is logged.
    For a drain of bounded length, set that scope's deadline before leaving.

    If a handler that runs in a process is defined in the program's own file,
    that must begin behind ``if __name__ == "__main__":``, because child
    processes import it to find the function.

    Args:
        handlers: A function for each job type, or a `Handler` made with
            `Handler.of` for more choices; ``default`` takes every type that
            has no entry of its own.
        workers: How many jobs run at the same time.
        buffer_size: How many jobs may wait for a worker.
        processes: How many child processes there are at the most, if handlers
            ask for them; None for as many as there are processors.
        keep_completed: How many completed jobs can be looked up; beyond that
            the oldest are dropped.
        keep_completed_bytes: How many bytes they may hold together.
        max_payload_bytes: The largest payload, as JSON, and over HTTP the
            longest body of a request.
        max_result_bytes: The largest result, as JSON; a larger one fails its job.
        max_waiters: How many tasks may wait for jobs at the same time, HTTP's
            included.

    Raises:
        HandlerError: A function cannot be a handler; the text says for which type.
        ValueError: A number is out of the range of the setting it stands for.

    Cancellation:
        Cuts the jobs short, and waits until async handlers have unwound and
        processes are killed. A thread cannot be interrupted: it is left behind
        (``thread_still_running`` in the log), and goes on after the block.

    Checkpoints:
        At the end of the block.
    """
    check_numbers(
        workers=workers,
        buffer_size=buffer_size,
        processes=processes,
        keep_completed=keep_completed,
        keep_completed_bytes=keep_completed_bytes,
        max_payload_bytes=max_payload_bytes,
        max_result_bytes=max_result_bytes,
        max_waiters=max_waiters,
    )
    send, receive = trio.open_memory_channel[str](buffer_size)
    core = make_core(
        Handlers.of(handlers),
        send,
        workers=workers,
        processes=processes,
        keep_completed=keep_completed,
        keep_completed_bytes=keep_completed_bytes,
        max_result_bytes=max_result_bytes,
        max_waiters=max_waiters,
    )
    left_by: BaseException | None = None
    alone = False
    generator_ends = GeneratorEnds()
    trio.lowlevel.add_instrument(generator_ends)
    try:
        # The child processes outlive the pool.
        async with core.processes or nullcontext(), trio.open_nursery() as pool:
            for n in range(workers):
                pool.start_soon(_work, core, receive.clone(), name=f"worker-{n}")
            receive.close()  # the workers hold the clones
            left = trio.Event()
            pool.start_soon(_close_when_left_or_cut_short, core, left)
            try:
                yield Jobs(core, max_payload_bytes=max_payload_bytes)
            except BaseException as error:
                left_by = error
                raise
            left.set()
    except BaseExceptionGroup as group:
        # That there is a nursery in here is no business of the block's, unless a worker has
        # crashed. By the leaves, because Trio makes its groups anew on their way out.
        alone = left_by is not None and _leaves(group) <= _leaves(left_by)
        if not alone:
            raise
    finally:
        trio.lowlevel.remove_instrument(generator_ends)
        for event, fields in core.unfinished():
            log.warning(event, extra=fields)
    if alone and left_by is not None:
        raise left_by  # here, where it does not get the group as its context


# If the pool is cut short, the block's own clean-up may wait, for room or for a job: to be told
# only when the block has been left would be never. Both are kept from Ctrl-C, as a worker is.


@trio.lowlevel.enable_ki_protection
async def _close_when_left_or_cut_short(core: Core, left: trio.Event) -> None:
    """Close the submissions as soon as the pool is cancelled, also while its handlers unwind."""
    try:
        await left.wait()
    finally:
        core.submissions.close()  # the only send end: the workers drain and end


@trio.lowlevel.enable_ki_protection
async def _work(core: Core, jobs: trio.MemoryReceiveChannel[str]) -> None:
    """Run a worker; the last one to end tells who waits."""
    try:
        await run_worker(jobs, core.store, core.process)
        check_channel_has_ended(jobs)
    finally:
        if jobs.statistics().open_receive_channels == 0:  # the last one
            core.completions.end()  # who still waits for a job gets it as it is


def _leaves(error: BaseException) -> set[int]:
    """The identities of the exceptions in a group, or of the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        return {leaf for inner in error.exceptions for leaf in _leaves(inner)}
    return {id(error)}
