"""A Python process that has imported the package, and forks itself for each command of a test.

The imports are most of what a start costs. A fork goes on as `python -m trio_jobs` does after them:
in a folder, with an environment, arguments, descriptors and a process group of its own.

`python -m tests.ready_python FD` starts that process, which is no child of the tests: some look at
their children. It ends when the other end of its socket closes.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import trio
from trio._core import _run

MODULES = ("trio_jobs.bootstrap", "trio_jobs.config", "trio_jobs.commands.run.command")

# Variables of such names have their effect while Python starts.
AT_THE_START = ("PYTHON", "LC_", "LANG", "LD_")

# Of a number in the pipe from the parent of a command: its pid, and in the end its status.
NUMBER_BYTES = 8

# A message with the descriptors of a command; the first leads to what it is asked for.
REQUEST = b"f"


class ForkedProcess:
    """A command in a fork: `trio.Process`, as far as the tests use that.

    Attributes:
        pid: The process, the leader of a process group of its own.
        returncode: Its status, or minus the signal that has ended it; None until ``wait`` returns.
        stdout: What it writes to standard output, if that is a pipe.
        stderr: What it writes to standard error.
    """

    def __init__(self, numbers: int, stdout: int | None, stderr: int) -> None:
        self.pid = _number(os.read(numbers, NUMBER_BYTES))
        self.returncode: int | None = None
        self.stdout = None if stdout is None else trio.lowlevel.FdStream(stdout)
        self.stderr = trio.lowlevel.FdStream(stderr)
        self._numbers = trio.lowlevel.FdStream(numbers)
        self._waiting = trio.Lock()

    async def wait(self) -> int:
        """Its status, once it has ended."""
        async with self._waiting:
            if self.returncode is None:
                self.returncode = _number(await self._numbers.receive_some(NUMBER_BYTES))
                await self._numbers.aclose()
        return self.returncode

    def send_signal(self, signum: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class ReadyPython:
    """The process, once it is asked for the first fork."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Start it, in this environment."""
        self._socket, its = socket.socketpair()
        self._at_the_start = _at_the_start(env)
        subprocess.run(
            [sys.executable, "-m", "tests.ready_python", str(its.fileno())],
            cwd=Path(__file__).parents[1],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            process_group=0,  # Ctrl-C is for the tests
            check=True,
        )
        its.close()

    def can_fork(self, env: Mapping[str, str]) -> bool:
        """Whether a fork with this environment is the same as a start with it."""
        return _at_the_start(env) == self._at_the_start

    def fork(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: int
    ) -> ForkedProcess:
        """Start `python -m trio_jobs` with these arguments, in a fork.

        Standard error is a pipe; standard output is PIPE or DEVNULL, as `subprocess` has them.
        """
        numbers, tell = os.pipe()
        errors, stderr = os.pipe()
        piped = stdout == subprocess.PIPE
        output, stdout = os.pipe() if piped else (None, os.open(os.devnull, os.O_WRONLY))
        read, write = os.pipe()
        theirs = [read, tell, stdout, stderr]
        socket.send_fds(self._socket, [REQUEST], theirs)
        for fd in theirs:
            os.close(fd)
        with os.fdopen(write, "w") as file:
            json.dump({"arguments": [*arguments], "cwd": str(cwd), "env": dict(env)}, file)
        return ForkedProcess(numbers, output, errors)

    def close(self) -> None:
        """End it."""
        self._socket.close()


def _at_the_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(AT_THE_START)}


def _number(data: bytes | bytearray) -> int:
    assert len(data) == NUMBER_BYTES, "the process that forks has failed"
    return int.from_bytes(data, signed=True)


def _tell(fd: int, number: int) -> None:
    os.write(fd, number.to_bytes(NUMBER_BYTES, signed=True))


def main(requests: socket.socket) -> None:
    """Fork for each request. Return in a fork after its end, or when there are no more requests."""
    del sys.path[0]  # it led to this module
    for module in MODULES:
        import_module(module)
    while True:
        request, fds, _, _ = socket.recv_fds(requests, len(REQUEST), 4)
        with suppress(ChildProcessError):  # no zombie lives longer than to the next request
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not request or not os.fork():
            break
        for fd in fds:
            os.close(fd)
    requests.close()
    if request:
        _fork_the_command(*fds)


def _fork_the_command(asked: int, tell: int, stdout: int, stderr: int) -> None:
    """Fork once more: this process tells how the command ends."""
    command = os.fork()
    if command:
        for fd in (asked, stdout, stderr):
            os.close(fd)
        _, status = os.waitpid(command, 0)
        _tell(tell, os.waitstatus_to_exitcode(status))
        return
    os.setpgid(0, 0)  # so a signal to its group does not reach the tests
    _tell(tell, os.getpid())
    os.close(tell)
    for fd, standard in ((stdout, 1), (stderr, 2)):
        os.dup2(fd, standard)
        os.close(fd)
    with os.fdopen(asked) as file:
        request = json.load(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    _run._r.seed()  # each server has a schedule of its own
    # What `-m` does.
    sys.path.insert(0, request["cwd"])
    sys.argv[1:] = request["arguments"]
    runpy.run_module("trio_jobs", run_name="__main__", alter_sys=True)


if __name__ == "__main__" and not os.fork():
    main(socket.socket(fileno=int(sys.argv[1])))
