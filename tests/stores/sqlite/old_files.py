"""The files that each version of the schema has written, `version_1.db` and so on: see `jobs_of`.

Later versions must open them, for ever. `python -m tests.stores.sqlite.old_files` makes the file of
the present version: only as long as no release has this version.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from trio_jobs import Ending, Job, JobError, JobStatus, Outcome, Progress
from trio_jobs.job import Extras, IdempotencyKey
from trio_jobs.stores.sqlite.record_writer import RecordWriter
from trio_jobs.stores.sqlite.schema import VERSION
from trio_jobs.stores.sqlite.store_file import open_store_file

_BEGIN: Final = datetime(2026, 11, 29, 8, 0, 0, 123456, tzinfo=UTC)


def _id(number: int) -> str:
    return f"019ac8e0-0000-7000-8000-{number:012x}"


def _at(seconds: float) -> datetime:
    return _BEGIN + timedelta(seconds=seconds)


def _ended(number: int, outcome: Outcome, **more: object) -> tuple[int, Job]:
    result = b'{"sent": true, "to": "\xc3\xbc"}' if outcome is Outcome.SUCCEEDED else None
    error = None if result else JobError(type="OSError", message=f"{outcome}: no route, ü 漢")
    return number, Job(
        id=_id(number),
        type="email",
        payload=b'{"to": "a@example.com"}',
        created_at=_at(number),
        status=JobStatus.COMPLETED,
        started_at=_at(number + 1),
        completed_at=_at(number + 2),
        duration=0.987654,
        ending=Ending(outcome=outcome, result=result, error=error),
        attempts=1,
        **more,  # type: ignore[arg-type]
    )


# What all versions have.
_JOBS: Final = (
    _ended(1, Outcome.SUCCEEDED, key=IdempotencyKey(text="mail-1", digest=bytes(range(32)))),
    _ended(2, Outcome.FAILED, extras=Extras(snoozes=2), rerun_as=_id(9)),
    _ended(3, Outcome.TIMED_OUT),
    _ended(4, Outcome.CANCELLED, cancel_requested=True),
    _ended(5, Outcome.INTERRUPTED, interruptions=3),
    (6, Job(id=_id(6), type="résumé", payload=b"[]", created_at=_at(6))),
    (
        7,
        Job(
            id=_id(7),
            type="webhook",
            payload=b"null",
            created_at=_at(7),
            status=JobStatus.PROCESSING,
            started_at=_at(8),
            attempts=2,
            last_error=JobError(type="TimeoutError", message=""),
            key=IdempotencyKey(text="hook-7", digest=b"7"),
        ),
    ),
    (
        8,
        Job(
            id=_id(8),
            type="webhook",
            payload=b"1" * 10_000,
            created_at=_at(8),
            attempts=1,
            run_at=_at(86_400),
            last_error=JobError(type="TimeoutError", message=""),
        ),
    ),
    (
        9,
        Job(
            id=_id(9),
            type="email",
            payload=b"{}",
            created_at=_at(9),
            interruptions=1,
            cancel_requested=True,
            rerun_of=_id(2),
        ),
    ),
)


# By version, what an older one could not have written.
_SINCE: Final = {
    3: (
        _ended(
            10,
            Outcome.FAILED,
            extras=Extras(
                progress=Progress(done=3, total=7.5, message="Zeile 3 — 漢", at=_at(11)),
                lines=("INFO shop begun", "ERROR shop no route to ü"),
                submitted_by="billing",
                trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
        ),
    ),
}


def jobs_of(version: int) -> tuple[tuple[int, Job], ...]:
    """The jobs in the file of this version."""
    return sum((_SINCE.get(each, ()) for each in range(version + 1)), _JOBS)


def path_of(version: int) -> Path:
    """The file of this version."""
    return Path(__file__).with_name(f"version_{version}.db")


if __name__ == "__main__":
    path = path_of(VERSION)
    path.unlink(missing_ok=True)
    file = open_store_file(path)
    file.connection.execute("DELETE FROM meta")  # a process has it
    RecordWriter(file.connection).write(jobs_of(VERSION))
    file.close()
    path.with_name(path.name + "-lock").unlink()
