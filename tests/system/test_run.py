"""`trio-jobs run` without a server: statuses, signals, ends of all kinds, and how it goes on."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.command import (
    PATIENCE,
    Command,
    Finished,
    Gate,
    each_line_is_answered_at_once,
    environment,
    ledger,
    patched,
    ready_python,
    run_command,
    started_command,
    write_files,
)
from tests.ready_python import ForkedProcess

CONFIG = """
[pool]
workers = 4
processes = 1
[handlers]
at_the_gate = "work:at_the_gate"
quick = "work:quick"
stubborn = "work:stubborn"
fail = "work:fail"
odd = "records:odd"
deadly = "records:deadly"
total = "records:total"
[handlers.paused]
call = "work:quick"
paused = true
[handlers.lists]
call = "records:doubled"
run = "process"
"""

# The import of `records` says when the child processes may import it: at the first job.
HANDLERS = r"""
import os, signal
from work import note

async def odd(payload: int) -> int:
    note(payload)
    print("printed by a handler")
    if payload % 3 == 0:
        raise ValueError(f"no {payload}")
    return payload

async def deadly(payload: int) -> int:
    note(payload)
    if os.path.exists(f"kill at {payload}"):
        os.remove(f"kill at {payload}")
        os.kill(os.getpid(), signal.SIGKILL)
    return payload

def doubled(payloads: list[int]) -> list[int]:
    return [2 * each for each in payloads]

async def total(payloads: list[int]) -> int:
    return sum(payloads)
"""

OUT = ("--config=config.toml", "--out=out")


class Folder:
    """Where a run finds its input, and leaves its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        write_files(path, config=CONFIG)
        (path / "records.py").write_text(HANDLERS)

    def write(self, *payloads: object, name: str = "records") -> None:
        text = "".join(f"{json.dumps(each)}\n" for each in payloads)
        (self.path / name).write_text(text)

    def lines(self, name: str = "out") -> list[dict[str, Any]]:
        return [json.loads(each) for each in (self.path / name).read_bytes().splitlines()]

    def numbers(self, name: str = "out") -> list[int]:
        return sorted(each["line"] for each in self.lines(name))

    def names(self) -> set[str]:
        code = {"config.toml", "work.py", "records.py", "__pycache__", "ledger", "gate"}
        return {path.name for path in self.path.iterdir()} - code

    async def run(
        self, *arguments: str, command: Sequence[str] | None = None, patch: str = ""
    ) -> Finished:
        words = ("run", *arguments)
        return await run_command(self.path, *words, config=CONFIG, command=command, patch=patch)

    def started(self, *arguments: str, patch: str = "") -> Any:  # noqa: ANN401
        return started_command(self.path, "run", *arguments, config=CONFIG, patch=patch)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def test_results_and_failures_are_files_and_failures_can_be_run_again(
    folder: Folder,
) -> None:
    folder.write(*range(1, 21))

    finished = await folder.run("records", "--type=odd", "--failed=failed", *OUT)

    assert (finished.status, finished.output.count("printed")) == (3, 20)
    assert finished.lines[-1].startswith(" 20/20  6 failed  ")
    assert folder.numbers() == list(range(1, 21))
    assert folder.numbers("failed") == [3, 6, 9, 12, 15, 18]
    assert folder.lines("failed")[0].keys() == {
        "line", "id", "outcome", "error", "type", "payload"
    }  # fmt: skip

    again = await folder.run("failed", "--config=config.toml", "--out=again")
    assert again.status == 3
    assert {each["error"]["message"] for each in folder.lines("again")} == {
        f"no {number}" for number in (3, 6, 9, 12, 15, 18)
    }


async def test_run_that_succeeds_leaves_nothing_but_results(folder: Folder) -> None:
    folder.write(*range(1, 101))

    finished = await folder.run("records", "--type=quick", "--quiet", *OUT)

    assert (finished.status, finished.output) == (0, "")
    assert [line for line in finished.lines if "quick_ran" not in line] == []
    assert folder.names() == {"records", "out"}
    assert {each["line"]: each["result"] for each in folder.lines()} == {
        number: number for number in range(1, 101)
    }


async def test_paused_type_runs_since_nobody_could_resume_it(folder: Folder) -> None:
    folder.write(1, 2)

    finished = await folder.run("records", "--type=paused", *OUT)

    assert (finished.status, folder.numbers()) == (0, [1, 2])


