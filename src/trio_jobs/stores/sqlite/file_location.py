"""Where a store's file may be, and the one line that says why it cannot be used."""

import os
import re
import sqlite3
import stat
from pathlib import Path
from typing import Final

from trio_jobs.pool.store import StoreFileError as StoreFileError
from trio_jobs.stores.sqlite.schema import ForeignFileError

# Network file systems. SQLite's WAL needs memory that is shared by processes, which these do not
# provide. A file system of FUSE is listed if it is known not to.
_NETWORK: Final = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
    *("smb2", "smb3", "smbfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
)

_MOUNTS: Final = Path("/proc/self/mountinfo")

# The kernel writes white space and backslashes in a path as three octal digits, all else as it is.
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


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


def check_location(path: Path) -> None:
    """Check all that can be checked without opening the file.

    Raises:
        StoreFileError: The file cannot be a store here.
    """
    folder = path.parent
    with one_line(path):
        if not folder.is_dir():
            raise StoreFileError(f"store file {str(path)!r}: there is no folder {str(folder)!r}")
        try:
            status = path.stat()
        except FileNotFoundError:
            status = None
        if status is not None and not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise StoreFileError(f"store file {str(path)!r} is {kind}")
        # The WAL and the lock are named after the file: opened by a second name, it would get a
        # second WAL and a second lock.
        if status is not None and status.st_nlink > 1:
            raise StoreFileError(
                f"store file {str(path)!r} has {status.st_nlink} names (hard links), "
                "and may have only one"
            )
    kind = _file_system(folder)
    if kind in _NETWORK:
        raise StoreFileError(
            f"store file {str(path)!r} is on a network file system ({kind}); "
            "the store needs a local one"
        )


def _file_system(folder: Path) -> str:
    """The type of the file system that holds a folder; empty if it is not known."""
    try:
        mounts = _MOUNTS.read_bytes().split(b"\n")[:-1]
    except OSError:
        return ""
    longest, found = -1, ""
    for line in mounts:
        fields, _, rest = line.partition(b" - ")
        name = _ESCAPED.sub(lambda digits: bytes([int(digits[1], 8)]), fields.split(b" ")[4])
        point = Path(os.fsdecode(name))
        if folder.is_relative_to(point) and len(point.parts) >= longest:
            longest, found = len(point.parts), rest.split(b" ")[0].decode()
    return found


class Identity:
    """Which files the store file, its WAL and its lock are: their devices and inodes.

    Args:
        path: The file; it and the two beside it exist.
    """

    def __init__(self, path: Path) -> None:
        self._paths = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-lock")]
        self._numbers = [_number(each) for each in self._paths]

    def check(self) -> None:
        """Check that the three files are still in the folder.

        The system lets a process go on with a deleted file, whose content is lost when the process
        ends. Meanwhile a second server could lock a new file.

        Raises:
            StoreFileError: One of them was moved, deleted or replaced.
        """
        for path, number in zip(self._paths, self._numbers, strict=True):
            if _number(path) != number:
                raise StoreFileError(f"store file {str(path)!r} was moved, deleted or replaced")


def _number(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
