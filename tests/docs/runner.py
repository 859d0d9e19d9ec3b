"""Does what a page of documentation tells its reader to do, and sees what the page says is seen.

Files are written, commands are run, all in an empty folder. The server gets a
free port; ids, times and the like differ each time, and are masked. The server, and a command of
trio-jobs that needs nothing of the shell, goes on in a fork of a Python that has imported it.
"""

import atexit
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from threading import Condition, Thread, Timer
from typing import IO

from tests.command import environment
from tests.docs.blocks import Block, Command, commands_of
from tests.ready_python import Fork, ReadyPython
from trio_jobs.cli import COMMANDS

SECONDS = 60.0

KILL = "kill -9 $(cat jobs.db-lock)"
# By its name it would be every server of this machine.
RELOAD = "pkill -HUP -x trio-jobs"

_IS_SERVER = re.compile(rf"trio-jobs\b(?! ({'|'.join(COMMANDS)})\b)(?!.*--(check|version|help))")
_IS_PLAIN = re.compile(r"trio-jobs\b[^\n$`\\|&;<>()*?~#]*")
_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_MASKS = [
    # A child process has half a second to end by itself, which a busy machine does not give it.
    (re.compile(r"^.*\bprocesses_killed\b.*\n?", re.MULTILINE), ""),
    (_ID, "<id>"),
    (re.compile(r"(?<=^id: )[0-9a-f]{8}(?=-)", re.MULTILINE), "<boot>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r"(?<=date: )\w.*GMT"), "<time>"),
    (re.compile(r"(?:127\.0\.0\.1|localhost):\d+"), "<address>"),
    (re.compile(r"/(?:[^\s'\"():/]+/)*(?=[^\s'\"():/]+\.(?:py|db|txt)\b)"), "<folder>/"),
    (re.compile(r"(?<=\(process )\d+"), "<n>"),
    (re.compile(r"(?<= seconds=)[\d.e-]+"), "<seconds>"),
    (re.compile(r"(?<=in )\d+\.\d\ds"), "<seconds>"),
    (re.compile(r"(?<=  )[\d,.]+/s  done in (?:\d+ [dhms] ?)+"), "<rate>"),
    (re.compile(r'(?<=_seconds":)[\d.e-]+'), "<seconds>"),
    (re.compile(r"(?<=duration=)[\d.e-]+"), "<seconds>"),
    (re.compile(r'(?<="duration":)[\d.e-]+'), "<seconds>"),
    (re.compile(r"(?<=content-length: )\d+"), "<n>"),  # a duration's digits count
    (re.compile(r"(?<=worker=worker-)\d+"), "<n>"),
    (re.compile(r"(?<=buffered=)\d+"), "<n>"),
    (re.compile(r'(?<=buffered":)\d+'), "<n>"),
    (re.compile(r'(?<="key":")[0-9a-f]{12}(?=:)'), "<run>"),
    (re.compile(r"[\d.,]+(?=/s  (?:done in|\d))"), "<n>"),
    (re.compile(r"(?<=  done in )\d.*(?= s$)", re.MULTILINE), "<n>"),
]

# A file that changes at once may have the size and the time of the one before: compiled, that one
# would be taken for it.
_ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "80"}


@cache
def ready_python() -> ReadyPython:
    """What forks the commands of all readers."""
    ready = ReadyPython(environment(_ENVIRONMENT))
    atexit.register(ready.close)
    return ready


