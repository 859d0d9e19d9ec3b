"""`check_store`: checks a whole file, also while a server uses it. It changes nothing."""

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trio_jobs.job import Outcome
from trio_jobs.stores.sqlite.file_location import StoreFileError, check_location, one_line
from trio_jobs.stores.sqlite.schema import VERSION, version_of
from trio_jobs.stores.sqlite.store_file import Connect, connect, uri

# What SQLite finds; it stops there.
_MAX_FAULTS: Final = 100

_OUTCOMES: Final = ", ".join(f"'{outcome.value}'" for outcome in Outcome)

# What a query counts that must not be there.
_FAULTS: Final = (
    ("jobs without a payload", "jobs LEFT JOIN payloads USING (seq) WHERE payload IS NULL"),
    ("payloads without a job", "payloads LEFT JOIN jobs USING (seq) WHERE id IS NULL"),
    ("results without a job", "results LEFT JOIN jobs USING (seq) WHERE id IS NULL"),
    (
        "results of jobs that have not succeeded",
        "results JOIN jobs USING (seq) WHERE outcome IS NOT 'succeeded'",
    ),
    ("jobs that run without having begun", "jobs WHERE status = 1 AND started_at IS NULL"),
    (
        "completed jobs without an end",
        "jobs WHERE status = 2 AND (outcome IS NULL OR completed_at IS NULL)",
    ),
    ("unfinished jobs with an outcome", "jobs WHERE status < 2 AND outcome IS NOT NULL"),
    ("jobs with an unknown status", "jobs WHERE status NOT IN (0, 1, 2)"),
    ("jobs with an unknown outcome", f"jobs WHERE outcome NOT IN ({_OUTCOMES})"),
    ("keys without a digest", "jobs WHERE key IS NOT NULL AND digest IS NULL"),
)

_COUNTS: Final = (
    "SELECT CASE status WHEN 0 THEN 'pending' WHEN 1 THEN 'processing' ELSE outcome END, count(*) "
    "FROM jobs GROUP BY 1 ORDER BY 1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReport:
    """What a check has found.

    Attributes:
        version: The version of the file's schema.
        counts: The number of jobs, by status, and by outcome if they have completed.
        faults: A line for each fault; empty if the file is whole.
    """

    version: int
    counts: Mapping[str, int]
    faults: list[str]


def check_store(path: Path, *, connect: Connect = connect) -> StoreReport:
    """Read and check all of a file; takes about a second for each 200 MB.

    Blocks.

    Raises:
        StoreFileError: There is no such file, or it is no store of this version or an older one.
    """
    path = Path(os.path.realpath(path))
    check_location(path)
    if not path.exists():
        raise StoreFileError(f"there is no store file {str(path)!r}")
    with one_line(path):
        connection = connect(uri(path, "ro"))
        try:
            version = version_of(connection)
            if not version:
                raise StoreFileError(f"store file {str(path)!r} is empty")
            return _check(connection, version)
        finally:
            connection.close()


def _check(connection: sqlite3.Connection, version: int) -> StoreReport:
    faults: list[str] = []
    counts: dict[str, int] = {}
    try:
        for (line,) in connection.execute(f"PRAGMA integrity_check({_MAX_FAULTS})"):
            if line != "ok":
                faults.append(" ".join(line.split()))
        if version == VERSION:  # the next start migrates an older one
            for name, where in _FAULTS:
                (count,) = connection.execute(f"SELECT count(*) FROM {where}").fetchone()  # noqa: S608
                if count:
                    faults.append(f"{count} {name}")
        counts = dict(connection.execute(_COUNTS).fetchall())
    except sqlite3.Error as error:
        faults.append(str(error))
    return StoreReport(version=version, counts=counts, faults=faults)
