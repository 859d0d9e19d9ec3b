"""`ServerPipes`: a child's ends of the two pipes to the server; in the child process."""

import os
import threading
from collections import deque

import msgspec

from trio_jobs.handlers.child_log import LogLine, line_text
from trio_jobs.handlers.frames import HEADER, Kind, frame
from trio_jobs.handlers.progress_report import ProgressReport

# Bytes that one read takes at most, unless a frame is longer: several jobs that were sent ahead.
_CHUNK_BYTES = 65_536


class ServerPipes:
    """The two pipes to the server. A forked copy of this process closes them."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests = requests
        self._answers = answers
        self._unread = b""  # what has been read of the frames to come, from here on
        self._at = 0
        self._lock = threading.RLock()
        self._frames: deque[bytes] = deque()
        self._writing = False
        self.is_copy = False
        self._pid = os.getpid()

    def read(self) -> bytes | None:
        """Wait for the next frame, and return its body; None if the pipe is closed."""
        # Not by a file object: a thread that reads would hold its lock, and block a forked copy.
        while True:
            start, most = self._at + HEADER.size, _CHUNK_BYTES
            if len(self._unread) >= start:
                end = start + HEADER.unpack_from(self._unread, self._at)[1]
                if len(self._unread) >= end:
                    body = self._unread[start:end]
                    self._at = end
                    return body
                most = max(most, end - len(self._unread))
            chunk = os.read(self._requests, most)
            if not chunk:
                return None
            self._unread = self._unread[self._at :] + chunk
            self._at = 0

    def write(self, kind: Kind, body: bytes, *, before: bytes = b"") -> None:
        """Write the frame ``before`` and one more; blocks while the server does not read."""
        self._frames.append(before + frame(kind, body))
        with self._lock:
            if self._writing:
                # A signal handler that logs has interrupted this function in the same thread.
                # The interrupted call goes on to write this frame as well.
                return
            self._writing = True
            try:
                while self._frames:
                    self._write(memoryview(self._frames.popleft()))
            finally:
                self._writing = False

    def send_line(self, line: LogLine) -> None:
        """Send a line to the server's log. A copy writes it to standard error."""
        if self.is_copy:
            # In one write, so that the lines of other processes do not come in its middle.
            os.write(2, line_text(line).encode(errors="backslashreplace"))
        else:
            self.write(Kind.LOG, msgspec.json.encode(line))

    def send_report(self, report: ProgressReport) -> None:
        """Send what the running job has reported."""
        self.write(Kind.PROGRESS, msgspec.json.encode(report))

    def become_a_copy(self) -> None:
        """Close the pipes, which are the original's."""
        self.is_copy = True
        os.close(self._requests)
        os.close(self._answers)

    def end_copy(self) -> None:
        """End this process if it is a copy: of an import, or of a library that forks unseen."""
        if self.is_copy or os.getpid() != self._pid:
            os._exit(0)

    def _write(self, data: memoryview) -> None:
        try:
            while data:
                data = data[os.write(self._answers, data) :]
        except BrokenPipeError:  # the server ends, or has ended
            os._exit(1)
