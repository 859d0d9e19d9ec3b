"""Store files of tests: opened, written and read again."""

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import trio

from trio_jobs import Job
from trio_jobs.stores.sqlite.journal import Journal
from trio_jobs.stores.sqlite.record_writer import Record, RecordWriter
from trio_jobs.stores.sqlite.rows import SELECT_WHOLE, whole_job
from trio_jobs.stores.sqlite.store_file import StoreFile, open_store_file


@contextmanager
def opened(path: Path) -> Iterator[StoreFile]:
    """The file, open; afterwards others can open it."""
    file = open_store_file(path)
    try:
        yield file
    finally:
        file.close()


def write(path: Path, *commits: Sequence[Record]) -> None:
    """Write each of these in a transaction of its own, and end as after a kill."""
    with opened(path) as file:
        file.connection.execute("DELETE FROM meta")
        writer = RecordWriter(file.connection)
        for records in commits:
            writer.write(records)


def read(path: Path) -> list[tuple[int, Job]]:
    """All jobs of a file that a server may have open."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = connection.execute(f"{SELECT_WHOLE} ORDER BY seq").fetchall()
    finally:
        connection.close()
    return [whole_job(row) for row in rows]


@contextmanager
def locked_elsewhere(file: StoreFile) -> Iterator[None]:
    """Within the block another program has the file's write lock."""
    with closing(sqlite3.connect(file.path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        yield


def no_rule(job_type: str) -> None:
    """There is no handler."""


class Calls:
    """What a journal has called: the names of what landed or was refused, in order."""

    def __init__(self) -> None:
        self.landed: list[str] = []
        self.refused: dict[str, Exception] = {}
        self.failed: list[Exception] = []

    def append(self, journal: Journal, name: str, records: Sequence[Record]) -> None:
        """Hand over moves."""
        journal.append(records, landed=lambda: self.landed.append(name))

    def submit(self, journal: Journal, name: str, records: Sequence[Record]) -> None:
        """Hand over a submission."""

        def refused(error: Exception) -> None:
            self.refused[name] = error

        journal.append(records, landed=lambda: self.landed.append(name), refused=refused)


@asynccontextmanager
async def journal_of(file: StoreFile, calls: Calls) -> AsyncIterator[Journal]:
    """A journal that runs, and is closed at the end."""
    journal = Journal(file, failed=calls.failed.append)
    journal.start()
    with trio.fail_after(60):
        yield journal
        await journal.close(10)
