"""How the log names the jobs that have not completed: their types and ids, never a payload."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from trio_jobs.handlers.errors import readable
from trio_jobs.store import UnfinishedJobs

# Ids a line, 37 characters each: a log line keeps 2,000 of a field.
_IDS_PER_LINE = 50

# Characters. A client chooses a type where a `default` handler takes it; one of any length would
# have the line cut, and its ids with it.
_MAX_TYPE = 200


def unfinished_lines(jobs: UnfinishedJobs) -> Iterator[tuple[str, Mapping[str, object]]]:
    """An event and its fields for each line: one type's ids, as many as it takes."""
    for event, some in (("jobs_interrupted", jobs.begun), ("jobs_not_started", jobs.not_begun)):
        by_type: defaultdict[str, list[str]] = defaultdict(list)
        for job in some:
            by_type[job.type].append(job.id)
        for job_type, ids in by_type.items():
            shown = readable(job_type, _MAX_TYPE)
            for start in range(0, len(ids), _IDS_PER_LINE):
                job_ids = ",".join(ids[start : start + _IDS_PER_LINE])
                yield event, {"job_type": shown, "job_ids": job_ids}
