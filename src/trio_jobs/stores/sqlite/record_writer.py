"""`RecordWriter`: writes records of jobs into the file, those of one call in one transaction."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from trio_jobs.job import Job, Outcome
from trio_jobs.stores.sqlite.retention import Retention, delete
from trio_jobs.stores.sqlite.statements import Rows

# A job's position in the order of admission, and what the job is now; None: it is forgotten.
Record = tuple[int, Job | None]

# The name of a text in the file, and the text.
Mark = tuple[str, str]

# Pages of the WAL after which its content is copied into the file, as SQLite does by default.
_CHECKPOINT_PAGES: Final = 1_000
_PAGE: Final = 4_096

# How many jobs a transaction drops beyond those that it ends; and one that has no records.
_DROPS: Final = 200
_IDLE_DROPS: Final = 1_000

_MARK: Final = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


class RecordWriter:
    """Writes records; each call blocks until they are on the disk.

    The first record of a job has a seq that is greater than those of all jobs before it.

    Args:
        connection: The one connection that writes.
        retention: Drops jobs within the transactions; None: the file keeps all.
    """

    def __init__(self, connection: sqlite3.Connection, retention: Retention | None = None) -> None:
        self._connection = connection
        self._retention = retention
        (self._last_seq,) = connection.execute("SELECT ifnull(max(seq), 0) FROM jobs").fetchone()
        self._writes = 0
        self._pages = 0.0  # an estimate of those in the WAL

    @property
    def seconds_to_next_drop(self) -> float | None:
        """After which time `write` may drop jobs; None: not before another job ends."""
        return None if self._retention is None else self._retention.seconds_to_next

    def write(
        self,
        records: Sequence[Record],
        marks: Sequence[Mark] = (),
        *,
        flushes: Callable[[], None] | None = None,
    ) -> dict[Outcome, int]:
        """Write the last record of each job, in one transaction, and drop jobs beyond the bounds.

        Args:
            records: The records.
            marks: Texts that are written, too; the last one of each name stays.
            flushes: Called when all that is left is to write to the disk, and to sync it.

        Returns:
            How many jobs were dropped, by outcome.

        Raises:
            sqlite3.Error: Nothing of it is in the file. After a failed sync this is not known.
        """
        connection = self._connection
        if connection.in_transaction:  # a failed one's, whose rollback has failed too
            connection.execute("ROLLBACK")
        retention = self._retention
        last = dict(records)
        # A job that is forgotten stays so, also if the mark of a re-run comes behind.
        last |= {seq: None for seq, job in records if job is None}
        connection.execute("BEGIN IMMEDIATE")
        try:
            if retention is not None:
                retention.begin()
            self._write(last)
            if marks:
                connection.executemany(_MARK, marks)
            if not last:  # so that the disk is asked whether it takes something
                connection.execute(_MARK, ("written", self._writes))
            if retention is not None:
                # As many as have ended, and a few more; if nothing else is to do, many.
                retention.drop(connection, len(last) + _DROPS if last else _IDLE_DROPS)
            if flushes is not None:
                flushes()
            connection.execute("COMMIT")
        except BaseException:
            # After some errors SQLite has rolled back by itself. No second error hides the first.
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise
        self._writes += 1
        self._last_seq = max(self._last_seq, *last) if last else self._last_seq
        return {} if retention is None else retention.commit()

    def checkpoint(
        self, *, pages: int = _CHECKPOINT_PAGES, begins: Callable[[], None] | None = None
    ) -> None:
        """Copy the WAL's content into the file, if the WAL has about this number of pages.

        Then SQLite uses the room of the WAL again. Before it copies, ``begins`` is called.

        Raises:
            sqlite3.Error: The content is in the WAL still, and nothing is lost. After a failed
                sync this is not known.
        """
        if self._pages >= pages:
            self._pages = 0.0
            if begins is not None:
                begins()
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Note that all is written, and close the connection."""
        if self._retention is not None:
            kept = msgspec.json.encode(self._retention.kept).decode()
            self._connection.execute(_MARK, ("kept", kept))
        self._connection.execute(_MARK, ("clean", 1))
        self._connection.close()

    def _write(self, last: dict[int, Job | None]) -> None:
        retention, rows = self._retention, Rows()
        forgotten = []
        for seq, job in last.items():
            if job is None:
                forgotten.append(seq)
                continue
            ending = job.ending
            size = 0 if ending is None else job.size
            is_new = seq > self._last_seq
            if is_new:
                rows.add(seq, job, size)
            else:
                rows.move(seq, job, size)
            if retention is None or ending is None:
                continue
            # A completed job that moves again is marked as re-run.
            if is_new or job.rerun_as is None:
                retention.add(ending.outcome, size)
        rows.write(self._connection)
        if forgotten and retention is not None:
            retention.forget(self._connection, forgotten)
        elif forgotten:
            delete(self._connection, forgotten)
        # Per commit, the pages at the ends of the tables and indexes; then those of the rows.
        self._pages += 10 + len(last) / 8 + rows.bytes / _PAGE
