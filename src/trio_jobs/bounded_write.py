"""Writing to a log that nobody may be reading: every wait ends, and nothing is raised."""

import os
import select
import stat
import time

# POSIX: a pipe takes this many bytes as a whole or not at all, so lines written together in
# one such piece are never torn by another writer. Linux calls a pipe writable only when a
# piece of this size fits.
PIECE_BYTES = select.PIPE_BUF


def open_for_writing(fd: int) -> int:
    """A descriptor of our own for what ``fd`` writes to; non-blocking where that is possible.

    Setting ``O_NONBLOCK`` on ``fd`` itself would set it for every process that shares the
    pipe or terminal (a shell, a supervisor), so a pipe or terminal is opened anew. Where the
    system refuses that (a pipe made by another user, a socket), and for a file, whose position
    must stay shared, it is a duplicate, and ``write_within`` alone keeps the write from
    blocking. When ``fd`` is closed, what is written goes nowhere: the number may soon belong
    to a client's connection.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            pass  # also: a pipe that has lost its reader, or a system without /proc
    return os.dup(fd)


def write_within(fd: int, data: bytes, seconds: float | None) -> int:
    """Write ``data`` and return how many of its bytes were written.

    Fewer than all of them when ``seconds`` have passed (None: wait for ever), or at the first
    error: a closed pipe, a full disk. Called from threads and from signal handlers.

    The time bounds the waits: what takes everything at once gets all of ``data``, so whoever has
    more than a few lines looks at the clock between them.
    """
    end = None if seconds is None else time.monotonic() + seconds
    writable = select.poll()
    writable.register(fd, select.POLLOUT)
    written = 0
    while written < len(data):
        wait = None if end is None else max(end - time.monotonic(), 0) * 1000
        if not writable.poll(wait):
            break
        try:
            written += os.write(fd, data[written : written + PIECE_BYTES])
        except BlockingIOError:
            continue  # somebody else took the room
        except OSError:
            break
    return written
