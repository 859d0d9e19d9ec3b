"""The other end of `tally`: where the measuring process hears that the jobs are done."""

import json
import select
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.peers.tally import EVERY, SOCKET


class SilenceError(Exception):
    """Nobody reported in time."""


class Listener:
    """One peer's reports."""

    def __init__(self, *, every: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="trio-jobs-bench-")
        path = Path(self._folder.name, "reports")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {SOCKET: str(path), EVERY: str(every)}

    def wait_for(self, key: str, *, seconds: float) -> Any:  # noqa: ANN401  (what was reported)
        """What is reported next under this key; other reports are passed over.

        Raises:
            SilenceError: Nothing was, for so long.
        """
        while True:
            if not select.select([self._socket], [], [], seconds)[0]:
                raise SilenceError(f"no {key!r} within {seconds:.0f} s")
            report = json.loads(self._socket.recv(1_048_576))
            if key in report:
                return report[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()
        self._folder.cleanup()
