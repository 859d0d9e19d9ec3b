"""`InputFile`: the lines of the input, block by block, read in a thread.

A thread reads because a pipe may be silent for hours, and a disk may be slow: the event loop takes
answers meanwhile.
"""

import hashlib
import os
import stat
import sys
from pathlib import Path

import trio

from trio_jobs.commands.run.records import MAX_LINE
from trio_jobs.commands.run.side_file import InputMark

# Bytes: some 2,000 lines. One visit of a thread takes about as long as a hundredth of their jobs.
_BLOCK = 256 * 1024

# Bytes of the input's beginning that tell it from another input.
_BEGINNING = 1024 * 1024


class InputError(Exception):
    """An input that cannot be read; the text says why."""


class InputFile:
    """The input: a file, or standard input.

    Args:
        path: The file; ``-`` is standard input.

    Attributes:
        is_regular: Whether it can be read once more from its beginning.

    Raises:
        InputError: It cannot be opened.
    """

    def __init__(self, path: str) -> None:
        try:
            self._fd = 0 if path == "-" else os.open(path, os.O_RDONLY)
            status = os.fstat(self._fd)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path} is a folder")
        self.is_regular = path != "-" and stat.S_ISREG(status.st_mode)
        self._path = path
        # A file that grows meanwhile is read up to here: its mark is of this size.
        self._left = status.st_size if self.is_regular else sys.maxsize
        self._rest = bytearray()
        self._limiter = trio.CapacityLimiter(1)

    def mark(self) -> InputMark:
        """The mark of a regular file. Reads its beginning."""
        beginning = os.pread(self._fd, min(_BEGINNING, self._left), 0)
        return InputMark(self._left, hashlib.sha256(beginning).hexdigest())

    def count_records(self) -> int:
        """How many lines of a regular file are not blank. Reads all of it."""
        with Path(self._path).open("rb") as file:
            return sum(1 for line in file if not line.isspace())

    async def read_lines(self) -> list[bytes]:
        """The next lines, as soon as there are some; none at the end.

        Raises:
            InputError: They cannot be read.

        Cancellation:
            Leaves the reading thread behind: what it reads is lost, so that no later call can go
            on.
        """
        while True:
            try:
                data = await trio.to_thread.run_sync(
                    os.read,
                    self._fd,
                    min(_BLOCK, self._left),
                    abandon_on_cancel=True,
                    limiter=self._limiter,
                )
            except OSError as error:
                raise InputError(f"{self._path} cannot be read: {error.strerror}") from None
            if not data:
                last, self._rest = bytes(self._rest), bytearray()
                return [last] if last else []
            self._left -= len(data)
            *lines, rest = data.split(b"\n")
            if lines:
                lines[0] = bytes(self._rest + lines[0])
                self._rest = bytearray(rest)
                return lines
            self._rest += rest
            del self._rest[MAX_LINE + 1 :]  # enough to see that the line is too long
