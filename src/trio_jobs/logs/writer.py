"""The way of a line from whoever logs it to the stream: a bounded queue and one thread.

Whoever logs never waits for the stream: not for a pipe that nobody reads, not for a lock that is
held while writing. What the stream does not take in time costs lines, which are counted.
"""

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import accumulate

from trio_jobs.bounded_write import PIECE_BYTES, open_for_writing, write_within
from trio_jobs.logs.direct import DirectLines
from trio_jobs.logs.lines import MAX_LINE_BYTES, Render, event_record

# Some megabytes: seconds of a burst, for a reader that is merely slow. The second bound is for
# when the lines are tracebacks.
MAX_QUEUED_LINES = 10_000
MAX_QUEUED_BYTES = 8 * 1024 * 1024

MAX_LINES_AT_ONCE = 100


class LogWriter(logging.Handler):
    """A logging handler whose lines are written to a descriptor by a thread of its own.

    Lines are rendered where they are logged, not in the thread: fields may change afterwards, the
    context knows the job, and a queued exception would keep alive what its frames hold.
    """

    def __init__(self, fd: int, render: Render) -> None:
        """Writes to what ``fd`` is now; ``fd`` itself stays the caller's."""
        super().__init__()
        self._fd = open_for_writing(fd)
        self._render = render
        # Lines; an event is set when all lines before it are written; None ends the thread.
        self._queue: queue.SimpleQueue[bytes | threading.Event | None] = queue.SimpleQueue()
        # For the two counts below. Held for a few instructions, never while writing; reentrant
        # because a signal handler may log while its thread is in here.
        self._counting = threading.RLock()
        self._queued_bytes = 0
        self._dropped = 0
        self._torn = False  # whether the stream ends inside a line; the thread's own
        self._direct: DirectLines | None = None
        # A daemon: stuck in a write, it must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """None: logging would hold it while a field's ``repr`` runs, and that may never end."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Queue the record's line, or drop and count it: never waits, never raises."""
        if self._direct is not None:
            self._direct.write(record)
            return True
        line = b""
        if self._has_room():  # else it would be rendered for nothing
            # What is logged must not fail because of its log; user code runs in there, which may
            # raise anything.
            with contextlib.suppress(BaseException):
                line = self._render(record)
        with self._counting:
            if line:
                self._queued_bytes += len(line)
                self._queue.put(line)
            else:
                self._dropped += 1
        return True

    def write_directly(self) -> None:
        """Queue no more lines, and forget those that are: in a child, which has no thread of ours.

        They are the server's, and are written there.
        """
        self._queue = queue.SimpleQueue()
        self._direct = DirectLines(self._fd, self._render)

    def flush_within(self, seconds: float) -> bool:
        """Wait until the lines queued so far are written; False if that takes longer."""
        if self._direct is not None:
            return True
        written = threading.Event()
        self._queue.put(written)
        return written.wait(seconds)

    def write_within(self, records: Iterable[logging.LogRecord], seconds: float) -> int:
        """Write lines that must not be dropped, after those that are queued.

        They do not go through the queue: half of the time is for what stands there, the other for
        these lines. Blocks the calling thread, so it is for the end of a program.

        Returns:
            How many of them were written.
        """
        end = time.monotonic() + seconds
        flushed = self.flush_within(seconds / 2)
        # The thread may be stuck inside a line.
        before = b"" if flushed else b"\n"
        count = 0
        # One after the other: to render a million ids takes time that writing needs as well.
        for piece in _pieces(map(self._render, records)):
            left = end - time.monotonic()  # also when the stream takes everything at once
            if left <= 0:
                break
            written = write_within(self._fd, before + b"".join(piece), left) - len(before)
            whole = sum(line_end <= written for line_end in accumulate(map(len, piece)))
            count += whole
            if whole < len(piece):
                break
            before = b""
        return count

    def close_within(self, seconds: float) -> None:
        """Write what is queued and end the thread; a thread that is stuck is left behind."""
        if self._direct is None:
            self._queue.put(None)
            self._thread.join(seconds)
        if not self._thread.is_alive():
            os.close(self._fd)
        self.close()

    def _has_room(self) -> bool:
        # Threads that look at the same time may exceed this by a line each.
        return (
            self._queue.qsize() < MAX_QUEUED_LINES
            and self._queued_bytes + MAX_LINE_BYTES <= MAX_QUEUED_BYTES
        )

    def _run(self) -> None:
        while True:
            lines: list[bytes] = []
            for item in [self._queue.get(), *self._more()]:
                if isinstance(item, bytes):
                    lines.append(item)
                    continue
                self._write(lines)
                lines = []
                if item is None:
                    return
                item.set()
            if lines:
                self._write(lines)

    def _more(self) -> Iterator[bytes | threading.Event | None]:
        """A few more items, for fewer and longer writes."""
        with contextlib.suppress(queue.Empty):
            for _ in range(MAX_LINES_AT_ONCE):
                yield self._queue.get_nowait()

    def _write(self, lines: list[bytes]) -> None:
        """Write the lines, however long that takes, and count those that cannot be written."""
        lost = sum(self._lost(piece) for piece in _pieces(lines))
        with self._counting:
            self._queued_bytes -= sum(map(len, lines))
            self._dropped += lost
            if lost or not self._dropped or self._queue.qsize() > MAX_QUEUED_LINES // 2:
                return
            # There is room again: say so, once.
            dropped, self._dropped = self._dropped, 0
        fields = {"count": dropped}
        record = event_record("trio_jobs.logs", logging.WARNING, "log_lines_dropped", fields)
        if self._lost([self._render(record)]):
            with self._counting:
                self._dropped += dropped

    def _lost(self, piece: list[bytes]) -> int:
        """Write a piece; return how many of its lines an error has kept from the stream."""
        before = b"\n" if self._torn else b""
        written = write_within(self._fd, before + b"".join(piece), None) - len(before)
        lost = sum(end > written for end in accumulate(map(len, piece)))
        self._torn = bool(lost)
        return lost


def _pieces(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Whole lines, as many as a pipe takes at once: no other writer's line comes in between."""
    piece: list[bytes] = []
    for line in lines:
        if piece and sum(map(len, piece)) + len(line) > PIECE_BYTES:
            yield piece
            piece = []
        piece.append(line)
    if piece:
        yield piece
