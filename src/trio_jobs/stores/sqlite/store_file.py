"""`open_store_file`: locks and opens the file, or says in one line why it cannot."""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from trio_jobs.stores.sqlite.file_location import Identity, check_location, one_line
from trio_jobs.stores.sqlite.file_location import StoreFileError as StoreFileError
from trio_jobs.stores.sqlite.file_lock import lock_file
from trio_jobs.stores.sqlite.schema import ForeignFileError, migrate, version_of

# The first one with STRICT tables and `RETURNING`.
_OLDEST_SQLITE: Final = (3, 37, 0)

# Milliseconds to wait while another process, such as an operator's shell, holds the write lock.
_BUSY_TIMEOUT: Final = 2_000

# Bytes; `quick_check` reads about 400 MB a second from a cache.
_LARGEST_CHECKED: Final = 1_000_000_000

# Bytes that the WAL may keep on the disk once SQLite begins it anew.
_WAL_KEPT: Final = 67_108_864

Sync = Literal["full", "normal"]
Connect = Callable[[str], sqlite3.Connection]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFile:
    """An open file, which no other process can open.

    Attributes:
        path: Where it is; no symbolic link.
        connection: The one connection that writes. One thread at a time uses it.
        identity: Tells whether it is still there.
        lock: The descriptor that holds the lock.
        clean: Whether the last process closed it with all written.
    """

    path: Path
    connection: sqlite3.Connection
    identity: Identity
    lock: int
    clean: bool

    def close(self) -> None:
        """Close the file and let others open it; readers must have closed it before."""
        self.connection.close()
        os.close(self.lock)


def connect(name: str) -> sqlite3.Connection:
    """Open a connection without a transaction of its own; ``name`` is a URI."""
    # Each is used by one thread at a time, but not by the one that opened it.
    return sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)


def open_store_file(
    path: Path,
    *,
    sync: Sync = "full",
    connect: Connect = connect,
    version: tuple[int, ...] = sqlite3.sqlite_version_info,
) -> StoreFile:
    """Lock the file for the life of this process, make or migrate it, and open it.

    Blocks: call it in a thread, or before the event loop runs.

    Args:
        path: The file; its folder must exist.
        sync: With ``"full"``, a commit survives a power cut, with ``"normal"`` only the end of
            the process.
        connect: Opens a connection, given a URI.
        version: SQLite's version.

    Raises:
        StoreFileError: It cannot be used.
    """
    if version < _OLDEST_SQLITE:
        raise StoreFileError(
            f"the store file needs SQLite 3.37 or later, and this Python has "
            f"{'.'.join(map(str, version))}"
        )
    # Otherwise two names of one file would have two locks.
    path = Path(os.path.realpath(path))
    check_location(path)
    lock = lock_file(path)
    connection = None
    try:
        with one_line(path):
            if path.exists() and path.stat().st_size:
                clean = _check_made(path, connect)
            else:
                _check_wal(path)
                _make(path, connect)
                clean = True
            connection = connect(uri(path, "rw"))
            _prepare(connection, sync)
            migrate(connection, version_of(connection))
            if not clean:
                # Processes that are killed soon after their starts would never do it.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            # A file that nobody may write says so now, not at the first job.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            identity = Identity(path)
    except BaseException:
        if connection is not None:
            connection.close()
        os.close(lock)
        raise
    return StoreFile(path=path, connection=connection, identity=identity, lock=lock, clean=clean)


def uri(path: Path, mode: Literal["ro", "rw"]) -> str:
    """The URI by which SQLite opens the file, which must exist."""
    return f"{path.as_uri()}?mode={mode}"


def _check_wal(path: Path) -> None:
    """Refuse an empty or missing file that has a WAL: SQLite would delete the WAL with its jobs."""
    if _has_wal(path):
        wal = path.with_name(path.name + "-wal")
        raise StoreFileError(
            f"store file {str(path)!r} is missing or empty, but {str(wal)!r} is there, "
            "which belongs to it: put the file back, or remove the other"
        )


def _has_wal(path: Path) -> bool:
    """Whether there is a WAL, with content."""
    wal = path.with_name(path.name + "-wal")
    return wal.exists() and wal.stat().st_size > 0


def _make(path: Path, connect: Connect) -> None:
    """Make an empty store.

    It gets its name as a whole. Otherwise a process that dies meanwhile would leave a file of
    which nobody can tell that it is ours.
    """
    new = path.with_name(path.name + "-new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = connect(uri(new, "rw"))
    try:
        _prepare(connection, "full")
        migrate(connection, 0)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    new.replace(path)
    _sync_folder(path.parent)


def _check_made(path: Path, connect: Connect) -> bool:
    """Check that trio-jobs made the file; return whether the last process has closed it.

    Reads only: a file that is refused stays as it is, and so does its WAL. A connection that may
    write would copy the WAL into the file when it is closed.
    """
    # Opened to write, as by SQLite later. To close it would end the locks of a connection to the
    # file in this process: there is none, since the lock is new.
    with path.open("r+b") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise ForeignFileError("no SQLite file")
    connection = connect(uri(path, "ro"))
    try:
        return version_of(connection) == 0 or _was_clean(connection, path)
    finally:
        connection.close()


def _sync_folder(folder: Path) -> None:
    """Put the file's name on the disk; SQLite has synced the file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prepare(connection: sqlite3.Connection, sync: Sync) -> None:
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT}")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreFileError(f"SQLite can not use its WAL there, but only {mode!r}")
    connection.execute(f"PRAGMA synchronous = {sync}")
    # On macOS a sync reaches the disk's cache only, without these two.
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    # The journal copies the WAL into the file, once it has told the clients of a commit.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
    # A read of a mapped page that fails would end the process with a signal.
    connection.execute("PRAGMA mmap_size = 0")
    connection.execute("PRAGMA temp_store = MEMORY")
    # To check a status, SQLite would build a table of the numbers that it may be, row by row.
    # `rows` writes no other number, and `check_store` looks for one.
    connection.execute("PRAGMA ignore_check_constraints = ON")


def _was_clean(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the last process closed the file with all written; if not, SQLite checks the file."""
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    # SQLite takes a part of the last page for the whole. A process that was killed can leave one,
    # but then the WAL has the page.
    if path.stat().st_size % page and not _has_wal(path):
        raise StoreFileError(f"store file {str(path)!r} is damaged: a part of its end is missing")
    row = connection.execute("SELECT value FROM meta WHERE name = 'clean'").fetchone()
    if row is not None:
        return True
    if path.stat().st_size < _LARGEST_CHECKED:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StoreFileError(f"store file {str(path)!r} is damaged: {' '.join(found.split())}")
    return False
