"""A pipe with a log at its one end, and the test at the other."""

import contextlib
import os
import select


class Pipe:
    """A pipe with a log at its one end, and the test at the other."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def fill(self) -> None:
        """Leave no room in the pipe."""
        with contextlib.suppress(BlockingIOError):
            fd = os.open(f"/proc/self/fd/{self.writer}", os.O_WRONLY | os.O_NONBLOCK)
            try:
                while True:
                    os.write(fd, b"x" * 4095 + b"\n")
            finally:
                os.close(fd)

    def read(self) -> list[str]:
        """The lines that are in the pipe now, but for what ``fill`` wrote."""
        data = b""
        while select.select([self.reader], [], [], 0)[0]:
            piece = os.read(self.reader, 65536)
            if not piece:
                break
            data += piece
        return [line for line in data.decode().splitlines() if not line.startswith("xxx")]

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(fd)