class Reader:
    """Somebody who follows a page.

    Args:
        folder: Where, empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "work"
        self._folder.mkdir()
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name, module in (
            ("python", ""),
            ("trio-jobs", "-m trio_jobs"),
            ("pytest", "-m pytest -p trio_jobs.testing.plugin -p no:asyncio -p no:cacheprovider"),
        ):
            script = self._bin / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
            script.chmod(0o755)
        self._environment = environment(
            {**_ENVIRONMENT, "PATH": f"{self._bin}:{os.environ['PATH']}"}
        )
        self._ids: dict[str, str] = {}  # the page's → the real one
        self._status = 0
        self._server: Fork | None = None
        self._stderr: IO[str] | None = None
        self._log: list[str] = []
        self._log_reader: Thread | None = None
        self._more = Condition()
        self._reloads = 0
        self._address = "localhost:8080"

    def follow(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            AssertionError: It cannot be done, or what happens is something else.
        """
        if block.kind == "console":
            for command in commands_of(block):
                self._run(command)
        elif block.name is not None:
            self.write(block.name, block.text)

    def write(self, name: str, text: str) -> None:
        """Write a file; the machine's own folders stay as they are."""
        path = self._folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("localhost:8080", self._address))

    def start(self, text: str) -> None:
        """Start the server, by this command."""
        assert self._server is None, "a server is running already"
        self._server = self._fork(text, {"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"})
        assert self._server.stderr is not None
        self._stderr = os.fdopen(self._server.stderr)
        for line in self._stderr:
            self._log.append(line)
            if found := re.search(r"Running on http://(\S+)", line):
                self._address = found[1]
                break
        else:
            raise AssertionError("".join(self._log))
        # Read on: a log that nobody reads would lose lines.
        self._log_reader = Thread(target=self._read_log, args=(self._stderr,))
        self._log_reader.start()

    def close(self) -> None:
        """End the server, if the page has left it running."""
        if self._server is not None:
            self._stop()
            assert self._status == 0, "".join(self._log)

    def kill(self) -> None:
        """End the server at once, if there is one."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(SECONDS)
            self._end()

    def _run(self, command: Command) -> None:
        text = command.text.replace("localhost:8080", self._address)
        for told, real in self._ids.items():
            text = text.replace(told, real)
        if text == "^C":
            self._stop()
            self._compare(command, self._new_log())
        elif _IS_SERVER.match(text):
            self.start(text)
            self._compare(command, self._new_log())
        elif text == RELOAD:
            self._reload()
        elif text == KILL:
            assert self._server is not None, "no server is running"
            # The page names the process by the file that it has locked.
            pid = int((self._folder / "jobs.db-lock").read_text())
            assert pid == self._server.pid
            self.kill()
            self._log.clear()
        else:
            if self._status:
                assert "$?" in command.text, f"status {self._status} came before {text!r}"
            # The page's server is where a command looks for it; this one has another port.
            url = {} if self._server is None else {"TRIO_JOBS_URL": f"http://{self._address}"}
            run = self._run_plain if _IS_PLAIN.fullmatch(text) else self._run_in_shell
            self._status, output = run(text, url)
            self._compare(command, output)

    def _run_in_shell(self, text: str, variables: dict[str, str]) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", f"(exit {self._status}); {text}"],
            cwd=self._folder,
            env=self._environment | variables,
            stdout=subprocess.PIPE,
            # Of curl this is a picture of its progress.
            stderr=subprocess.PIPE if "curl" in text else subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout.decode()

    def _run_plain(self, text: str, variables: dict[str, str]) -> tuple[int, str]:
        read, write = os.pipe()
        command = self._fork(text, variables, stdout=write, stderr=write)
        os.close(write)
        too_long = Timer(SECONDS, command.kill)
        too_long.start()
        with os.fdopen(read) as output:
            written = output.read()
        too_long.cancel()
        return command.wait(SECONDS), written

    def _fork(
        self,
        text: str,
        variables: dict[str, str],
        *,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
    ) -> Fork:
        _, *arguments = shlex.split(text)
        return ready_python().fork(
            arguments,
            cwd=self._folder,
            env=self._environment | variables,
            stdout=stdout,
            stderr=stderr,
        )

    def _reload(self) -> None:
        """Send the signal, and wait until the server has said what it has reloaded."""
        assert self._server is not None, "no server is running"
        with self._more:
            count = self._reloads
            self._server.send_signal(signal.SIGHUP)
            assert self._more.wait_for(lambda: self._reloads > count, SECONDS)

    def _read_log(self, lines: IO[str]) -> None:
        for line in lines:
            with self._more:
                self._log.append(line)
                self._reloads += " reloaded what=" in line
                self._more.notify_all()

    def _compare(self, command: Command, output: str) -> None:
        output = output.replace("\r\n", "\n").strip()
        if not command.output:
            return
        assert _pattern(command.output).fullmatch(f"{mask(output)}\n"), (
            f"{command.text}\nwrites\n{output}\nand not\n{command.output}"
        )
        told, real = _ID.findall(command.output), _ID.findall(output)
        if len(told) == len(real):
            self._ids.update(zip(told, real, strict=True))

    def _stop(self) -> None:
        assert self._server is not None, "no server is running"
        self._server.send_signal(signal.SIGINT)
        self._status = self._server.wait(SECONDS)
        self._end()

    def _end(self) -> None:
        assert self._stderr is not None
        if self._log_reader is not None:
            self._log_reader.join(SECONDS)
        self._stderr.close()
        self._server = None

    def _new_log(self) -> str:
        text = "".join(self._log)
        self._log.clear()
        return text


def mask(text: str) -> str:
    """The text without what is another one each time."""
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text


def _pattern(output: str) -> re.Pattern[str]:
    # A line of three dots stands for any lines.
    lines = [
        "(?:.*\n)*?" if line.strip() == "..." else re.escape(line) + "\n"
        for line in mask(output).splitlines()
    ]
    return re.compile("".join(lines))
