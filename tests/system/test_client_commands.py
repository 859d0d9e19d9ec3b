"""The commands that talk to a server: the real command, against a real server that they share."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread

import pytest

from tests.command import MODULE, PATIENCE, environment, ready_python, write_files
from tests.docs.machine import need, pass_over
from tests.ready_python import Fork

# One worker: what is behind a job that waits at the gate stays pending.
CONFIG = """
[pool]
workers = 1
buffer_size = 2
[handlers]
quick = "shop:quick"
email = "shop:email"
wait = "shop:wait"
"""
SHOP = r"""
import trio

async def quick(payload):
    return payload

async def email(address: str):
    if "@" not in address:
        raise ValueError(f"{address!r} is no address \u202e1")
    return f"sent to {address}"

async def wait(_payload):
    await trio.sleep_forever()
"""


class Started:
    """A command that runs.

    Attributes:
        fork: Its process.
        stdout: What it writes to standard output, if that is a pipe.
        stderr: What it writes to standard error.
    """

    def __init__(self, fork: Fork) -> None:
        assert fork.stderr is not None
        self.fork = fork
        self.stdout = None if fork.stdout is None else os.fdopen(fork.stdout, "rb")
        self.stderr = os.fdopen(fork.stderr, "rb")

    def close(self) -> None:
        """Kill it."""
        self.fork.kill()
        self.fork.wait(PATIENCE)
        self.stderr.close()
        if self.stdout is not None:
            self.stdout.close()


class Shop:
    """A running server, and who asks it.

    Attributes:
        folder: Where both run.
        url: The server's.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def ask(
        self, *arguments: str, given: bytes = b"", command: Sequence[str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """A command from beginning to end."""
        env = environment({"TRIO_JOBS_URL": self.url})
        if command is not None:
            return subprocess.run(
                [*command, *arguments],
                cwd=self.folder,
                env=env,
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
        with TemporaryFile() as stdin, TemporaryFile() as stdout, TemporaryFile() as stderr:
            stdin.write(given)
            for file in (stdin, stdout, stderr):
                file.seek(0)
            fork = ready_python().fork(
                arguments,
                cwd=self.folder,
                env=env,
                stdin=stdin.fileno(),
                stdout=stdout.fileno(),
                stderr=stderr.fileno(),
            )
            try:
                status = fork.wait(PATIENCE)
            finally:
                fork.kill()
            for file in (stdout, stderr):
                file.seek(0)
            return subprocess.CompletedProcess(arguments, status, stdout.read(), stderr.read())

    @contextmanager
    def started(self, *arguments: str, stdout: int) -> Iterator[Started]:
        """A command that is killed at the end of the block."""
        env = environment({"TRIO_JOBS_URL": self.url})
        fork = ready_python().fork(
            arguments, cwd=self.folder, env=env, stdout=stdout, stderr=subprocess.PIPE
        )
        with closing(Started(fork)) as started:
            yield started

    def output(self, *arguments: str, given: bytes = b"") -> str:
        """What a command writes that does what it is asked for."""
        done = self.ask(*arguments, given=given)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()


@contextmanager
def running_shop(folder: Path, config: str = CONFIG, bind: str = "127.0.0.1:0") -> Iterator[Shop]:
    """A server in this folder, until the end of the block."""
    write_files(folder, config=config)
    (folder / "shop.py").write_text(SHOP)
    variables = environment({"TRIO_JOBS_HTTP_BIND": bind})
    fork = ready_python().fork((), cwd=folder, env=variables, stderr=subprocess.PIPE)
    with closing(Started(fork)) as server:
        line = next(line for line in server.stderr if b"Running on" in line).decode()
        reader = Thread(target=server.stderr.read)  # otherwise the log would lose lines
        reader.start()
        try:
            yield Shop(folder, line.split()[-1])
        finally:
            server.fork.kill()
            reader.join()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The server that the tests share."""
    with running_shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


def test_submit_prints_the_id_and_with_wait_the_result(shop: Shop) -> None:
    job_id = shop.output("submit", "quick", '{"a": "\u00e9"}').strip()

    assert shop.output("submit", "email", '"a@b"', "--wait") == '"sent to a@b"\n'
    assert (
        shop.output("submit", "quick", "-", "--wait=30", given=b' {"a":\n1.50} ') == '{"a":1.5}\n'
    )
    assert len(job_id) == 36


def test_a_failed_job_is_one_line_and_status_3(shop: Shop) -> None:
    done = shop.ask("submit", "email", '"a"', "--wait")

    assert (done.returncode, done.stdout) == (3, b"")
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("trio-jobs: job ")
    assert line.endswith(" failed: ValueError: 'a' is no address  1")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["submit", "emil"], "no handler for type 'emil'"),
        (["submit", "email", "1"], "$.payload: expected str, got int"),
        (["submit", "email", "{"], "PAYLOAD must be JSON, got '{'"),
        (["submit", "email", '1,"key":"a"'], "PAYLOAD must be JSON"),
        (["submit", "email", "--key="], "argument --key: expected 1 to 255 visible ASCII"),
        (["submit", "email", "--key=\u00e4"], "argument --key: expected 1 to 255 visible ASCII"),
        (["submit", "email", "--url=ftp://a"], "--url must be http://HOST:PORT"),
        (["submit", "email", "--token-file=nowhere"], "--token-file nowhere: No such file"),
    ],
)
def test_what_is_refused_is_one_line_and_status_2(
    shop: Shop, arguments: list[str], complaint: str
) -> None:
    done = shop.ask(*arguments)

    assert (done.returncode, done.stdout) == (2, b"")
    [line] = done.stderr.decode().splitlines()
    assert line.startswith(f"trio-jobs: {complaint}")


# The HTTP client imports Trio by itself.
OF_THE_SERVER = ("quart", "hypercorn", "trio_jobs.pool", "trio_jobs.config", "trio_jobs.main")
SHOW_MODULES = """
import sys
from trio_jobs.cli import run
try:
    status = run()
finally:
    print(" ".join(sys.modules), file=sys.stderr)
"""


def test_a_command_imports_no_server_and_a_server_imports_no_http_client(shop: Shop) -> None:
    command = (sys.executable, "-c", SHOW_MODULES)
    submitted = shop.ask("submit", "quick", f"--url={shop.url}", "--wait", command=command)
    checked = shop.ask("--check", command=(sys.executable, "-X", "importtime", *MODULE[1:]))

    modules = submitted.stderr.decode().split()
    assert (submitted.returncode, submitted.stdout) == (0, b"null\n")
    assert "httpx" in modules
    assert not {*OF_THE_SERVER} & {*modules}
    imported = {line.rpartition("|")[2].strip() for line in checked.stderr.decode().splitlines()}
    assert "trio_jobs.main" in imported
    assert not {"httpx", "trio_jobs.commands.submit_command"} & imported


def test_status_wait_and_list_show_jobs_as_the_server_does(shop: Shop) -> None:
    job_id = shop.output("submit", "quick", '"seen"').strip()

    waited = json.loads(shop.output("wait", job_id, "--timeout=30"))
    shown = json.loads(shop.output("status", job_id))
    [listed] = map(json.loads, shop.output("list", "--type=quick", "--limit=1").splitlines()[:1])
    pool = json.loads(shop.output("status"))

    assert waited == shown
    assert (shown["outcome"], shown["result"]) == ("succeeded", "seen")
    assert listed["id"] == job_id
    assert pool["workers"] == 1


def test_a_job_that_nobody_knows_or_that_does_not_end_is_status_4(shop: Shop) -> None:
    job_id = shop.output("submit", "wait", "--delay=1h").strip()
    unknown = job_id[:-4] + "0000"

    for name, each in (("status", unknown), ("wait", unknown), ("cancel", unknown)):
        assert shop.ask(name, each).returncode == 4
    assert shop.ask("wait", job_id, "--timeout=0").returncode == 4
    cancelled = json.loads(shop.output("cancel", job_id))
    assert cancelled["id"] == job_id
    assert shop.ask("wait", job_id).returncode == 3


def test_each_failed_job_is_listed_and_run_again_once(shop: Shop) -> None:
    assert shop.ask("submit", "email", '"again"', "--wait").returncode == 3
    [first] = map(json.loads, shop.output("list", "--failed", "--limit=1").splitlines())

    second = shop.output("rerun", first["id"]).strip()
    again = shop.ask("rerun", first["id"])
    assert shop.ask("wait", second).returncode == 3
    failed = [json.loads(line)["id"] for line in shop.output("list", "--failed").splitlines()]
    number = json.loads(shop.output("rerun", "--failed", "--type=email"))["accepted"]

    assert again.returncode == 3
    assert second in again.stderr.decode()
    assert failed[0] == second
    assert first["id"] not in failed
    assert number == len(failed)


def test_tail_shows_the_jobs_that_end_while_it_runs(shop: Shop) -> None:
    shown: list[bytes] = []
    with shop.started("tail", "--type=quick", stdout=subprocess.PIPE) as tail:
        assert tail.stdout is not None
        reader = Thread(target=lambda output: shown.append(output.readline()), args=[tail.stdout])
        reader.start()
        # Nothing tells when the server has begun to send: jobs end until one of them is shown.
        while reader.is_alive():
            shop.output("submit", "quick", "--wait")
            reader.join(0.1)

    job = json.loads(shown[0])
    assert (job["type"], job["outcome"]) == ("quick", "succeeded")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_at_once_with_the_status_that_a_shell_knows(
    shop: Shop, signum: signal.Signals
) -> None:
    job_id = shop.output("submit", "wait", "--delay=1h").strip()
    # Its first output says that it has begun to wait for the second one.
    first = shop.output("submit", "quick").strip()
    with shop.started("wait", first, job_id, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert json.loads(command.stdout.readline())["id"] == first
        command.fork.send_signal(signum)

        assert command.fork.wait(PATIENCE) == -signum
        assert command.stderr.read() == b""
    shop.output("cancel", job_id)


def test_a_closed_pipe_ends_a_command_quietly(shop: Shop) -> None:
    for _ in range(2):
        shop.output("submit", "quick", "--wait")
    reader, writer = os.pipe()
    os.close(reader)
    with shop.started("list", stdout=writer) as command:
        os.close(writer)

        assert command.fork.wait(PATIENCE) == -signal.SIGPIPE
        assert command.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_output_that_cannot_be_written_is_one_line_and_status_1(shop: Shop) -> None:
    with Path("/dev/full").open("wb") as full, shop.started("status", stdout=full.fileno()) as end:
        assert end.fork.wait(PATIENCE) == 1
        [line] = end.stderr.read().decode().splitlines()
    assert line.startswith("trio-jobs: standard output cannot be written: ")


class Terminal:
    """The other side of a terminal of 100 columns and 30 lines."""

    def __init__(self) -> None:
        self._master, self.side = pty.openpty()
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.text = ""

    def read_until(self, pattern: str) -> None:
        """Read until the text matches."""
        while not re.search(pattern, self.text):
            self.text += os.read(self._master, 65_536).decode()

    def write(self, text: str) -> None:
        """Type a text."""
        os.write(self._master, text.encode())

    def read_to_the_end(self) -> None:
        """Read what is left, once no command has the terminal."""
        with suppress(OSError):  # EIO: that is the end
            while piece := os.read(self._master, 65_536):
                self.text += piece.decode()
        os.close(self._master)


def test_a_terminal_gets_a_table_and_a_picture_that_follows_the_pool(shop: Shop) -> None:
    name = shop.output("submit", "email", '"on a terminal"').strip()
    assert shop.ask("wait", name).returncode == 3
    terminal = Terminal()
    with shop.started("list", "--failed", "--limit=1", stdout=terminal.side) as command:
        terminal.read_until("email.*\r\n")
        assert command.fork.wait(PATIENCE) == 0
    table = terminal.text.splitlines()
    terminal.text = ""
    with shop.started("top", stdout=terminal.side) as command:
        terminal.read_until(r"TYPE +RUNNING")
        shop.output("submit", "quick", "--wait")
        terminal.read_until(r"quick +\d")
        command.fork.send_signal(signal.SIGINT)
        assert command.fork.wait(PATIENCE) == -signal.SIGINT
        assert command.stderr.read() == b""
    os.close(terminal.side)
    terminal.read_to_the_end()

    assert table[0].split() == ["ID", "TYPE", "STATE", "AGE", "SECONDS", "ERROR"]
    assert table[1].split()[:3] == [name, "email", "failed"]
    assert "ValueError: 'on a terminal' is" in table[1]
    assert (len(table[1]), table[1][-1]) == (100, "…")
    # It leaves the terminal as it was: it sets no mode, and only moves and clears.
    orders = set(re.findall("\x1b[^A-Za-z]*[A-Za-z]", terminal.text))
    assert orders == {"\x1b[H", "\x1b[K", "\x1b[J"}


TOKENS = """
submit shop-1f8a shop
read grafana-77c2 grafana
"""


def test_each_role_does_what_it_may_over_a_unix_socket(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKENS)
    (tmp_path / "mine").write_text("shop-1f8a\n")
    with running_shop(
        tmp_path, f'{CONFIG}\n[http]\ntoken_file = "tokens"\n', f"unix:{tmp_path}/s"
    ) as shop:
        shop.url = f"unix:{tmp_path}/s"
        mine = ["--token-file=mine"]
        assert shop.output("submit", "quick", "1", "--wait", *mine) == "1\n"
        done = [
            shop.ask("submit", "quick"),
            shop.ask("list", *mine),
            shop.ask("status", *mine),
            shop.ask("tail", *mine),
            shop.ask("cancel", "--pending", *mine),
        ]

    assert [each.returncode for each in done] == [2] * 5
    assert [len(each.stderr.splitlines()) for each in done] == [1] * 5
    assert b"this needs the role control or read, the token has the role submit" in done[1].stderr


def test_wait_goes_on_after_a_restart_over_a_file(tmp_path: Path) -> None:
    config = f'{CONFIG}\n[store]\npath = "jobs.db"\n'
    with ExitStack() as stack:
        with running_shop(tmp_path, config) as shop:
            ended = shop.output("submit", "quick").strip()
            kept = shop.output("submit", "quick", '"kept"', "--delay=1h").strip()
            waiting = stack.enter_context(shop.started("wait", ended, kept, stdout=subprocess.PIPE))
            assert waiting.stdout is not None
            waiting.stdout.readline()  # now it waits for the other one
        with running_shop(tmp_path, config, shop.url.removeprefix("http://")):
            url = f"{shop.url}/jobs/{kept}/run-now"
            with urllib.request.urlopen(url, data=b"") as answer:  # noqa: S310  # it is http
                assert answer.status == 202
            job = json.loads(waiting.stdout.readline())
            assert waiting.fork.wait(PATIENCE) == 0

    assert (job["id"], job["result"]) == (kept, "kept")


def completion(folder: Path, shell: str, name: str) -> None:
    """Write the completion of a shell."""
    need(shell)
    if find_spec("shtab") is None:
        pass_over("needs shtab")
    done = subprocess.run(
        [sys.executable, "-m", "shtab", f"--shell={shell}", "trio_jobs.cli.complete_parser"],
        env=environment({}),
        capture_output=True,
        check=True,
    )
    (folder / name).write_bytes(done.stdout)


BASH = """
source ./file
COMP_WORDS=(trio-jobs list --fa) COMP_CWORD=2
_shtab_trio_jobs
echo ${COMPREPLY[*]}
"""
FISH = "source file; complete -C 'trio-jobs list --fa'"


@pytest.mark.parametrize(("shell", "script"), [("bash", BASH), ("fish", FISH)])
def test_completion_of_a_shell_knows_the_options(shell: str, script: str, tmp_path: Path) -> None:
    completion(tmp_path, shell, "file")

    done = subprocess.run([shell, "-c", script], cwd=tmp_path, capture_output=True, check=True)

    assert done.stdout.split()[0] == b"--failed"


def test_completion_of_zsh_completes_at_a_terminal(tmp_path: Path) -> None:
    completion(tmp_path, "zsh", "_trio-jobs")
    terminal = Terminal()
    with subprocess.Popen(
        ["zsh", "-f", "-i"],
        cwd=tmp_path,
        env={**environment({}), "HOME": str(tmp_path), "PS1": "> ", "TERM": "dumb"},
        stdin=terminal.side,
        stdout=terminal.side,
        stderr=terminal.side,
        start_new_session=True,
    ) as zsh:
        try:
            terminal.read_until("> ")
            terminal.write("fpath=($PWD $fpath); autoload -Uz compinit; compinit -D; echo so\n")
            terminal.read_until("\nso\r")
            terminal.write("trio-jobs list --fa\t")
            terminal.read_until("iled")
        finally:
            zsh.kill()
