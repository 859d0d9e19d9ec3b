"""`LogWriter`: writes log lines to a descriptor through a bounded queue and one thread.

Code that logs never waits for the output: not for a pipe that nobody reads, and not for a lock that
is held during a write. A line that finds the queue full is dropped and counted.

`logging.handlers` is no substitute. Its `QueueHandler` holds a lock while a field's ``repr`` runs.
Its `QueueListener` takes the GIL for each single line: beside a busy event loop it drops up to half
of the lines, even if their reader is fast.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import accumulate, chain

from trio_jobs.bounded_write import PIECE_BYTES, file_of, open_for_writing, write_each, write_within
from trio_jobs.logs.formatter import LogFormatter, event_record

# About 70,000 lines: a slow reader may fall seconds behind a burst.
MAX_QUEUED_BYTES = 8 * 1024 * 1024

_MAX_LINES_AT_ONCE = 100

# The longest time that a forked child waits for a slow reader. After it has lost a line, it does
# not wait with the next ones until it has written one.
_SECONDS_IN_CHILD = 1.0


class LogWriter(logging.Handler):
    """A log handler whose lines a thread writes to a descriptor.

    Lines are rendered where they are logged, not in the thread: fields may change afterwards, the
    job's id is in the context there, and a queued exception would keep the objects of its frames
    alive.

    Args:
        fd: The caller closes it; the writer has a descriptor of its own for the same file.
        formatter: Makes the lines.

    Attributes:
        also: Called with each line, in the thread and the context of what logs it.
    """

    also: Callable[[bytes], None] | None = None

    def __init__(self, fd: int, formatter: LogFormatter) -> None:
        super().__init__()
        self._fd = open_for_writing(fd)
        self._stream = file_of(self._fd)
        self._formatter = formatter
        self._torn = False  # whether the stream ends inside a line
        self._is_forked = False
        self._begin_queue()
        # A daemon: stuck in a write, it must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def _begin_queue(self) -> None:
        # Lines, functions and None: the thread calls a function when the lines before it are
        # written, and ends at None.
        self._queue: queue.SimpleQueue[bytes | Callable[[], object] | None] = queue.SimpleQueue()
        # For the two counts. Reentrant: a signal handler may log while its thread holds the lock.
        self._counting = threading.RLock()
        self._queued_bytes = 0
        self._dropped = 0

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Make no lock: logging would hold it while a field's ``repr`` runs, perhaps for ever."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Queue the record's line, or drop and count it. Never waits, never raises."""
        line = b""
        # Rendering runs user code, which may raise anything; the code that logs must not fail.
        with suppress(BaseException):
            if self._is_forked:
                line = self._formatter.render(record, max_bytes=PIECE_BYTES)
            elif self._queued_bytes < MAX_QUEUED_BYTES:
                line = self._formatter.render(record)
                if self.also is not None:
                    self.also(line)
        with self._counting:
            if not line:
                self._dropped += 1
                return True
            self._queued_bytes += len(line)
        if self._is_forked:
            self._write([line], 0 if self._dropped else _SECONDS_IN_CHILD)
        else:
            self._queue.put(line)
        return True

    def write_directly(self) -> None:
        """From now on write each line where it is logged: a forked child has no writer thread.

        The server writes the lines that were queued before the fork.
        """
        self._is_forked = True
        self._begin_queue()

    def reopen(self, fd: int) -> None:
        """Write what is logged from now on to another file, and what was logged before to this one.

        Never waits: the thread changes the file between two lines.

        Args:
            fd: A regular file's; the writer closes it.
        """
        self._queue.put(partial(self._move_to, fd))

    def flush_within(self, *, seconds: float) -> bool:
        """Wait until the lines logged so far are written; False if that takes longer.

        Blocks the thread, so it is for the end of the program. Lines may be logged afterwards; the
        process's end loses those that are not flushed.
        """
        if self._is_forked:
            return True
        written = threading.Event()
        self._queue.put(written.set)
        return written.wait(seconds)

    def write_final(
        self,
        logger: str,
        level: int,
        events: Iterable[tuple[str, Mapping[str, object]]],
        *,
        seconds: float,
        last: Callable[[], Iterable[tuple[str, Mapping[str, object]]]] = tuple,
    ) -> None:
        """Write lines that must not be dropped, past the queue, after those logged so far.

        Half of the time is for the queued lines, the rest for these. Blocks the thread, so it is
        for the end of the program.

        Args:
            logger: The name in the lines.
            level: The level in the lines; the log's own level does not matter.
            events: Events with their fields. The next one is asked for when the last one has been
                written. A line keeps 2,000 characters of a field, or fewer if it has many fields:
                name many jobs in many lines.
            seconds: The longest time this may take; the end may take 0.1 s more.
            last: Returns the end, which is written even if the time is over.
        """
        end = time.monotonic() + seconds

        def render(events: Iterable[tuple[str, Mapping[str, object]]]) -> Iterator[bytes]:
            for event, fields in events:
                yield self._formatter.render(event_record(logger, level, event, fields))

        lines: Iterable[bytes] = render(events)
        if not self.flush_within(seconds=seconds / 2):
            lines = chain([b"\n"], lines)  # the thread may be stuck inside a line
        write_each(self._fd, lines, end - time.monotonic(), last=lambda: render(last()))

    def end_within(self, *, seconds: float) -> None:
        """Write the queued lines and end the thread; leave it behind if it takes longer."""
        self._queue.put(None)
        self._thread.join(seconds)
        if not self._thread.is_alive():
            os.close(self._fd)

    def _run(self) -> None:
        item: bytes | Callable[[], object] | None = b""
        while item is not None:
            item = self._queue.get()
            lines = []
            with suppress(queue.Empty):  # a few more, for fewer and longer writes
                while isinstance(item, bytes):
                    lines.append(item)
                    if len(lines) == _MAX_LINES_AT_ONCE:
                        break
                    item = self._queue.get_nowait()
            self._write(lines, None)
            if callable(item):
                item()

    def _move_to(self, fd: int) -> None:
        if file_of(self._fd) == self._stream:
            os.dup2(fd, self._fd, inheritable=False)  # the number stays: `write_final` uses it
            os.close(fd)
        else:  # user code has closed it
            self._fd = fd
        self._stream = file_of(self._fd)
        self._torn = False

    def _write(self, lines: list[bytes], seconds: float | None) -> None:
        """Write the lines and count the lost ones; log the count once the queue has room."""
        lost = self._lost(lines, seconds)
        with self._counting:
            self._queued_bytes -= sum(map(len, lines))
            self._dropped += lost
            if lost or not self._dropped or self._queued_bytes > MAX_QUEUED_BYTES // 2:
                return
            dropped, self._dropped = self._dropped, 0
        fields = {"count": dropped}
        record = event_record("trio_jobs.logs", logging.WARNING, "log_lines_dropped", fields)
        if self._lost([self._formatter.render(record)], seconds):
            with self._counting:
                self._dropped += dropped

    def _lost(self, lines: list[bytes], seconds: float | None) -> int:
        """Write the lines, and return how many did not reach the stream whole."""
        # User code may have closed all descriptors, and the number may be another file's now.
        if file_of(self._fd) != self._stream:
            return len(lines)
        before = b"\n" if self._torn else b""
        data = before + b"".join(lines)
        written = write_within(self._fd, data, seconds)
        if written:
            self._torn = written < len(data)
        return sum(len(before) + end > written for end in accumulate(map(len, lines)))
