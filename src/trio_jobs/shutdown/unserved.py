"""Ends a process that does not serve, or serves no longer, in bounded time."""

import contextlib
import time

from trio_jobs.shutdown.diagnostics import blocks_or_failure, plain, thread_blocks
from trio_jobs.shutdown.hard_limit import HardLimit


def limit_unserved(status: int, *, seconds: float) -> None:
    """End this process with this status if it has not ended by itself after so many seconds.

    Threads or programs that handler modules have started may delay its end. Call it in the main
    thread.
    """
    limit = HardLimit(
        diagnose=lambda: blocks_or_failure(thread_blocks), render=plain, status=status
    )
    with contextlib.suppress(RuntimeError):  # no thread can be started: the timer still kills
        limit.start()
    limit.arm(since=time.monotonic(), seconds=seconds)
