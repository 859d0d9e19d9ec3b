"""`Prefer: wait=N` (RFC 7240): an answer that is held until the job has completed."""

import re

import trio
from quart import request

from trio_jobs.api.context import ApiContext
from trio_jobs.api.quart_adapter import wait_client_left
from trio_jobs.job import Job, JobStatus
from trio_jobs.pool.waiters import TooManyWaitersError

# The preferences of one header; a comma inside quotes parts nothing.
_PREFERENCE = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
# More digits make no difference: the wait is capped.
_MAX_DIGITS = 9


async def wait_if_preferred(job: Job, context: ApiContext) -> tuple[Job, dict[str, str]]:
    """Wait for the job's completion, if the current request asks for that.

    The wait ends also when its time is up, when the pool ends, and when the
    client leaves (one that has only shut down its sending side gets the job
    as it then is).

    Args:
        job: As it is now: no checkpoint since it was looked up.
        context: The context of the route.

    Returns:
        The job, completed or as it then is; and the headers that say that the
        preference was applied: none if there is no preference, or too many
        clients wait already.

    Cancellation:
        Leaves nothing behind.
    """
    wanted = preferred_wait(request.headers.getlist("Prefer"))
    if wanted is None:
        return job, {}
    seconds = int(min(wanted, context.http.max_wait_seconds))
    applied = {"Preference-Applied": f"wait={seconds}"}
    if job.status is JobStatus.COMPLETED or seconds == 0:
        return job, applied
    try:
        with context.pool.waiters.subscribe(job.id) as completion:
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def leave() -> None:
                        await wait_client_left()
                        nursery.cancel_scope.cancel()

                    await completion.wait()
                    nursery.cancel_scope.cancel()
            # A job that has not completed is still there; one that has may not be.
            return completion.job or context.pool.store.get(job.id), applied
    except TooManyWaitersError:
        return job, {}


def preferred_wait(headers: list[str]) -> int | None:
    """The seconds of the first ``wait`` among the preferences; None without a good one."""
    for header in headers:
        for preference in _PREFERENCE.findall(header):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "wait":
                digits = value.strip().strip('"')
                if not (digits.isascii() and digits.isdigit()):
                    return None
                return int(digits[:_MAX_DIGITS])
    return None
