"""Waits for the end of a job, as long as the caller wants."""

import math
import time
from typing import Final

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.exit_statuses import UNKNOWN, UNSUCCESSFUL
from trio_jobs.commands.second_tries import Patience, wait_as_asked
from trio_jobs.commands.seen_job import SeenJob, read_job
from trio_jobs.commands.server_calls import Calls, GoneError, RefusedError, retry_after

# Seconds of one request. A connection over which nothing comes for longer may be cut by a proxy.
_LONGEST_WAIT: Final = 30

# Of answers that come at once: as many clients wait already as the server lets wait, or it lets
# none wait.
_NO_WAIT: Final = (None, "wait=0")


def wait_for(calls: Calls, job_id: str, *, seconds: float) -> tuple[SeenJob, bytes]:
    """A job once it has ended, and its JSON.

    It asks again when the server goes away for a while.

    Args:
        calls: The server.
        job_id: The job.
        seconds: How long it may take, rounded up to whole seconds.

    Raises:
        CommandError: The time is over, the server does not know the job, or is gone.
    """
    end = time.monotonic() + seconds
    patience = Patience()
    while True:
        left = max(end - time.monotonic(), 0)
        wait = math.ceil(min(left, _LONGEST_WAIT))
        try:
            answer = calls.ask(
                "GET", f"/jobs/{job_id}", headers={"Prefer": f"wait={wait}"}, wait=wait
            )
        except (GoneError, RefusedError) as error:
            left = end - time.monotonic()
            if not error.passes or left <= 0:
                raise
            patience.pause(error, most=left)
            continue
        patience.note_progress()
        job = read_job(answer.content)
        if job.has_ended:
            return job, answer.content
        left = end - time.monotonic()
        if left <= 0:
            raise CommandError(f"job {job_id} has not ended in time", UNKNOWN)
        if answer.headers.get("preference-applied") in _NO_WAIT:
            wait_as_asked(min(retry_after(answer) or 1, left))


def check_success(job: SeenJob) -> None:
    """Check that an ended job has succeeded.

    Raises:
        CommandError: It has not; the text says why.
    """
    if not job.has_succeeded:
        outcome = (job.outcome or "unknown").replace("_", " ")
        raise CommandError(f"job {job.id} {outcome}: {job.error}", UNSUCCESSFUL)
