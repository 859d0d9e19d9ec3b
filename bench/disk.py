"""The files of the rows 15 to 20: where they are, and what a commit costs there."""

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Self

from bench.children import ROOT

# In the clone: the system's folder for temporary files is in memory on many machines.
_FOLDER = ROOT / "bench" / ".files"

# File systems on which a commit reaches no disk.
_IN_MEMORY = ("tmpfs", "ramfs")

# About the bytes of a job's row.
_ROW = b"x" * 200


@contextmanager
def new_folder() -> Iterator[Path]:
    """Make a folder on the clone's file system for the length of the block."""
    _FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=_FOLDER) as folder:
        yield Path(folder)


def file_system() -> str:
    """The type of the clone's file system, as `stat` names it."""
    command = ["stat", "--file-system", "--format=%T", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def no_disk() -> str | None:
    """Why a commit costs nothing here; None where it reaches a disk."""
    kind = file_system()
    return f"the clone is in memory ({kind})" if kind in _IN_MEMORY else None


class Commits:
    """A file of its own, with what the store asks of SQLite; leaving the block closes it."""

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "commits.db", isolation_level=None)
        for line in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE jobs (seq INTEGER PRIMARY KEY, record BLOB)",
        ):
            self._connection.execute(line)

    def median_ms(self, count: int = 100) -> float:
        """The median of so many commits of one row, in milliseconds."""
        values = []
        for _ in range(count):
            began = time.perf_counter()
            self._connection.execute("INSERT INTO jobs (record) VALUES (?)", (_ROW,))
            values.append(time.perf_counter() - began)
        return median(values) * 1000

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
