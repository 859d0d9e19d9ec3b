"""The end of a process that does not serve, or not any more: in bounded time."""

import contextlib
import time

from trio_jobs.shutdown.diagnostics import blocks_or_failure, plain, thread_blocks
from trio_jobs.shutdown.hard_limit import HardLimit


def limit_unserved(status: int, *, seconds: float) -> None:
    """Have a process that does not serve end with this status, in so many seconds at the most.

    Threads or programs that handler modules have started may delay the end. In the main thread.
    """
    limit = HardLimit(
        diagnose=lambda: blocks_or_failure(thread_blocks), render=plain, status=status
    )
    with contextlib.suppress(RuntimeError):  # no thread can be started: the timer still kills
        limit.start()
    limit.arm(since=time.monotonic(), seconds=seconds)
