"""How the log names the jobs that have not completed: their types and ids, never a payload."""

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

from trio_jobs.error_text import readable
from trio_jobs.job import Job
from trio_jobs.pool.store import UnfinishedJobs

# Ids a line, 37 characters each: a log line keeps 2,000 of a field.
_IDS_PER_LINE = 50

# Characters. A client chooses a type where a `default` handler takes it; one of any length would
# have the line cut, and its ids with it.
_MAX_TYPE = 200

# A client may also choose as many types as there are jobs: a line for each would be too many to
# write in the time that a stop has.
_TYPES_WITH_LINES_OF_THEIR_OWN = 50

# Shorter there, for many to fit into the field, whose limit is the second.
_MAX_TYPE_AMONG_OTHERS = 60
_MAX_TYPES_FIELD = 2_000

# What stays as it is, told faster than by encoding it: there may be a hundred thousand.
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]{1,60}")


def unfinished_lines(jobs: UnfinishedJobs) -> Iterator[tuple[str, Mapping[str, object]]]:
    """An event and its fields for each line: one type's ids, as many as it takes.

    Jobs of types beyond the first 50 share lines, which have a type for each id.
    """
    for event, some in (("jobs_interrupted", jobs.begun), ("jobs_not_started", jobs.not_begun)):
        by_type: dict[str, list[str]] = {}
        others: list[Job] = []
        for job in some:
            ids = by_type.get(job.type)
            if ids is not None:
                ids.append(job.id)
            elif len(by_type) < _TYPES_WITH_LINES_OF_THEIR_OWN:
                by_type[job.type] = [job.id]
            else:
                others.append(job)
        for job_type, ids in by_type.items():
            shown = readable(job_type, _MAX_TYPE)
            for start in range(0, len(ids), _IDS_PER_LINE):
                job_ids = ",".join(ids[start : start + _IDS_PER_LINE])
                yield event, {"job_type": shown, "job_ids": job_ids}
        for types, ids in _shared(others):
            yield event, {"job_types": ",".join(types), "job_ids": ",".join(ids)}


def count_ids(fields: Mapping[str, object]) -> int:
    """How many jobs such a line names."""
    return str(fields["job_ids"]).count(",") + 1


def _shared(jobs: Iterable[Job]) -> Iterator[tuple[list[str], list[str]]]:
    """Types, percent-encoded, and ids: as many as a line keeps."""
    types: list[str] = []
    ids: list[str] = []
    size = 0
    for job in jobs:
        shown = job.type
        if not _PLAIN.fullmatch(shown):
            # Without a comma, which stands between them, and a blank, which would need quotes.
            shown = quote(readable(shown, _MAX_TYPE_AMONG_OTHERS), safe=":/@+")
        if len(ids) == _IDS_PER_LINE or size + len(shown) > _MAX_TYPES_FIELD:
            yield types, ids
            types, ids, size = [], [], 0
        types.append(shown)
        ids.append(job.id)
        size += len(shown) + 1
    if ids:
        yield types, ids
