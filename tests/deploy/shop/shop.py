"""The project that the page about deployment deploys."""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERSION = 1


def hold(_payload: object) -> str:
    """Wait until somebody writes into the gate, a named pipe; who writes waits for this."""
    return Path("gate").read_text()


async def email(payload: object) -> object:
    """End at once."""
    return payload


def version(_payload: object) -> int:
    """Which one's code this is."""
    return VERSION


def where(_payload: object) -> str:
    """Which server this is."""
    time.sleep(0.05)
    return socket.gethostname()


def use_the_machine(port: int) -> str:
    """Do what handlers do: files, a program, the network, a lock between processes."""
    kept = Path(os.environ["STATE_DIRECTORY"], f"kept-{os.getpid()}")
    kept.write_text("kept")
    with tempfile.TemporaryFile() as file:
        file.write(b"temporary")
    subprocess.run(["sh", "-c", "exit 0"], check=True)
    with multiprocessing.Lock(), socket.create_connection(("localhost", port)):
        return kept.read_text()


def write_beside_the_code(_payload: object) -> None:
    """Fail: the project is read-only."""
    Path(__file__).with_name("written").touch()


def background(_payload: object) -> int:
    """Leave a program behind that ends by itself; its id."""
    program = f"{sys.executable} -c pass"
    start = f"import subprocess; print(subprocess.Popen({program.split()}).pid)"
    return int(subprocess.check_output([sys.executable, "-c", start]))