async def test_variables_of_a_server_say_nothing_to_a_run_without_one(folder: Folder) -> None:
    folder.write(1)
    variables = {"TRIO_JOBS_URL": "http://none:1", "TRIO_JOBS_TOKEN": "sesame"}
    options = ("run", "records", "--type=odd", *OUT)

    finished = await run_command(folder.path, *options, config=CONFIG, environment=variables)

    assert (finished.status, len(finished.lines)) == (0, 1)


async def test_log_is_on_standard_error_or_in_its_file(folder: Folder) -> None:
    folder.write(1, 3)
    options = ("run", "records", "--type=odd")
    failing = ("job_failed", "handler_raised")

    quiet = await run_command(folder.path, *options, *OUT, config=CONFIG)
    wordy = await run_command(
        folder.path, *options, "--config=config.toml", "--out=2",
        config=f'{CONFIG}[logging]\nlevel = "debug"\n',
    )  # fmt: skip
    filed = await run_command(
        folder.path, *options, "--config=config.toml", "--out=3",
        config=f'{CONFIG}[logging]\nfile = "log"\n',
    )  # fmt: skip

    assert not any(event in line for line in quiet.lines for event in failing)
    assert all(any(event in line for line in wordy.lines) for event in failing)
    assert len(filed.lines) == len(quiet.lines) == 1
    log = (folder.path / "log").read_text()
    assert all(event in log for event in failing)


async def test_results_go_to_standard_output_and_prints_of_handlers_do_not(
    folder: Folder,
) -> None:
    folder.write(1, 2, 4)

    finished = await folder.run("records", "--type=odd", "--config=config.toml")

    assert finished.status == 0
    assert sorted(json.loads(each)["result"] for each in finished.output.splitlines()) == [1, 2, 4]
    assert finished.lines.count("printed by a handler") == 3


async def test_chunk_is_one_job_and_each_record_has_its_line(folder: Folder) -> None:
    folder.write(*range(1, 26))

    finished = await folder.run("records", "--type=lists", "--chunk=10", *OUT)
    wrong = await folder.run(
        "records", "--type=total", "--chunk=10", "--config=config.toml", "--out=wrong"
    )

    assert finished.status == 0
    assert {each["line"]: each["result"] for each in folder.lines()} == {
        number: 2 * number for number in range(1, 26)
    }
    assert len({each["id"] for each in folder.lines()}) == 3
    assert wrong.status == 3
    assert folder.numbers("wrong") == list(range(1, 26))
    assert {each["error"]["type"] for each in folder.lines("wrong")} == {"ChunkError"}


async def test_first_ctrl_c_waits_and_a_later_run_does_the_rest(folder: Folder) -> None:
    folder.write(*range(1, 101))
    with Gate(folder.path) as gate:
        async with folder.started("records", "--type=at_the_gate", *OUT) as run:
            await run.wait_for_lines(4, "at_the_gate")
            run.send(signal.SIGINT)
            line = await run.wait_for_line("stopping: waiting for")
            gate.open()
            status = await run.wait_exit()
        done = folder.numbers()
        finished = await folder.run("records", "--type=at_the_gate", "--resume", *OUT)

    assert status == 130
    assert line == "stopping: waiting for 16 jobs; Ctrl-C again to cancel them"
    assert run.lines[-1] == (
        " 16/100 in out; go on with: trio-jobs run records --type at_the_gate --out out"
        " --config config.toml --resume"
    )
    assert done == list(range(1, 17))
    assert finished.status == 0
    assert folder.numbers() == list(range(1, 101))
    assert ledger(folder.path) == sorted(map(str, range(1, 101)))  # each record once
    assert folder.names() == {"records", "out"}


async def test_second_ctrl_c_cancels_and_a_later_run_does_it_again(folder: Folder) -> None:
    folder.write(*range(1, 31))
    with Gate(folder.path) as gate:
        async with folder.started("records", "--type=at_the_gate", *OUT) as run:
            await run.wait_for_lines(4, "at_the_gate")
            run.send(signal.SIGINT)
            await run.wait_for_line("stopping: waiting for")
            await trio.sleep(0.25)  # a quicker one would be taken for a copy
            run.send(signal.SIGINT)
            status = await run.wait_exit()
        assert (status, folder.lines(), ledger(folder.path)) == (130, [], [])
        gate.open()
        finished = await folder.run("records", "--type=at_the_gate", "--resume", *OUT)

    assert finished.status == 0
    assert folder.numbers() == list(range(1, 31))
    assert ledger(folder.path) == sorted(map(str, range(1, 31)))


