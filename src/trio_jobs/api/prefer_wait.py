"""`Prefer: wait=N` (RFC 7240): the answer waits until the job has completed."""

import re

import trio
from quart import request

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.body_stream import cancel_on_disconnect
from trio_jobs.api.quart_adapter import current_request
from trio_jobs.job import Job, JobStatus
from trio_jobs.pool.waiters import TooManyWaitersError

# Matches each preference in a header. A comma separates two, but not inside quotes.
_PREFERENCE = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
# The wait is capped, so further digits change nothing.
_MAX_DIGITS = 9


async def find_after_wait(job_id: str, context: ApiContext) -> tuple[Job, dict[str, str]]:
    """Look a job up, and wait for its completion if the current request asks for that.

    The wait also ends when its time is up, when the pool ends, and when the
    client disconnects. A client that has only shut down its sending side gets
    the job as it is at that moment.

    Args:
        job_id: The job.
        context: The context of the route.

    Returns:
        The job at the end of the wait, and the headers that confirm the
        preference: none without a preference, or with too many waiters.

    Raises:
        JobNotFoundError: There is no such job.
        Problem: The rest of the body breaks a limit of the server.

    Cancellation:
        Leaves nothing behind.
    """
    wanted = preferred_wait(request.headers.getlist("Prefer"))
    # No checkpoint from here to the subscription: the job could complete meanwhile, and then
    # nothing would end the wait before its time is up. `find` makes none after it has seen that
    # the job is unfinished.
    job = await context.pool.store.find(job_id)
    if wanted is None:
        return job, {}
    seconds = int(min(wanted, context.http.max_wait_seconds))
    applied = {"Preference-Applied": f"wait={seconds}"}
    if job.status is JobStatus.COMPLETED or seconds == 0:
        return job, applied
    try:
        with context.pool.waiters.subscribe(job_id) as completion:
            with trio.move_on_after(seconds):
                async with cancel_on_disconnect(current_request().wait_disconnected):
                    await completion.wait()
            # Ask the completion first: the store may have dropped the job once it had completed.
            return completion.job or await context.pool.store.find(job_id), applied
    except TooManyWaitersError:
        return job, {}


def preferred_wait(headers: list[str]) -> int | None:
    """The seconds of the first ``wait`` preference; None if it is missing or invalid."""
    for header in headers:
        for preference in _PREFERENCE.findall(header):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "wait":
                digits = value.strip().strip('"')
                if not (digits.isascii() and digits.isdigit()):
                    return None
                return int(digits[:_MAX_DIGITS])
    return None
