"""The executor's line in the log about what a handler has raised: `handler_raised`."""

import contextlib
import logging

from trio_jobs.error_text import Failure
from trio_jobs.job import Ending, Job, Later, Outcome

log = logging.getLogger("trio_jobs.handlers.executor")


def log_raised(
    failure: Failure, job: Job, end: Ending | Later, error: BaseException | None = None
) -> None:
    """Log the traceback, which was made where the handler raised.

    A `Retry` or a `Snooze` is no failure, unless the job fails with it.

    Args:
        failure: The description of the handler's exception.
        job: The handler's job.
        end: What has come of it.
        error: The exception itself if the handler ran in the event loop: log handlers of other
            programs may want more than the exception's text.
    """
    if not log.isEnabledFor(logging.WARNING) or not failure.traceback:
        return
    has_failed = isinstance(end, Ending) and end.outcome is Outcome.FAILED
    if not has_failed and all(each.wish is not None for each in failure.causes):
        return
    fields = {"job_id": job.id, "job_type": job.type}
    if failure.advice:
        fields["advice"] = failure.advice
    record = log.makeRecord(
        log.name, logging.WARNING, __file__, 0, "handler_raised", (), None, extra=fields
    )
    record.exc_text = failure.traceback  # formatters use this text instead of making one
    if error is not None:
        # The error's own code may raise anything: here, and in a log handler of another program.
        with contextlib.suppress(BaseException):
            record.exc_info = (type(error), error, error.__traceback__)
            log.handle(record)
            return
        record.exc_info = None
    with contextlib.suppress(BaseException):  # the log must not change the job's end
        log.handle(record)
