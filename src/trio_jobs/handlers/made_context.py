"""`make_context`: the context of a job that runs in this process."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.running_job import RunningJob

if TYPE_CHECKING:  # a program whose handlers need no asyncio does not import it
    import asyncio


def make_context(
    running: RunningJob,
    *,
    now: Callable[[], float],
    state: object = None,
    nursery: trio.Nursery | None = None,
    task_group: "asyncio.TaskGroup | None" = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> JobContext[Any]:
    """Make the context of a job.

    Args:
        running: The job.
        now: Trio's clock.
        state: See `JobContext`, as for the others.
        nursery: On Trio only.
        task_group: On asyncio only.
        is_cancelled: In a thread only.
    """
    job, handler = running.job, running.handler
    return JobContext(
        id=job.id,
        type=job.type,
        submitted_at=job.created_at,
        attempt=job.attempt,
        last_attempt=job.attempt >= (1 if handler is None else handler.attempts),
        state=state,
        _nursery=nursery,
        _task_group=task_group,
        _is_cancelled=is_cancelled,
        _report=partial(running.note_report, now),
    )
