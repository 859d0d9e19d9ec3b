"""`LineFile` and `LineStream`: where lines go; a file holds whole lines only, whatever happens.

The results file is the truth about a run: what it has survives the end of the process, and what it
lacks is done again.
"""

import contextlib
import fcntl
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import trio

from trio_jobs.commands.output import json_line

# Bytes that are collected before they are written.
_BLOCK = 64 * 1024

# Seconds. After this time fewer bytes are written, too.
FLUSH_SECONDS = 0.5


class LineFileError(Exception):
    """A file that cannot be used; the text says why."""


class LineSink(Protocol):
    """Where lines go."""

    @property
    def written(self) -> int:
        """How many lines are out of this process."""

    def add(self, line: bytes) -> None:
        """Take a whole line, with its end."""

    async def flush(self) -> None:
        """Write all lines.

        Raises:
            OSError: They cannot be written.
        """

    @property
    def is_due(self) -> bool:
        """Whether the lines should be written now: they are many, or wait for long."""


class LineFile:
    """A file to which whole lines are appended. Only one process at a time can open it for that.

    Args:
        path: The file.
        fd: Its descriptor, which this object owns. Its offset is the end of the last whole line.
        size: That offset.

    Attributes:
        written: How many lines this process has written to the file.
    """

    def __init__(self, path: Path, fd: int, *, size: int) -> None:
        self.path = path
        self.written = 0
        self._fd = fd
        self._size = size
        self._buffer = bytearray()
        self._flushed_at = time.monotonic()

    @classmethod
    def create(cls, path: Path) -> "LineFile":
        """Make a new file, for this process alone.

        Raises:
            LineFileError: There is such a file, or it cannot be made.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            raise LineFileError(f"{path} exists already") from None
        except OSError as error:
            raise LineFileError(f"{path} cannot be made: {error.strerror}") from None
        try:
            _lock(fd, path)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, size=0)

    @classmethod
    def reopen(cls, path: Path, take: Callable[[bytes], object]) -> "LineFile":
        """Open a file that is there, for this process alone, and cut off a torn last line.

        Args:
            path: The file.
            take: Called with each whole line.

        Raises:
            LineFileError: The file cannot be used; or another process writes to it.
            ValueError: What ``take`` has raised; the text gets the line's place.
        """
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError as error:
            raise LineFileError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            _lock(fd, path)
            size = 0
            for number, line in enumerate(_whole_lines(fd), 1):
                try:
                    take(line)
                except ValueError as error:
                    raise LineFileError(f"{path}, line {number}: {error}") from None
                size += len(line)
            os.ftruncate(fd, size)
            os.lseek(fd, size, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, size=size)

    def keep_only(self, wanted: Callable[[bytes], bool]) -> None:
        """Drop lines: write the others to a new file, which takes this one's place at once.

        Raises:
            LineFileError: The new file cannot be written; then nothing has changed.
        """
        path = self.path.resolve()  # the file, where a link leads to it
        new_path = path.with_name(f"{path.name}.new")
        try:
            with contextlib.suppress(FileNotFoundError):
                new_path.unlink()  # of a process that ended in here
            new = LineFile.create(new_path)
            os.fchmod(new._fd, stat.S_IMODE(os.fstat(self._fd).st_mode))
            for line in filter(wanted, _whole_lines(self._fd)):
                new.add(line)
                if len(new._buffer) >= _BLOCK:
                    new._put_buffer()
            new._put_buffer()
            os.fsync(new._fd)
            new_path.rename(path)
            sync_folder(path)
        except OSError as error:
            raise LineFileError(f"{new_path} cannot be written: {error.strerror}") from None
        os.close(self._fd)
        self._fd, self._size = new._fd, new._size

    def add(self, line: bytes) -> None:
        """See `LineSink`."""
        self._buffer += line

    async def flush(self) -> None:
        """See `LineSink`; no checkpoint. After an error the file ends with a whole line."""
        self._flushed_at = time.monotonic()
        self._put_buffer()

    @property
    def is_due(self) -> bool:
        """See `LineSink`."""
        return len(self._buffer) >= _BLOCK or time.monotonic() - self._flushed_at >= FLUSH_SECONDS

    def close(self) -> None:
        """Have all that is written on the disk, and close the file.

        Raises:
            OSError: The disk has failed; the file is closed.
        """
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)

    def _put_buffer(self) -> None:
        lines = bytes(self._buffer)
        self._buffer.clear()
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            # The disk is full, for example: the lines before the torn one stay.
            lines = lines[: lines.rfind(b"\n", 0, len(lines) - len(rest)) + 1]
            os.ftruncate(self._fd, self._size + len(lines))
            raise
        finally:
            self._size += len(lines)
            self.written += lines.count(b"\n")


class LineStream:
    """Standard output, or another descriptor, to which lines are written as they come.

    Args:
        fd: The descriptor. Its reader may be slow: a thread writes what does not fit at once.

    Attributes:
        written: How many lines are out of this process.
    """

    def __init__(self, fd: int) -> None:
        self.written = 0
        self._fd = fd
        self._buffer = bytearray()
        self._limiter = trio.CapacityLimiter(1)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._is_terminal = os.isatty(fd)  # its room says nothing about a write

    def add(self, line: bytes) -> None:
        """See `LineSink`. For a terminal no byte of a line is an order."""
        self._buffer += f"{json_line(line)}\n".encode() if self._is_terminal else line

    async def flush(self) -> None:
        """See `LineSink`.

        Cancellation:
            Leaves the writing thread behind, which may write the rest.
        """
        while self._buffer:
            lines = bytes(self._buffer)
            self._buffer.clear()
            if self._fits(lines):
                self._put(lines)
            else:
                await trio.to_thread.run_sync(
                    self._put, lines, abandon_on_cancel=True, limiter=self._limiter
                )
            self.written += lines.count(b"\n")

    @property
    def is_due(self) -> bool:
        """See `LineSink`: each line is due at once."""
        return bool(self._buffer)

    def close(self) -> None:
        """Do nothing: the descriptor is the process's."""

    def _fits(self, lines: bytes) -> bool:
        """Whether a write does not wait: a pipe that is writable takes so many bytes (POSIX)."""
        if len(lines) > select.PIPE_BUF or self._is_terminal or self._limiter.borrowed_tokens:
            return False
        return any(events & select.POLLOUT for _, events in self._poll.poll(0))

    def _put(self, lines: bytes) -> None:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(self._fd, rest) :]


def sync_folder(path: Path) -> None:
    """Have the name of a file on the disk."""
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise LineFileError(f"{path} is no regular file")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another run may have put a new file in the place of the one that was opened here.
        is_there = os.path.samestat(os.fstat(fd), path.stat())
    except BlockingIOError:
        is_there = False
    except OSError as error:
        raise LineFileError(f"{path} cannot be locked: {error.strerror}") from None
    if not is_there:
        raise LineFileError(f"another run writes to {path}")


def _whole_lines(fd: int) -> Iterator[bytes]:
    """The whole lines of a file, from its beginning."""
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line
