"""Look-ups and pages of a file, beside the journal that writes it."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from tests.stores.sqlite.files import Calls, journal_of, opened
from tests.support import NOON, SUCCEEDED, make_job
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome
from trio_jobs.job import IdempotencyKey
from trio_jobs.stores.sqlite.reads import FileReader
from trio_jobs.stores.sqlite.record_writer import RecordWriter
from trio_jobs.stores.sqlite.store_file import StoreFile, connect


def ended(job_id: str, outcome: Outcome, *, key: str | None = None) -> Job:
    ending = SUCCEEDED
    if outcome is not Outcome.SUCCEEDED:
        ending = Ending(outcome=outcome, error=JobError(type="E", message="m"))
    return replace(
        make_job(job_id, payload=b"[1]"),
        status=JobStatus.COMPLETED,
        completed_at=NOON,
        ending=ending,
        key=None if key is None else IdempotencyKey(text=key, digest=b""),
    )


JOBS = [
    (1, ended("a", Outcome.SUCCEEDED, key="ka")),
    (2, ended("b", Outcome.FAILED)),
    (4, make_job("d")),
    (5, ended("e", Outcome.INTERRUPTED, key="ke")),
    (6, ended("f", Outcome.SUCCEEDED)),
    (7, ended("g", Outcome.FAILED)),
]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StoreFile]:
    with opened(tmp_path / "jobs.db") as file:
        RecordWriter(file.connection).write(JOBS)
        yield file


@pytest.fixture
def reader(file: StoreFile) -> Iterator[FileReader]:
    reader = FileReader(file)
    yield reader
    reader.close()


async def test_jobs_are_found_as_they_are(reader: FileReader) -> None:
    assert await reader.find_many(["e"]) == [JOBS[3]]
    assert await reader.find_many(["c"]) == await reader.find_many([]) == []
    many = [f"{n}" for n in range(2000)]
    assert sorted(await reader.find_many(["g", *many, "a", "d"])) == [JOBS[0], JOBS[2], JOBS[5]]


async def test_jobs_are_found_by_their_keys(reader: FileReader) -> None:
    texts = ["ke", "nobody's", "ka", *(f"k{n}" for n in range(2000))]

    assert {job.id for job in await reader.find_keys(texts)} == {"a", "e"}
    assert await reader.find_keys([]) == []


@pytest.mark.parametrize(
    ("after", "limit", "outcomes", "expected"),
    [
        (None, 10, (), "abdefg"),
        (None, 2, (), "ab"),
        ("b", 2, (), "de"),
        ("c", 2, (), "de"),
        ("g", 2, (), ""),
        (None, 10, (Outcome.FAILED,), "bg"),
        ("b", 10, (Outcome.FAILED, Outcome.INTERRUPTED), "eg"),
        (None, 2, (Outcome.SUCCEEDED, Outcome.FAILED), "ab"),
        (None, 10, (Outcome.CANCELLED,), ""),
    ],
)
async def test_page(
    after: str | None,
    limit: int,
    outcomes: tuple[Outcome, ...],
    expected: str,
    reader: FileReader,
) -> None:
    page = await reader.page(after=after, limit=limit, outcomes=outcomes)

    assert "".join(job.id for job in page) == expected


async def test_page_has_neither_payloads_nor_results(reader: FileReader) -> None:
    (job,) = await reader.page(after=None, limit=1)

    assert job.payload == b"null"
    assert job.ending == Ending(outcome=Outcome.SUCCEEDED)


async def test_what_has_landed_is_found(tmp_path: Path) -> None:
    found: list[object] = []
    with opened(tmp_path / "jobs.db") as file:
        reader = FileReader(file)
        async with journal_of(file, Calls()) as journal:
            for seq in range(1, 50):
                journal.append([(seq, make_job(f"{seq:03}"))], landed=lambda: None)
                await journal.settled()
                found.extend(await reader.find_many([f"{seq:03}"]))
        reader.close()

    assert found == [(seq, make_job(f"{seq:03}")) for seq in range(1, 50)]


async def test_no_sql_runs_in_the_thread_of_the_event_loop(file: StoreFile) -> None:
    threads: set[int] = set()

    def connect_traced(name: str) -> sqlite3.Connection:
        connection = connect(name)
        connection.set_trace_callback(lambda _: threads.add(threading.get_ident()))
        return connection

    reader = FileReader(file, connect=connect_traced)
    await reader.find_many(["a"])
    await reader.find_keys(["ka"])
    await reader.page(after=None, limit=5)
    reader.close()

    assert threads
    assert threading.get_ident() not in threads


async def test_cancel_does_not_wait_for_a_disk_that_hangs(file: StoreFile) -> None:
    go, closed = threading.Event(), threading.Event()

    class Slow(sqlite3.Connection):
        def close(self) -> None:
            super().close()
            closed.set()

    def connect_slow(name: str) -> sqlite3.Connection:
        connection = sqlite3.connect(name, uri=True, check_same_thread=False, factory=Slow)
        connection.set_trace_callback(lambda _: go.wait(60))
        return connection

    reader = FileReader(file, connect=connect_slow)
    with trio.move_on_after(0.01) as scope:
        await reader.find_many(["a"])
    reader.close()
    go.set()

    assert scope.cancelled_caught
    with trio.fail_after(60):
        assert await trio.to_thread.run_sync(closed.wait)


async def test_many_reads_share_four_connections(file: StoreFile) -> None:
    opened_connections: list[str] = []

    def connect_counted(name: str) -> sqlite3.Connection:
        opened_connections.append(name)
        return connect(name)

    reader = FileReader(file, connect=connect_counted)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(reader.find_many, ["a"])
    reader.close()

    assert 1 <= len(opened_connections) <= 4


async def test_readers_cannot_write(file: StoreFile) -> None:
    reader = FileReader(file)

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM jobs")

    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await reader._read(write)


@pytest.mark.parametrize(
    ("where", "index"),
    [
        ("id > ''", "sqlite_autoindex_jobs_1"),
        ("id > '' AND status = 2 AND outcome IN (?) AND outcome <> 'succeeded'", "jobs_dead_ids"),
    ],
)
def test_pages_come_from_an_index(where: str, index: str, file: StoreFile) -> None:
    query = f"EXPLAIN QUERY PLAN SELECT * FROM jobs WHERE {where} ORDER BY id LIMIT 5"  # noqa: S608
    (row,) = file.connection.execute(query, ("failed",) * where.count("?")).fetchall()

    assert f"USING INDEX {index}" in row[-1]
