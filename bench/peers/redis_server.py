"""Debian's `redis-server`, on a free port of the loopback interface, while the peers need it."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from bench.children import Child


def find() -> str | None:
    """The program, if it is installed."""
    return shutil.which("redis-server")


def version(program: str) -> str:
    """Its version."""
    done = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)  # noqa: S603
    return done.stdout.split()[2].removeprefix("v=")


@contextmanager
def running(program: str) -> Iterator[int]:
    """The server, while the block runs; its port.

    All settings are its defaults, but for snapshots, which are off: nothing
    of the disk's is in the peers' figures.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        tempfile.TemporaryDirectory(prefix="trio-jobs-bench-") as folder,
        Child(
            [
                *(program, "--port", str(port), "--bind", "127.0.0.1"),
                *("--save", "", "--dir", folder),
            ]
        ) as child,
    ):
        child.wait_for("Ready to accept connections")
        yield port
