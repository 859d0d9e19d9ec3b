"""Reads a small file by a name that may lead anywhere: to a device, a pipe, a folder."""

import errno
import os
import select
import stat
import time
from pathlib import Path
from typing import Final

# Seconds for a pipe, as in `--config <(command)`.
_PATIENCE: Final = 5.0


def may_be_there(path: str | Path) -> bool:
    """Whether there is something at a path, or nobody can tell: then a read says why.

    A link that leads nowhere is something, and a mistake to report.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:  # its folder belongs to another user, for example
        return True
    return True


def read_within(path: str | Path, *, max_bytes: int, seconds: float = _PATIENCE) -> bytes:
    """The whole content of a file, device or pipe.

    Args:
        path: Its name.
        max_bytes: The most that it may hold: ``/dev/zero`` has no end.
        seconds: How long a pipe may take until its writer closes it. A pipe without a writer
            never ends.

    Raises:
        OSError: It cannot be read, is too long, or has not ended in time; ``strerror`` says which.
    """
    end = time.monotonic() + seconds
    # Non-blocking: opening a pipe without a writer would wait for one.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        readable = select.poll()
        readable.register(fd, select.POLLIN)
        data = bytearray()
        while len(data) <= max_bytes:
            if not readable.poll(max(end - time.monotonic(), 0) * 1000):
                raise TimeoutError(errno.ETIMEDOUT, f"a pipe that has not ended in {seconds:g} s")
            try:
                piece = os.read(fd, max_bytes + 1 - len(data))
            except BlockingIOError:
                continue  # another process has read it
            if not piece:
                return bytes(data)
            data += piece
    finally:
        os.close(fd)
    raise OSError(errno.EFBIG, _too_long(max_bytes))


def check_regular(path: str | Path, *, max_bytes: int) -> None:
    """Check that a library may read this file itself: a regular file of bounded size.

    Raises:
        OSError: It is missing, no regular file, or too long; ``strerror`` says which.
    """
    found = Path(path).stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if found.st_size > max_bytes:
        raise OSError(errno.EFBIG, _too_long(max_bytes))


def _too_long(max_bytes: int) -> str:
    return f"more than {max_bytes} bytes"
