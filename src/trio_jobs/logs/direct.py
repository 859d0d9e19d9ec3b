"""Log lines of a forked child, which has no thread to write them: written where they are logged.

A child shares the stream with the server and with other children.
"""

import contextlib
import logging
import os
import threading

from trio_jobs.bounded_write import PIECE_BYTES, write_within
from trio_jobs.logs.lines import Render, event_record

# For a reader that is merely slow. After a line that nobody has read in that time, the next ones
# are not waited for until one is read.
_SECONDS = 1.0


class DirectLines:
    """Writes each line in one piece: no line of another process comes into it."""

    def __init__(self, fd: int, render: Render) -> None:
        self._fd = fd
        self._render = render
        self._stream = _identity(fd)
        self._counting = threading.RLock()  # as in `LogWriter`
        self._dropped = 0

    def write(self, record: logging.LogRecord) -> None:
        """Write the record's line, or drop and count it: raises nothing."""
        written = False
        with contextlib.suppress(BaseException):  # as in `LogWriter`: user code runs in there
            written = self._write(record, 0 if self._dropped else _SECONDS)
        with self._counting:
            if not written:
                self._dropped += 1
                return
            dropped, self._dropped = self._dropped, 0
        if dropped:
            fields = {"count": dropped}
            note = event_record("trio_jobs.logs", logging.WARNING, "log_lines_dropped", fields)
            if not self._write(note, 0):
                with self._counting:
                    self._dropped += dropped

    def _write(self, record: logging.LogRecord, seconds: float) -> bool:
        line = self._render(record, max_bytes=PIECE_BYTES)
        # A child that becomes a daemon closes all descriptors; the number may be a file's by now.
        if _identity(self._fd) != self._stream:
            return False
        return write_within(self._fd, line, seconds) == len(line)


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
