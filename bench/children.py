"""Child processes: the benchmark starts them, reads their output, and stops them."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent

_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server in a child."""

    pid: int
    port: int


class ChildError(Exception):
    """A child failed; the text has its last lines."""


class Child:
    """A process and its descendants; leaving the `with` block ends them.

    Args:
        command: The program and its arguments.
        environment: Additional environment variables.
    """

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._process = subprocess.Popen(  # noqa: S603  (commands of this package)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            cwd=ROOT,
            text=True,
            errors="replace",
            start_new_session=True,  # a group of its own, so that a signal reaches descendants
        )
        self.pid = self._process.pid
        # The thread writes, `wait_for` reads. The thread reads on, so the child never blocks.
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._tail: deque[str] = deque(maxlen=15)
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_for(self, pattern: str, *, seconds: float = 30.0) -> re.Match[str]:
        """Return the match in the next line of output that contains the pattern.

        Raises:
            ChildError: The child ended, or wrote no such line in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                command = " ".join(self._command)
                raise ChildError(f"{command} did not write {pattern!r}:\n{''.join(self._tail)}")
            match = re.search(pattern, line)
            if match is not None:
                return match

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.pid, number)
                self._process.wait(_STOP_SECONDS)
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  (a pipe was asked for)
        for line in self._process.stdout:
            self._tail.append(line)
            self._lines.put(line)
        self._lines.put(None)


def python_module(name: str, *arguments: str) -> Child:
    """A module of this package in a process of its own."""
    return Child(
        [sys.executable, "-m", name, *arguments], environment={"PYTHONPATH": module_path()}
    )


def module_path() -> str:
    """The import path of this process, for a child."""
    return os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])
