"""`RecordWriter`: writes records of jobs into the file, those of one call in one transaction."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from trio_jobs.job import Job
from trio_jobs.stores.sqlite.rows import INSERT, UPDATE, moved_row, new_row

# A job's place in the order of admission, and what the job is now; None: it is forgotten.
Record = tuple[int, Job | None]

# Pages of the WAL after which its content is copied into the file, as SQLite does by default.
_CHECKPOINT_PAGES: Final = 1_000
_PAGE: Final = 4_096


class RecordWriter:
    """Writes records; each call blocks until they are on the disk.

    The first record of a job has a seq that is greater than those of all jobs before it.

    Args:
        connection: The one connection that writes.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        (self._last_seq,) = connection.execute("SELECT ifnull(max(seq), 0) FROM jobs").fetchone()
        self._pages = 0.0  # an estimate of those in the WAL

    def write(self, records: Sequence[Record]) -> None:
        """Write the last record of each job, in one transaction.

        Raises:
            sqlite3.Error: Nothing of it is in the file. After a failed sync this is not known.
        """
        connection = self._connection
        if connection.in_transaction:  # a failed commit's, whose rollback has failed too
            connection.execute("ROLLBACK")
        last = dict(records)
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._write(last)
            connection.execute("COMMIT")
        except BaseException:
            # SQLite rolls back by itself after some errors; another ROLLBACK would hide them.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._last_seq = max(self._last_seq, *last) if last else self._last_seq

    def checkpoint(self) -> None:
        """Copy the WAL's content into the file, if there is much of it.

        Raises:
            sqlite3.Error: The content is in the WAL still, and nothing is lost. After a failed
                sync this is not known.
        """
        if self._pages >= _CHECKPOINT_PAGES:
            self._pages = 0.0
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Note that all is written, and close the connection."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('clean', 1)")
        self._connection.close()

    def _write(self, last: dict[int, Job | None]) -> None:
        new, payloads, moved, results, forgotten = [], [], [], [], []
        size = 0
        for seq, job in last.items():
            if job is None:
                forgotten.append((seq,))
                continue
            if seq > self._last_seq:
                new.append(new_row(seq, job))
                payloads.append((seq, job.payload))
                size += len(job.payload)
            else:
                moved.append(moved_row(seq, job))
            if job.ending is not None and job.ending.result is not None:
                results.append((seq, job.ending.result))
                size += len(job.ending.result)
        many = self._connection.executemany
        if new:
            many(INSERT, new)
            many("INSERT INTO payloads VALUES (?, ?)", payloads)
        if moved:
            many(UPDATE, moved)
        if results:
            many("INSERT OR IGNORE INTO results VALUES (?, ?)", results)
        if forgotten:
            for table in ("jobs", "payloads", "results"):
                many(f"DELETE FROM {table} WHERE seq = ?", forgotten)  # noqa: S608
        # Per commit, the pages at the ends of the tables and indexes; then those of the rows.
        self._pages += 10 + len(last) / 8 + size / _PAGE