async def test_third_ctrl_c_ends_the_process_at_once(folder: Folder) -> None:
    folder.write(*range(1, 31))
    async with folder.started("records", "--type=stubborn", *OUT) as run:
        await run.wait_for_lines(4, "stubborn_began")
        run.send(signal.SIGINT)
        await run.wait_for_line("stopping: waiting for")
        await trio.sleep(0.25)
        run.send(signal.SIGINT)
        await run.wait_for_line("cancellation_swallowed")
        await trio.sleep(0.25)
        run.send(signal.SIGINT)
        status = await run.wait_exit()

    assert status == 130
    assert folder.names() == {"records", "out", "out.run"}


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_sigterm_and_sighup_wait_as_the_first_ctrl_c(
    folder: Folder, signum: signal.Signals, status: int
) -> None:
    folder.write(*range(1, 101))
    with Gate(folder.path) as gate:
        async with folder.started("records", "--type=at_the_gate", *OUT) as run:
            await run.wait_for_lines(4, "at_the_gate")
            run.send(signum)
            await run.wait_for_line("stopping: waiting for")
            run.send(signum)
            gate.open()
            assert await run.wait_exit() == status

    assert folder.numbers() == list(range(1, 17))


async def test_signal_after_the_last_line_ends_a_run_that_is_done(folder: Folder) -> None:
    folder.write(1, 2)
    with Gate(folder.path) as gate:
        async with folder.started("records", "--type=at_the_gate", *OUT) as run:
            await run.wait_for_lines(2, "at_the_gate")
            run.send(signal.SIGINT)
            await run.wait_for_line("stopping: waiting for")
            gate.open()
            assert await run.wait_exit() == 0

    assert folder.names() == {"records", "out"}


@pytest.mark.parametrize("at", [1, 150, 200])
async def test_killed_run_goes_on_with_each_line_once(folder: Folder, at: int) -> None:
    folder.write(*range(1, 201))
    (folder.path / f"kill at {at}").touch()

    killed = await folder.run("records", "--type=deadly", *OUT)
    torn = folder.path / "out"
    torn.write_bytes(torn.read_bytes() + b'{"line":7,"outc')
    finished = await folder.run("records", "--type=deadly", "--resume", *OUT)

    assert killed.status == -signal.SIGKILL
    assert finished.status == 0
    assert folder.numbers() == list(range(1, 201))
    ran = Counter(ledger(folder.path))
    assert ran.keys() == {str(number) for number in range(1, 201)}
    assert max(ran.values()) <= 2  # under way, or not yet written, at the kill


async def test_second_run_on_the_same_results_is_refused(folder: Folder) -> None:
    folder.write(*range(1, 101))
    with Gate(folder.path) as gate:
        async with folder.started("records", "--type=at_the_gate", *OUT) as run:
            await run.wait_for_lines(4, "at_the_gate")
            second = await folder.run("records", "--type=at_the_gate", "--resume", *OUT)
            gate.open()
            assert await run.wait_exit() == 0

    assert second.status == 2
    assert "another run writes to out" in second.lines[-1]
    assert folder.numbers() == list(range(1, 101))


async def test_another_input_is_refused(folder: Folder) -> None:
    folder.write(*range(1, 101))
    (folder.path / "kill at 50").touch()
    await folder.run("records", "--type=deadly", *OUT)
    before = (folder.path / "out").read_bytes()
    folder.write(*range(2, 102))

    other = await folder.run("records", "--type=deadly", "--resume", *OUT)

    assert other.status == 2
    assert "the input is another one" in other.lines[-1]
    assert (folder.path / "out").read_bytes() == before


async def test_existing_files_are_refused_and_stay(folder: Folder) -> None:
    folder.write(1)
    (folder.path / "out").write_text("precious")

    finished = await folder.run("records", "--type=quick", *OUT)

    assert finished.status == 2
    assert finished.lines == ["trio-jobs: out exists already: --resume goes on with it"]
    assert (folder.path / "out").read_text() == "precious"


async def test_full_disk_ends_the_run_with_whole_lines_and_room_lets_it_go_on(
    folder: Folder,
) -> None:
    folder.write(*range(1, 201))
    # Some Pythons keep what they could write of a compiled module, and cannot import it again.
    limit = (
        "import resource, sys; sys.dont_write_bytecode = True\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))"
    )

    full = await folder.run("records", "--type=quick", *OUT, patch=limit)
    done = folder.numbers()
    finished = await folder.run("records", "--type=quick", "--resume", *OUT)

    assert full.status == 1
    assert "trio-jobs: out cannot be written: File too large" in full.lines
    assert full.lines[-1].startswith(f" {len(done)}/200 in out; go on with: ")
    assert 0 < len(done) < 200
    assert finished.status == 0
    assert folder.numbers() == list(range(1, 201))


