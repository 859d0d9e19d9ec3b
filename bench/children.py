"""Child processes: started, heard, and stopped by their process id."""

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
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parent.parent

_STOP_SECONDS = 5.0


class ChildError(Exception):
    """A child that did not do what it was started for; the text has its last lines."""


class Child:
    """A process of its own; leaving the `with` block ends it and what it has started.

    Args:
        command: The program and its arguments.
        environment: More environment variables.
        folder: Where it runs; by default where the project is.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        self._command = command
        # A group of its own: what the child has started goes with it.
        self._process = subprocess.Popen(  # noqa: S603  (commands of this package)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            cwd=folder,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        # The thread writes, `wait_for` reads; nobody waits for the child's output to be read.
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._tail: deque[str] = deque(maxlen=15)
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_for(self, pattern: str, *, seconds: float = 30.0) -> re.Match[str]:
        """The first line, from the present one on, in which the pattern is found.

        Raises:
            ChildError: It has ended, or said nothing of the kind in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise self._failed(f"did not say {pattern!r} within {seconds:.0f} s") from None
            if line is None:
                raise self._failed(f"ended without saying {pattern!r}")
            match = re.search(pattern, line)
            if match is not None:
                return match

    def stop(self) -> None:
        """Ask it to end, and after some seconds end it. Can be called again."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  (a pipe was asked for)
        for line in self._process.stdout:
            self._tail.append(line)
            self._lines.put(line)
        self._lines.put(None)

    def _failed(self, what: str) -> ChildError:
        return ChildError(f"{' '.join(self._command)} {what}:\n{''.join(self._tail)}")


def python_module(name: str, *arguments: str) -> Child:
    """A module of this package in a process of its own, run by the present Python."""
    return Child(
        [sys.executable, "-m", name, *arguments], environment={"PYTHONPATH": module_path()}
    )


def module_path() -> str:
    """Where a child finds what this process finds."""
    return os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])
