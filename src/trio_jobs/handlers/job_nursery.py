"""Calling an async handler that takes a context: within a nursery that is the job's own."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from trio_jobs.handlers.abandoned import abandon_nurseries
from trio_jobs.handlers.job_context import JobContext
from trio_jobs.job import Job


async def call_with_context(
    call: Callable[[Any, JobContext], Awaitable[object]], payload: object, job: Job
) -> object:
    """Call an async handler with the job's context, and wait for what it has started.

    Returns:
        What the handler returned, when everything in its nursery has ended.

    Raises:
        RuntimeError: The handler cancelled its own nursery, which has ended it.
        BaseException: What the handler or a child raised, as it is; a group if
            it was more than one.

    Checkpoints:
        At least once.
    """
    returned = False
    failure = None
    try:
        async with trio.open_nursery() as nursery:
            context = JobContext(
                id=job.id, type=job.type, submitted_at=job.created_at, nursery=nursery
            )
            try:
                result = await call(payload, context)
            finally:
                abandon_nurseries(above=nursery)  # Trio wants this one to be the innermost
            returned = True
    except BaseExceptionGroup as group:
        # The group is the nursery's doing. One member alone says more without it.
        if len(group.exceptions) > 1:
            raise
        failure = group.exceptions[0]
    if failure is not None:
        raise failure  # here, where it does not get the group as its context
    if not returned:
        raise RuntimeError("the handler was ended by cancelling its own nursery")
    return result
