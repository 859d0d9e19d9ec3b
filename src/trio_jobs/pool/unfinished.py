"""The jobs that have not completed: which of them have begun, and the log's lines that name them.

`unfinished_lines` names them by type and id, never by payload.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from urllib.parse import quote

from trio_jobs.error_text import readable
from trio_jobs.job import Job
from trio_jobs.pool.store import UnfinishedJobs

# An event and its fields.
Line = tuple[str, Mapping[str, object]]

# Of 37 characters each: a log line keeps 2,000 of a field.
_IDS_PER_LINE = 50

# A `default` handler takes any type that a client chooses: a type of any length would make the log
# cut the line's ids.
_MAX_TYPE = 200

# Clients may choose as many types as there are jobs: a stop has no time for a line for each.
_TYPES_WITH_OWN_LINES = 50

# In a line of many types, for each and for all of them.
_MAX_SHARED_TYPE = 60
_MAX_TYPES_FIELD = 2_000

# Needs no percent-encoding. A match is faster than `quote`, and there may be 100,000 types.
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]{1,60}")


def by_begin(
    jobs: UnfinishedJobs, has_begun: Callable[[str], bool], is_held: Callable[[Job], bool]
) -> UnfinishedJobs:
    """Count claimed jobs that still wait for a thread or a process as not begun; tell held ones."""
    begun: list[Job] = []
    blocked: list[Job] = []
    for job in jobs.begun:
        (begun if has_begun(job.id) else blocked).append(job)
    not_begun = sorted([*blocked, *jobs.not_begun], key=attrgetter("id"))
    held = sorted(filter(is_held, (*not_begun, *jobs.waiting)), key=attrgetter("id"))
    if not blocked and not held:
        return jobs
    ids = {job.id for job in held}
    return UnfinishedJobs(
        begun=begun,
        not_begun=[job for job in not_begun if job.id not in ids],
        waiting=[job for job in jobs.waiting if job.id not in ids],
        held=held,
    )


def unfinished_lines(jobs: UnfinishedJobs) -> Iterator[Line]:
    """Yield lines that name all jobs.

    A line names jobs of one type. Jobs of the types after the first 50 share lines, which have a
    type for each id.
    """
    for event, some in (
        ("jobs_interrupted", jobs.begun),
        ("jobs_not_started", jobs.not_begun),
        ("jobs_waiting", jobs.waiting),
        ("jobs_held", jobs.held),
    ):
        by_type: dict[str, list[str]] = {}
        others: list[Job] = []
        for job in some:
            if job.type in by_type:
                by_type[job.type].append(job.id)
            elif len(by_type) < _TYPES_WITH_OWN_LINES:
                by_type[job.type] = [job.id]
            else:
                others.append(job)
        for job_type, ids in by_type.items():
            shown = readable(job_type, _MAX_TYPE)
            for job_ids in split_into_lines(ids):
                yield event, {"job_type": shown, "job_ids": job_ids}
        for fields in _shared(others):
            yield event, fields


def split_into_lines(job_ids: Iterable[str]) -> Iterator[str]:
    """Yield ids as fields of log lines, each with as many as the log keeps of a field."""
    ids = list(job_ids)
    for start in range(0, len(ids), _IDS_PER_LINE):
        yield ",".join(ids[start : start + _IDS_PER_LINE])


def count_ids(fields: Mapping[str, object]) -> int:
    """Return how many jobs a line names."""
    return str(fields["job_ids"]).count(",") + 1


def _shared(jobs: Iterable[Job]) -> Iterator[Mapping[str, str]]:
    """The fields of lines with a type for each id: as many as fit into a line."""
    types: list[str] = []
    ids: list[str] = []
    size = 0
    for job in jobs:
        shown = job.type
        if not _PLAIN.fullmatch(shown):  # a comma would part it, a blank would need quotes
            shown = quote(readable(shown, _MAX_SHARED_TYPE), safe=":/@+")
        if len(ids) == _IDS_PER_LINE or size + len(shown) > _MAX_TYPES_FIELD:
            yield {"job_types": ",".join(types), "job_ids": ",".join(ids)}
            types, ids, size = [], [], 0
        types.append(shown)
        ids.append(job.id)
        size += len(shown) + 1
    if ids:
        yield {"job_types": ",".join(types), "job_ids": ",".join(ids)}
