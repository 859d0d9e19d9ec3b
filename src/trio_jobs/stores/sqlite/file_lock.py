"""`lock_file`: at most one process opens a store's file, and that process opens it once."""

import errno
import fcntl
import os
from pathlib import Path

from trio_jobs.stores.sqlite.file_location import StoreFileError


def lock_file(path: Path) -> int:
    """Lock the file beside the store's, and return the descriptor that holds the lock.

    A POSIX lock ends with its process, even if a child of the process lives on. It also ends when
    this process closes any descriptor of the file, so this process opens the file only once.
    """
    lock_path = path.with_name(path.name + "-lock")
    text = f"store file {str(path)!r} is in use by"
    try:
        if _is_open(lock_path):
            raise StoreFileError(f"{text} this process already")
        descriptor = os.open(
            lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except OSError as error:
        raise StoreFileError(
            f"store file {str(path)!r}: can not open {str(lock_path)!r}: {error.strerror}"
        ) from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                owner = file.read(20).decode(errors="replace").strip()
                raise StoreFileError(f"{text} another server (process {owner or '?'})") from None
        raise StoreFileError(
            f"store file {str(path)!r}: can not lock {str(lock_path)!r}: {error.strerror}"
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
