"""How large the file gets: so many bytes a job, and no more than the bounds of the history ask."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support import NOON, make_job
from trio_jobs import Ending, JobStatus, Outcome
from trio_jobs.pool.ids import Uuid7
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.sqlite.record_writer import Record, RecordWriter
from trio_jobs.stores.sqlite.retention import Kept, Retention
from trio_jobs.stores.sqlite.store_file import StoreFile, open_store_file

# As `docs/how-to/keep-jobs.md` says, and a tenth more.
BYTES_A_JOB = 220 * 1.1
PAGE = 4_096


@contextmanager
def quick(path: Path) -> Iterator[StoreFile]:
    """A file whose commits do not wait for the disk."""
    file = open_store_file(path, sync="normal")
    try:
        yield file
    finally:
        file.close()


def lives(first: int, last: int, *, size: int) -> Iterator[list[Record]]:
    """The commits of jobs that are submitted, begin and succeed, ten at a time."""
    new_id = Uuid7()
    payload = b'"%s"' % (b"x" * (size - 2))
    ending = Ending(outcome=Outcome.SUCCEEDED, result=payload)
    for start in range(first + 1, last + 1, 10):
        commits: list[list[Record]] = [[], [], []]
        for seq in range(start, start + 10):
            at = NOON + timedelta(seconds=seq)
            job = replace(make_job(new_id(), type="webhook", payload=payload), created_at=at)
            commits[0].append((seq, job))
            job = replace(job, status=JobStatus.PROCESSING, started_at=at, attempts=1)
            commits[1].append((seq, job))
            job = replace(job, status=JobStatus.COMPLETED, completed_at=at, ending=ending)
            commits[2].append((seq, replace(job, duration=0.5)))
        yield from commits


def size_of(file: StoreFile) -> int:
    file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file.path.stat().st_size


@pytest.mark.parametrize("size", [2, 100, 1000])
def test_completed_job_takes_some_220_bytes_beside_payload_and_result(
    tmp_path: Path, size: int
) -> None:
    with quick(tmp_path / "jobs.db") as file:
        writer = RecordWriter(file.connection)
        empty = size_of(file)
        for records in lives(0, 2000, size=size):
            writer.write(records)
        grown = size_of(file) - empty

    assert 100 < grown / 2000 - 2 * size < BYTES_A_JOB


def test_file_stays_as_it_is_once_the_bounds_are_reached(tmp_path: Path) -> None:
    sizes = []
    with quick(tmp_path / "jobs.db") as file:
        bounds = StoreSettings(keep_completed=200)
        retention = Retention(bounds, kept=Kept(), now=lambda: NOON, keep_for=None)
        writer = RecordWriter(file.connection, retention)
        for part in range(5):
            for records in lives(part * 500, part * 500 + 500, size=100):
                writer.write(records)
                writer.checkpoint()
            sizes.append(size_of(file))

    # What the rows of a commit, and those that it drops, add and leave in one part or another.
    assert max(sizes[1:]) <= sizes[0] + 10 * PAGE