async def test_records_that_failed_are_tried_again(folder: Folder) -> None:
    folder.write(*range(1, 11))
    failed = "--failed=failed"
    await folder.run("records", "--type=odd", failed, *OUT)
    unchanged = await folder.run("records", "--type=odd", failed, "--resume", *OUT)
    assert (unchanged.status, len(ledger(folder.path))) == (3, 10)
    (folder.path / "records.py").write_text(HANDLERS.replace("payload % 3 == 0", "payload == 9"))

    again = await folder.run("records", "--type=odd", failed, "--resume", "--retry-failed", *OUT)

    assert again.status == 3
    assert folder.numbers() == list(range(1, 11))
    assert folder.numbers("failed") == [9]
    assert Counter(Counter(ledger(folder.path)).values()) == {1: 7, 2: 3}


async def test_files_may_have_names_that_are_no_unicode(folder: Folder) -> None:
    folder.write(*range(1, 11))
    arguments = ("records", "--type=odd", "--config=config.toml", "--out=\udcfc", "--failed=\udcdf")

    first = await folder.run(*arguments)
    again = await folder.run(*arguments, "--resume")

    assert (first.status, again.status) == (3, 3)
    assert folder.numbers("\udcfc") == list(range(1, 11))
    assert folder.numbers("\udcdf") == [3, 6, 9]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("none", *OUT), "none cannot be read: No such file or directory"),
        ((".", *OUT), ". is a folder"),
        (("records", "--resume"), "--resume needs --out"),
        (("records", "--retry-failed", *OUT), "--retry-failed needs --resume"),
        (("records", "--url=http://x", *OUT), "--url is for a server"),
        (("records", "--retry-for=5", *OUT), "--retry-for is for a server"),
        (("records", "--failed=./out", *OUT), "--out and --failed are the same file"),
        (("out", "--resume", *OUT), "--out and FILE are the same file"),
        (("-", "--resume", *OUT), "standard input may not be the same again"),
        (("records", "--chunk=0", *OUT), "expected a number from 1 to 1000000, got '0'"),
        (("records", "--retry-for=x", *OUT), "expected a time"),
        (("records", "--config=none.toml"), "none.toml"),
        (("records", "--config=config.toml", "--out=none/out"), "none/out cannot be made"),
    ],
)
async def test_mistake_is_one_line_and_status_2(
    folder: Folder, arguments: tuple[str, ...], complaint: str
) -> None:
    folder.write(1)

    finished = await folder.run(*arguments, "--type=quick")

    assert (finished.status, len(finished.lines)) == (2, 1)
    assert complaint in finished.lines[0]
    assert folder.names() == {"records"}


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://:80", "http://127.0.0.1:99999", "http://a..b", "http://xn--a"]
)
async def test_url_that_leads_to_no_host_is_a_line_and_status_2(folder: Folder, url: str) -> None:
    folder.write(1)

    finished = await folder.run("records", "--type=quick", "--retry-for=0", f"--url={url}")

    assert (finished.status, len(finished.lines)) == (2, 1)
    assert finished.lines[0].startswith(f"trio-jobs: {url} is no URL: ")


@pytest.mark.parametrize(
    "variable", [("ALL_PROXY", "socks9://proxy"), ("SSL_CERT_FILE", "/nowhere")]
)
async def test_environment_that_the_http_client_refuses_is_a_line_and_status_2(
    folder: Folder, variable: tuple[str, str]
) -> None:
    folder.write(1)
    set_it = "os.environ[{!r}] = {!r}".format(*variable)

    finished = await folder.run(
        "records", "--type=quick", "--url=https://127.0.0.1:1", "--out=out", patch=set_it
    )

    assert (finished.status, len(finished.lines)) == (2, 1)
    assert "refuses its variables" in finished.lines[0]
    assert folder.names() == {"records"}


async def test_without_an_http_client_the_command_says_what_to_install(folder: Folder) -> None:
    folder.write(1)
    without = patched("sys.modules['httpx'] = None")

    served = await folder.run("records", "--type=quick", "--out=served", command=without)
    embedded = await folder.run("records", "--type=quick", *OUT, command=without)

    assert served.status == 2
    text = "trio-jobs: this command needs an HTTP client: pip install 'trio-jobs[client]'"
    assert served.lines == [text]
    assert embedded.status == 0


