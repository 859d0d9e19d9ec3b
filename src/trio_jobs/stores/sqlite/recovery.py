"""`recover`: what a start does with the jobs that the last process has left, before any worker.

Jobs that were processing are interrupted. In one transaction each is put back, or ends as
interrupted: where its handler is not repeatable, or where it was interrupted too often. Then all
unfinished jobs are read: a process that dies meanwhile has repeated nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec
from msgspec.structs import replace

from trio_jobs.job import Ending, Job, JobError, JobStatus, Outcome
from trio_jobs.stores.sqlite.record_writer import RecordWriter
from trio_jobs.stores.sqlite.retention import Kept, count_kept
from trio_jobs.stores.sqlite.rows import SELECT_WHOLE, whole_job
from trio_jobs.stores.sqlite.store_file import StoreFile

# Both repeat the condition of the index `jobs_live`, or SQLite would read all jobs.
_INTERRUPTED: Final = (
    f"{SELECT_WHOLE} WHERE status < 2 AND (status = 1 OR interruptions > 0) ORDER BY seq"
)
_UNFINISHED: Final = f"{SELECT_WHOLE} WHERE status < 2 ORDER BY seq"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryRule:
    """What a handler says about its jobs.

    Attributes:
        repeatable: Whether a job that was interrupted may run again.
        max_interruptions: After how many interruptions a job ends.
    """

    repeatable: bool = True
    max_interruptions: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What the file holds at a start.

    Attributes:
        pending: The unfinished jobs without interruptions, each with its seq, in the order of
            admission; those that wait for a time are among them.
        suspects: The same for those with interruptions.
        returned: The ids of the jobs that this recovery has put back.
        ended: The jobs that this recovery has ended as interrupted.
        last_seq: The greatest seq; 0 if there is none.
        last_id: The greatest id; empty if there is none.
        kept: How many completed jobs there are.
        paused: The types that were paused.
    """

    pending: list[tuple[int, Job]]
    suspects: list[tuple[int, Job]]
    returned: list[str]
    ended: list[Job]
    last_seq: int
    last_id: str
    kept: Kept
    paused: Sequence[str] = ()


def recover(
    file: StoreFile, rule_of: Callable[[str], RecoveryRule | None], *, now: datetime
) -> Recovered:
    """Put back or end the jobs that the last process has left, and read the unfinished ones.

    Blocks: call it in a thread, or before the event loop runs.

    Args:
        file: The file, which no journal writes yet.
        rule_of: Called with a job's type; None: there is no handler now. Such a job is put back,
            and a later start that has a rule for it decides.
        now: When the jobs end that end.

    Raises:
        sqlite3.Error: The file cannot be read or written; no job in it has changed.
    """
    connection = file.connection
    stored = connection.execute("SELECT value FROM meta WHERE name = 'kept'").fetchone()
    connection.execute("DELETE FROM meta WHERE name IN ('clean', 'kept')")
    moved: list[tuple[int, Job]] = []
    returned: list[str] = []
    ended: list[Job] = []
    for row in connection.execute(_INTERRUPTED).fetchall():
        seq, job = whole_job(row)
        found = _interrupted(job, rule_of(job.type), now)
        if found is not job:
            moved.append((seq, found))
        if found.ending is not None:
            ended.append(found)
        elif found is not job:
            returned.append(found.id)
    if moved:
        RecordWriter(connection).write(moved)
    if file.clean and stored is not None:
        kept = msgspec.json.decode(stored[0], type=Kept)
        for job in ended:
            kept = kept.changed(Outcome.INTERRUPTED.value, job.size, 1)
    else:
        kept = count_kept(connection)
    paused = connection.execute("SELECT value FROM meta WHERE name = 'paused'").fetchone()
    unfinished = [whole_job(row) for row in connection.execute(_UNFINISHED)]
    last_seq, last_id = connection.execute(
        "SELECT ifnull((SELECT max(seq) FROM jobs), 0), ifnull((SELECT max(id) FROM jobs), '')"
    ).fetchone()
    return Recovered(
        pending=[each for each in unfinished if not each[1].interruptions],
        suspects=[each for each in unfinished if each[1].interruptions],
        returned=returned,
        ended=ended,
        last_seq=last_seq,
        last_id=last_id,
        kept=kept,
        paused=() if paused is None else msgspec.json.decode(paused[0], type=list[str]),
    )


def _interrupted(job: Job, rule: RecoveryRule | None, now: datetime) -> Job:
    """The job as it is now that its process has died, or one before."""
    died = job.status is JobStatus.PROCESSING
    interruptions = job.interruptions + died
    if rule is not None and not rule.repeatable:
        reason = "the server's process ended while the job ran, and its handler is not repeatable"
    elif rule is not None and interruptions >= rule.max_interruptions:
        reason = f"the server's process ended {interruptions} times while the job ran"
    elif died:
        return replace(job, status=JobStatus.PENDING, started_at=None, interruptions=interruptions)
    else:
        return job
    return replace(
        job,
        status=JobStatus.COMPLETED,
        completed_at=max(now, job.started_at or job.created_at),
        ending=Ending(
            outcome=Outcome.INTERRUPTED, error=JobError(type="Interrupted", message=reason)
        ),
        interruptions=interruptions,
        run_at=None,
        last_error=None,
    )
