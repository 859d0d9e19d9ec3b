"""A machine of its own for a test, to boot, and to try files in where they belong.

    with open_room(tmp_path, "/lib/systemd/systemd") as room:
        await room.run("systemctl", "enable", "trio-jobs")

It is a copy of the machine that the tests run on, see ``room.sh``; nothing that is done there
stays.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.docs.machine import need

# Seconds that a command may take there: some install a project, or build an image.
PATIENCE = 120.0

PROGRAMS = ("bash", "curl", "ip", "mount", "nsenter", "pivot_root", "unshare")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The machine.

    Attributes:
        pid: Its first process, as this machine has it.
    """

    pid: int

    def inside(self, *command: str) -> list[str]:
        """The command that runs this one there."""
        return ["nsenter", f"--target={self.pid}", "--all", "--root", "--wdns=/", *command]

    async def run(self, *command: str, stdin: str = "") -> str:
        """Run a command there, which must succeed; what it writes."""
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(
                self.inside(*command),
                stdin=stdin.encode(),
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )
        output = done.stdout.decode()
        assert done.returncode == 0, f"{' '.join(command)}\n{output}"
        return output

    def path(self, path: str) -> Path:
        """Where this machine sees a file of that one."""
        return Path(f"/proc/{self.pid}/root{path}")

    async def write(self, path: str, text: str) -> None:
        """Write a file there, and the folder that it is in."""
        await self.run("sh", "-c", f"mkdir -p $(dirname {path}) && cat >{path}", stdin=text)


def need_room() -> None:
    """Skip the test where there can be no room."""
    need(*PROGRAMS)
    # Not to be had by installing something: no failure anywhere.
    if os.geteuid() != 0:
        pytest.skip("needs to be root")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("needs namespaces of its own")


@contextmanager
def open_room(folder: Path, *first: str) -> Iterator[Room]:
    """Open one, with its first process; it ends with the block."""
    script = Path(__file__).with_name("room.sh")
    root = folder / "room"
    root.mkdir(parents=True)
    with (
        (folder / "room.log").open("w+") as log,
        subprocess.Popen(
            ["unshare", "--mount", "bash", script, root, *first],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            process_group=0,  # so a signal to its group does not reach the tests
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        log.seek(0)
        assert line, f"there is no room:\n{log.read()}"
        room = Room(pid=int(line))
        try:
            yield room
        finally:
            os.kill(room.pid, signal.SIGKILL)
            assert process.wait(PATIENCE) == 0
