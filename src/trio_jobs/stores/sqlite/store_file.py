"""`open_store_file`: locks and opens the file, or says in one line why it cannot."""

import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from trio_jobs.stores.sqlite.schema import VERSION, ForeignFileError, migrate, version_of

# The first one with STRICT tables and `RETURNING`.
_OLDEST_SQLITE: Final = (3, 37, 0)

# Milliseconds to wait while another process, such as an operator's shell, holds the write lock.
_BUSY_TIMEOUT: Final = 2_000

# SQLite's WAL needs memory that all processes share, which these do not give. Of FUSE, some do.
_NETWORK: Final = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
    *("smb2", "smb3", "smbfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
)

# Bytes; `quick_check` reads about 400 MB a second from a cache.
_LARGEST_CHECKED: Final = 1_000_000_000

# Bytes that the WAL may keep on the disk once SQLite begins it anew.
_WAL_KEPT: Final = 67_108_864

Sync = Literal["full", "normal"]
Connect = Callable[[str], sqlite3.Connection]


class StoreFileError(Exception):
    """The file cannot be used, and nothing in it has changed. The text is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFile:
    """An open file, which no other process can open.

    Attributes:
        path: Where it is; no symbolic link.
        connection: The one connection that writes. One thread at a time uses it.
        lock: The descriptor that holds the lock.
        clean: Whether the last process closed it with all written.
    """

    path: Path
    connection: sqlite3.Connection
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
    check_place(path)
    lock = _lock(path)
    connection = None
    try:
        with one_line(path):
            _check_wal(path)
            exists = _is_made(path, connect)
            connection = connect(uri(path, "rw"))
            _prepare(connection, sync)
            clean = _migrate_and_check(connection, path, exists=exists)
    except BaseException:
        if connection is not None:
            connection.close()
        os.close(lock)
        raise
    return StoreFile(path=path, connection=connection, lock=lock, clean=clean)


def uri(path: Path, mode: Literal["ro", "rw"]) -> str:
    """The URI by which SQLite opens the file, which must exist."""
    return f"{path.as_uri()}?mode={mode}"


class one_line:  # noqa: N801  (a context manager, used like a function)
    """Turns what the system and SQLite raise into a `StoreFileError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, type_: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ForeignFileError):
            raise StoreFileError(f"store file {str(self._path)!r} is {error}") from None
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise StoreFileError(f"store file {str(self._path)!r}: {reason}") from error
        if isinstance(error, sqlite3.Error):
            raise StoreFileError(f"store file {str(self._path)!r}: {error}") from error


def check_place(path: Path) -> None:
    """Check what can be seen without opening the file."""
    folder = path.parent
    with one_line(path):
        if not folder.is_dir():
            raise StoreFileError(f"store file {str(path)!r}: there is no folder {str(folder)!r}")
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise StoreFileError(f"store file {str(path)!r} is {kind}")
    kind = _file_system(folder)
    if kind in _NETWORK:
        raise StoreFileError(
            f"store file {str(path)!r} is on a network file system ({kind}); "
            "the store needs a local one"
        )


def _file_system(folder: Path) -> str:
    """The type of the file system that holds a folder; empty if it is not known."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    longest, found = -1, ""
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        # The kernel writes white space and backslashes as three octal digits.
        point = Path(fields.split(" ")[4].encode(errors="surrogateescape").decode("unicode_escape"))
        if folder.is_relative_to(point) and len(point.parts) >= longest:
            longest, found = len(point.parts), rest.split(" ")[0]
    return found


def _lock(path: Path) -> int:
    """Lock the file beside the store's, and return the descriptor that holds the lock.

    A lock of POSIX ends with its process, even if a child of the process lives on. It ends as
    well when this process closes any descriptor of the file: so it is opened only once.
    """
    place = path.with_name(path.name + "-lock")
    text = f"store file {str(path)!r} is in use by"
    try:
        if _is_open(place):
            raise StoreFileError(f"{text} this process already")
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreFileError(
            f"store file {str(path)!r}: can not open {str(place)!r}: {error.strerror}"
        ) from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise StoreFileError(f"{text} another server (process {owner or '?'})") from None
        raise StoreFileError(
            f"store file {str(path)!r}: can not lock {str(place)!r}: {error.strerror}"
        ) from error
    return descriptor


def _is_open(path: Path) -> bool:
    """Whether a descriptor of this process is open on the file."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return False
    for each in Path("/dev/fd").iterdir():
        try:
            found = os.fstat(int(each.name))
        except OSError:  # that of the listing itself
            continue
        if os.path.samestat(wanted, found):
            return True
    return False


def _check_wal(path: Path) -> None:
    """Refuse an empty or missing file beside its WAL: SQLite would delete the WAL with its jobs."""
    wal = path.with_name(path.name + "-wal")
    if not (path.exists() and path.stat().st_size) and wal.exists() and wal.stat().st_size:
        raise StoreFileError(
            f"store file {str(path)!r} is missing or empty, but {str(wal)!r} is there, "
            "which belongs to it: put the file back, or remove the other"
        )


def _is_made(path: Path, connect: Connect) -> bool:
    """Whether the file exists with a schema of ours; makes an empty one if there is none.

    Reads only: a file that is refused stays as it is.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if not path.stat().st_size:
            return False
    else:
        os.close(descriptor)
        _sync_folder(path.parent)
        return False
    # To write, as SQLite does later. Closing it would end the locks of a connection to the file in
    # this process: there is none, since the lock is new.
    with path.open("r+b") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise ForeignFileError("no SQLite file")
    connection = connect(uri(path, "ro"))
    try:
        return version_of(connection) > 0
    finally:
        connection.close()


def _sync_folder(folder: Path) -> None:
    """Put the file's name on the disk: SQLite syncs the file, and the names of its own files."""
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
    # The journal does it, once the clients of a commit have been told.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
    # A read of a mapped page that fails would end the process with a signal.
    connection.execute("PRAGMA mmap_size = 0")
    connection.execute("PRAGMA temp_store = MEMORY")


def _migrate_and_check(connection: sqlite3.Connection, path: Path, *, exists: bool) -> bool:
    """Migrate the file and, after an unclean end, check it; return whether the end was clean."""
    version = version_of(connection)
    clean = True
    if exists:
        row = connection.execute("SELECT value FROM meta WHERE name = 'clean'").fetchone()
        clean = row is not None and bool(row[0])
        if not clean and path.stat().st_size < _LARGEST_CHECKED:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise StoreFileError(
                    f"store file {str(path)!r} is damaged: {' '.join(found.split())}"
                )
    migrate(connection, version, until=VERSION)
    # A file that nobody may write says so now, not at the first job.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
    return clean
