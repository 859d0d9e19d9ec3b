"""A Python process that has imported the package, and forks itself for each command of a test.

The imports are most of what a start costs. A fork goes on as `python -m trio_jobs` does after them:
in a folder, with an environment, arguments, descriptors and a process group of its own. Another
such process forks itself for runs of pytest.

`python -m tests.ready_python FD MODULE` starts that process, which is no child of the tests: some
look at their children. It ends when the other end of its socket closes.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Self
from unittest.mock import Mock

import httpx
import trio
from trio._core import _run as trio_run

from tests.made_once import make_once
from trio_jobs.api.app import create_app
from trio_jobs.cli import COMMANDS, make_parser

# By what is run: the modules that are imported before.
MODULES: Mapping[str, Sequence[str]] = {
    # What servers and commands import, also those that tell by their settings what they need.
    "trio_jobs": (
        "encodings.idna",
        "encodings.utf_8_sig",
        "importlib.readers",
        "trio_jobs.bootstrap",
        "trio_jobs.config",
        "trio_jobs.metrics.exporter",
        "trio_jobs.pool.counted_moves",
        "trio_jobs.store_in_database",
        "trio_jobs.store_in_file",
        *(f"trio_jobs.commands.{module}" for module, _ in COMMANDS.values()),
    ),
    # What projects with tests import. The plugins stand here that pytest finds by itself.
    "pytest": (
        *("_hypothesis_pytestplugin", "anyio.pytest_plugin", "pytest_trio.plugin", "xdist.plugin"),
        *("_pytest.faulthandler", "_pytest.junitxml", "_pytest.unittest", "_pytest.warnings"),
        "hypothesis.strategies",
        "trio_jobs.testing.plugin",
        "trio_jobs.testing.asgi_client",
        "trio_jobs.testing.virtual_time",
    ),
}

# Variables of such names have their effect while Python starts.
AT_THE_START = ("PYTHON", "LC_", "LANG", "LD_")

# Modules that the end of a fork leaves out: to take them down, it would copy them.
KEPT: dict[str, ModuleType] = {}

# Of a number in the pipe from the parent of a command: its pid, and in the end its status.
NUMBER_BYTES = 8

# A message with the descriptors of a command; the first leads to what it is asked for.
REQUEST = b"f"


class Fork:
    """A command in a fork: `subprocess.Popen`, as far as the tests use that.

    Attributes:
        pid: The process, the leader of a process group of its own.
        returncode: Its status, or minus the signal that has ended it; None until ``wait`` returns.
        numbers: A descriptor that can be read once it has ended.
        stdin: The descriptor of what it reads, if that is a pipe; the caller closes it.
        stdout: Of what it writes to standard output, likewise.
        stderr: Of what it writes to standard error, likewise.
    """

    def __init__(self, numbers: int, pipes: Mapping[int, int]) -> None:
        self.pid = _number(os.read(numbers, NUMBER_BYTES))
        self.returncode: int | None = None
        self.numbers = numbers
        self.stdin, self.stdout, self.stderr = map(pipes.get, range(3))

    def wait(self, timeout: float) -> int:
        """Its status, once it has ended.

        Raises:
            TimeoutError: It has not ended after so many seconds.
        """
        if self.returncode is None:
            if not select.select([self.numbers], [], [], timeout)[0]:
                raise TimeoutError(f"process {self.pid} is still there after {timeout} s")
            self.returncode = _number(os.read(self.numbers, NUMBER_BYTES))
            os.close(self.numbers)
        return self.returncode

    def send_signal(self, signum: signal.Signals) -> None:
        """Send a signal, unless it has ended: then its pid may be that of another process."""
        if self.returncode is None and not select.select([self.numbers], [], [], 0)[0]:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class ForkedProcess:
    """A command in a fork: `trio.Process`, as far as the tests use that.

    Attributes:
        pid: As of `Fork`.
        stdin: What it reads, if that is a pipe.
        stdout: What it writes to standard output, if that is a pipe.
        stderr: What it writes to standard error, if that is a pipe.
    """

    def __init__(self, fork: Fork) -> None:
        self.pid = fork.pid
        self.stdin, self.stdout, self.stderr = (
            None if fd is None else trio.lowlevel.FdStream(fd)
            for fd in (fork.stdin, fork.stdout, fork.stderr)
        )
        self._fork = fork
        self._waiting = trio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill it, and close its pipes."""
        with trio.CancelScope(shield=True):
            self.kill()
            await self.wait()
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    await stream.aclose()

    @property
    def returncode(self) -> int | None:
        """As of `Fork`."""
        return self._fork.returncode

    async def wait(self) -> int:
        """Its status, once it has ended."""
        async with self._waiting:
            if self._fork.returncode is None:
                await trio.lowlevel.wait_readable(self._fork.numbers)
            return self._fork.wait(0)

    def send_signal(self, signum: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        self._fork.send_signal(signum)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._fork.kill()


class ReadyPython:
    """The process, once it is asked for the first fork."""

    def __init__(self, env: Mapping[str, str], module: str = "trio_jobs") -> None:
        """Start it, in this environment.

        Args:
            env: The variables.
            module: What it runs, one of `MODULES`.
        """
        self._socket, its = socket.socketpair()
        self._at_the_start = _at_the_start(env)
        subprocess.run(
            [sys.executable, "-m", "tests.ready_python", str(its.fileno()), module],
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
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        patch: str = "",
    ) -> Fork:
        """Start `python -m trio_jobs`, or pytest, with these arguments, in a fork.

        Each of the three is a descriptor, PIPE or DEVNULL, as `subprocess` has them. The patch is
        program text that runs before.
        """
        numbers, tell = os.pipe()
        read, write = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        theirs = [read, tell, null]
        pipes = {}
        standard = []
        for number, fd in enumerate((stdin, stdout, stderr)):
            if fd == subprocess.PIPE:
                ends = os.pipe()
                pipes[number], fd = ends if number else ends[::-1]
                theirs.append(fd)
            standard.append(null if fd == subprocess.DEVNULL else fd)
        socket.send_fds(self._socket, [REQUEST], [read, tell, *standard])
        for fd in theirs:
            os.close(fd)
        with os.fdopen(write, "w") as file:
            request = {"arguments": [*arguments], "cwd": str(cwd), "env": dict(env), "patch": patch}
            json.dump(request, file)
        return Fork(numbers, pipes)

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


def main(requests: socket.socket, module: str) -> None:
    """Fork for each request. Return in a fork at its end, or when there are no more requests."""
    del sys.path[0]  # it led to this module
    atexit.register(_leave_out_what_is_kept)  # before those of a command: it runs after them
    for each in MODULES[module]:
        import_module(each)
    # What is made once, or kept by `re`.
    make_once()
    create_app(Mock())
    make_parser(print)
    httpx.Client().close()
    KEPT.update(sys.modules)
    # A collection, as at the end of a fork, leaves out what is there now: it would copy all of it.
    gc.collect()
    gc.freeze()
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    tells: dict[int, int] = {}
    while True:
        if ended in select.select([requests, ended], [], [])[0]:
            ended.recv(4096)
            with suppress(ChildProcessError):
                while (found := os.waitpid(-1, os.WNOHANG))[0]:
                    with suppress(BrokenPipeError):  # nobody waits for it any more
                        _tell(tells[found[0]], os.waitstatus_to_exitcode(found[1]))
                    os.close(tells.pop(found[0]))
            continue
        request, fds, _, _ = socket.recv_fds(requests, len(REQUEST), 5)
        if not request:
            os._exit(0)  # at once: to take down what has been imported costs more than many forks
        asked, tell, *standard = fds
        if not (pid := os.fork()):
            break
        tells[pid] = tell
        for fd in (asked, *standard):
            os.close(fd)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for end in (requests, ended, wake):
        end.close()
    for fd in tells.values():
        os.close(fd)
    _run(module, asked, tell, *standard)


def _run(module: str, asked: int, tell: int, *standard: int) -> None:
    os.setpgid(0, 0)  # so a signal to its group does not reach the tests
    _tell(tell, os.getpid())
    os.close(tell)
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
        os.close(fd)
    with os.fdopen(asked) as file:
        request = json.load(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    trio_run._r.seed()  # each server has a schedule of its own
    # What `-m` does.
    sys.path.insert(0, request["cwd"])
    sys.argv[1:] = request["arguments"]
    exec(request["patch"], {"os": os, "sys": sys, "trio": trio})  # noqa: S102 - the test's text
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _leave_out_what_is_kept() -> None:
    for name in KEPT:
        sys.modules.pop(name, None)


if __name__ == "__main__" and not os.fork():
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
