"""The file's schema: its mark, its version, and the migrations, which only go forward.

A migration that a release has applied never changes. Another change of the schema is another entry.
"""

import sqlite3
from typing import Final

# "trjs", in the header of each store file (``PRAGMA application_id``).
APPLICATION_ID: Final = 0x74726A73

MIGRATIONS: Final = (
    (
        # `seq` is the order of admission. Times are microseconds since 1970, UTC. The error is
        # that of the last attempt. `size` is `Job.size`, once the job has completed.
        """
        CREATE TABLE jobs(
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            type TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            key TEXT,
            digest BLOB,
            rerun_of TEXT,
            status INTEGER NOT NULL CHECK (status IN (0, 1, 2)),
            started_at INTEGER,
            completed_at INTEGER,
            duration REAL,
            outcome TEXT,
            error_type TEXT,
            error_message TEXT,
            cancel_requested INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            interruptions INTEGER NOT NULL,
            snoozes INTEGER NOT NULL,
            run_at INTEGER,
            rerun_as TEXT,
            size INTEGER NOT NULL
        ) STRICT
        """,
        # Apart from the jobs: SQLite writes the whole row whenever a job moves.
        "CREATE TABLE payloads(seq INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT",
        "CREATE TABLE results(seq INTEGER PRIMARY KEY, result BLOB NOT NULL) STRICT",
        "CREATE UNIQUE INDEX jobs_key ON jobs(key) WHERE key IS NOT NULL",
        # SQLite uses a partial index only for queries that repeat its condition.
        "CREATE INDEX jobs_live ON jobs(seq) WHERE status < 2",
        # The dead, which have completed without success: by their ends, and by their ids. Most jobs
        # succeed, and touch neither index.
        """
        CREATE INDEX jobs_dead ON jobs(completed_at, seq)
        WHERE status = 2 AND outcome <> 'succeeded'
        """,
        "CREATE INDEX jobs_dead_ids ON jobs(id) WHERE status = 2 AND outcome <> 'succeeded'",
        "CREATE TABLE meta(name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID",
        # The row is absent while a process has the file open, and after a crash.
        "INSERT INTO meta VALUES ('clean', 1)",
    ),
    (
        # The dead by outcome, in the order of listings: each index of SQLite ends with the seq.
        "DROP INDEX jobs_dead_ids",
        """
        CREATE INDEX jobs_dead_outcomes ON jobs(outcome)
        WHERE status = 2 AND outcome <> 'succeeded'
        """,
    ),
    (
        # `progress` and `lines` are JSON, of the last attempt. SQLite rewrites no row for these.
        "ALTER TABLE jobs ADD COLUMN submitted_by TEXT",
        "ALTER TABLE jobs ADD COLUMN trace TEXT",
        "ALTER TABLE jobs ADD COLUMN progress TEXT",
        "ALTER TABLE jobs ADD COLUMN lines TEXT",
    ),
)

VERSION: Final = len(MIGRATIONS)


class ForeignFileError(Exception):
    """The file is no store of trio-jobs, or that of a newer version. The text follows "it is"."""


def version_of(connection: sqlite3.Connection) -> int:
    """The file's version; 0 if it is empty.

    Raises:
        ForeignFileError: It is another program's, or newer than this program.
        sqlite3.Error: It cannot be read, or is no SQLite file.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (application, version, objects) == (0, 0, 0):
        return 0
    if application != APPLICATION_ID:
        raise ForeignFileError("an SQLite file of another program")
    if not 1 <= version <= VERSION:
        raise ForeignFileError(
            f"of version {version}, and this program reads versions up to {VERSION}; "
            "start the newer program"
        )
    return int(version)


def migrate(connection: sqlite3.Connection, version: int, *, until: int = VERSION) -> None:
    """Bring the file from a version to another, each step in one transaction.

    Raises:
        sqlite3.Error: A step has failed; the file has the version before this step.
    """
    for step in range(version, until):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[step]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {step + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
