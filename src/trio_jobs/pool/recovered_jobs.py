"""Lets the jobs that an earlier process has left in the file wait for their turn."""

import logging
from collections import Counter
from collections.abc import Iterable

from trio_jobs.error_text import readable
from trio_jobs.handlers.registry import HandlerRegistry, UnknownTypeError
from trio_jobs.job import Job
from trio_jobs.pool.schedule import Schedule

log = logging.getLogger(__name__)

_MAX_TYPE = 200  # characters, in a line of the log


def schedule_recovered(jobs: Iterable[Job], schedule: Schedule, handlers: HandlerRegistry) -> None:
    """Put pending jobs, which are in no channel, into the schedule.

    They are due now, in the order of admission, or at their times; so they wait for slots in turn
    with all others, however many they are. A job without a handler is never due. The log names its
    type; the job stays in the file, for a process that has a handler. Only the jobs that wait for a
    time count against the room of new ones.
    """
    unknown: Counter[str] = Counter()
    for job in jobs:
        try:
            handlers.find(job.type)
        except UnknownTypeError:
            unknown[job.type] += 1
            schedule.keep(job.id)
            continue
        schedule.add_recovered(job.id, job.run_at)
    for type_, count in unknown.items():
        fields = {"job_type": readable(type_, _MAX_TYPE), "count": count}
        log.warning("job_type_unknown", extra=fields)
