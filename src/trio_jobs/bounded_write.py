"""Writes to a log that perhaps no program reads: waits can be bounded, errors are not raised."""

import os
import select
import stat
import time
from collections.abc import Callable, Iterable

# A pipe takes this many bytes as a whole or not at all (POSIX): another writer's lines never
# come between them. Linux calls a pipe writable only when this many fit.
PIECE_BYTES = select.PIPE_BUF

# The longest wait for room for the last lines of `write_each`, beyond its time.
LAST_SECONDS = 0.1


def open_for_writing(fd: int) -> int:
    """Return a new descriptor for the file of ``fd``, non-blocking where that is possible.

    A pipe or terminal is opened again: ``O_NONBLOCK`` on ``fd`` itself would hold for each process
    that shares it (a shell, a supervisor). A file is duplicated, to keep its position shared, and
    so is a stream that the system does not open again (a socket, a pipe of another user): there
    only ``write_within`` keeps a write from blocking. If ``fd`` is closed, the result discards
    everything: the number may soon belong to a client's connection.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            pass  # such as a pipe whose reader has closed it, or a system without /proc
    return os.dup(fd)


def file_of(fd: int) -> tuple[int, int] | None:
    """Return the device and inode of the descriptor's file; None if the descriptor is closed.

    User code may close any descriptor, and the number may then be another file's.
    """
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def write_within(fd: int, data: bytes, seconds: float | None) -> int:
    """Write ``data``, and return how many bytes were written. For threads and signal handlers.

    Args:
        fd: From ``open_for_writing``.
        data: Written in pieces that a pipe takes as a whole. A piece ends at a line's end, unless
            a line is longer than a piece.
        seconds: Bounds the waits for room; None: no bound. A stream that always has room
            gets all of ``data``.

    Returns:
        Fewer than ``len(data)`` if the time is over, or after the first error: a closed pipe, a
        full disk.
    """
    end = None if seconds is None else time.monotonic() + seconds
    writable = select.poll()
    writable.register(fd, select.POLLOUT)
    written = 0
    while written < len(data):
        piece = data[written : written + PIECE_BYTES]
        if written + len(piece) < len(data):  # another writer's line may come behind it
            piece = piece[: piece.rfind(b"\n") + 1] or piece
        wait = None if end is None else max(end - time.monotonic(), 0) * 1000
        if not writable.poll(wait):
            break
        try:
            written += os.write(fd, piece)
        except BlockingIOError:
            continue  # another writer took the room
        except OSError:
            break
    return written


def write_each(
    fd: int,
    lines: Iterable[bytes],
    seconds: float,
    *,
    last: Callable[[], Iterable[bytes]] = tuple,
) -> None:
    """Write lines that are made one after the other, until the time is over or a write fails.

    Args:
        fd: From ``open_for_writing``.
        lines: The next line is asked for when the last one has been written.
        seconds: Also bounds the number of lines that the stream takes at once.
        last: Returns the lines for the end. They are written even if the time is over, and wait for
            room for 0.1 s at the most.
    """
    end = time.monotonic() + seconds
    before = b""
    for line in lines:
        left = end - time.monotonic()
        if left <= 0:
            break
        written = write_within(fd, line, left)
        if written < len(line):
            before = b"\n" if written else b""
            break
    if rest := b"".join(last()):
        write_within(fd, before + rest, LAST_SECONDS)