async def test_progress_without_a_terminal_is_a_line_now_and_then(folder: Folder) -> None:
    folder.write(*range(1, 101))
    often = "import trio_jobs.commands.run.screen as screen; screen._PLAIN_SECONDS = 0.01"
    with Gate(folder.path) as gate:
        async with folder.started("records", "--type=at_the_gate", *OUT, patch=often) as run:
            await run.wait_for_lines(3, " 0/100  0.0/s")
            gate.open()
            assert await run.wait_exit() == 0

    assert run.lines[-1].startswith(" 100/100  ")
    assert not any("\r" in line for line in run.lines)


class Terminal:
    """A terminal that a command has as its standard error."""

    def __init__(self, columns: int) -> None:
        self.fd, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.text = ""

    async def wait_for(self, part: str) -> None:
        with trio.fail_after(PATIENCE):
            while part not in self.text:
                await trio.lowlevel.wait_readable(self.fd)
                self.text += os.read(self.fd, 10_000).decode()

    async def wait_for_the_end(self) -> None:
        """Read what is left, until no process has the terminal any more."""
        with trio.fail_after(PATIENCE), suppress(OSError):  # EIO: that is the end
            while True:
                await trio.lowlevel.wait_readable(self.fd)
                self.text += os.read(self.fd, 10_000).decode()
        os.close(self.fd)


async def test_progress_on_a_terminal_is_one_line_that_changes(folder: Folder) -> None:
    folder.write(*range(1, 1_001))
    terminal = Terminal(columns=20)
    with Gate(folder.path) as gate:
        arguments = ("run", "records", "--type=at_the_gate", *OUT)
        process = ready_python().fork(
            arguments, cwd=folder.path, env=environment(None), stderr=terminal.theirs
        )
        os.close(terminal.theirs)
        await terminal.wait_for("\r\x1b[K 0/1,000  0.0/s")
        gate.open()
        await terminal.wait_for_the_end()
        assert process.wait(PATIENCE) == 0

    shown = terminal.text.split("\r\x1b[K")
    # A line of the log is written after a progress line, and ends; the next one begins anew.
    progress = [each for each in shown if each.startswith(" ") and "\n" not in each]
    assert progress
    assert max(map(len, progress)) < 20
    assert shown[-1].startswith(" 1,000/1,000  ")
    assert shown[-1].endswith("\r\n")


async def test_lines_of_a_pipe_are_answered_as_they_come(folder: Folder) -> None:
    process = ForkedProcess(
        ready_python().fork(
            ["run", "-", "--type=quick", "--config=config.toml", "--quiet"],
            cwd=folder.path,
            env=environment(None),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    with trio.fail_after(PATIENCE):
        async with process:
            await each_line_is_answered_at_once(process)
            process.send_signal(signal.SIGINT)  # while the pipe is open and silent
            assert await process.wait() == 130


async def test_closed_standard_output_ends_the_run(folder: Folder) -> None:
    folder.write(*range(1, 10_001))
    program = f"{sys.executable} -m trio_jobs run records --type=quick --config=config.toml"
    with trio.fail_after(PATIENCE):
        finished = await trio.run_process(
            ["bash", "-c", f"{program} | head -1; exit ${{PIPESTATUS[0]}}"],
            cwd=folder.path,
            env=environment(None),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )

    assert finished.returncode == 1
    assert json.loads(finished.stdout)["result"]
    assert finished.stderr.decode().splitlines()[-1] == "trio-jobs: standard output was closed"
    assert len(ledger(folder.path)) < 10_000


async def test_run_without_standard_output_needs_a_file_for_its_results(folder: Folder) -> None:
    folder.write(1)
    program = f"{sys.executable} -m trio_jobs run records --type=quick --config=config.toml"
    with trio.fail_after(PATIENCE):
        finished = await trio.run_process(
            ["bash", "-c", f"{program} >&-"],
            cwd=folder.path,
            env=environment(None),
            capture_stderr=True,
            check=False,
        )

    assert finished.returncode == 1
    assert finished.stderr == b"trio-jobs: standard output is closed\n"
    assert ledger(folder.path) == []


async def test_nohup_keeps_a_run_going(folder: Folder) -> None:
    folder.write(*range(1, 101))
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with Gate(folder.path) as gate:
        async with folder.started("records", "--type=at_the_gate", *OUT, patch=ignoring) as run:
            await run.wait_for_lines(4, "at_the_gate")
            run.send(signal.SIGHUP)
            gate.open()
            assert await run.wait_exit() == 0
    assert isinstance(run, Command)
