"""Every row of the page about exit statuses and signals is true.

The rows are read from the page: one without a test fails, and so does a test without a row.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import (
    MODULE,
    PATIENCE,
    Command,
    Gate,
    configuration,
    ledger,
    run_command,
    running_command,
    started_command,
    write_files,
)
from tests.docs.test_references import rows_of_server
from tests.system.test_stop import unread_socket
from trio_jobs.shutdown.signals import ENDING, HARMLESS, RELOADING, STOPPING

# Between two signals that count.
APART = 0.3

ROWS = [row[0] for row in rows_of_server()]

Check = Callable[[Path], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def row(text: str) -> Callable[[Check], Check]:
    """The check for the row whose first cell begins with this text."""

    def add(check: Check) -> Check:
        assert text not in CHECKS
        CHECKS[text] = check
        return check

    return add


def check_for(cell: str) -> str:
    """The beginning of a row's first cell that stands for its check."""
    if cell in CHECKS:
        return cell
    [found] = [text for text in CHECKS if cell.startswith(f"{text}, ")]
    return found


# Statuses


@row("0")
async def _(folder: Path) -> None:
    async with running_command(folder, config=configuration("quick")) as server:
        await server.submit("quick", "job")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
        assert ledger(folder) == ["job"]
        assert "stopped status=0 " in server.lines[-1]


@row("1")
async def _(folder: Path) -> None:
    config = configuration("at_the_gate", workers=1, grace_period=0.1)
    with Gate(folder):
        async with running_command(folder, config=config) as server:
            taken = server.url.removeprefix("http://")
            second = await run_command(folder / "second", f"--bind={taken}")
            await server.submit("at_the_gate")
            server.send(signal.SIGTERM)

            assert await server.wait_exit() == 1
            assert server.lines_with("jobs_interrupted")
            assert "stopped status=1 " in server.lines[-1]
    assert second.status == 1


@row("2")
async def _(folder: Path) -> None:
    assert (await run_command(folder, config="[pol]")).status == 2
    assert (await run_command(folder, "--wrkers=1")).status == 2


@row("70")
async def _(folder: Path) -> None:
    config = configuration("stubborn", workers=1, grace_period=0.1, graceful_timeout=0.1)
    async with running_command(folder, config=config) as server:
        await server.submit("stubborn")
        await server.wait_for_line("stubborn_began")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 70
        assert server.lines_with("jobs_interrupted")
        assert not server.lines_with("stopped")


HOLDS_THE_GIL = """
import os
import signal

async def hold(_):
    signal.raise_signal(signal.SIGTERM)
    sum(range(10**12))
"""
SHORT = "[pool]\ngrace_period = 0.1\n[http]\ngraceful_timeout = 0.1\n"


@row("1, 1 s beyond the hard limit")
async def _(folder: Path) -> None:
    config = f'{SHORT}[handlers]\nhold = "work:hold"'
    async with running_command(folder, config=config, handlers=HOLDS_THE_GIL) as server:
        with contextlib.suppress(httpx.RequestError):  # it may begin before the answer is sent
            await server.client.post("/jobs", json={"type": "hold"})

        assert await server.wait_exit() == 1
        assert server.lines_with("in hold")
        assert not server.lines_with("jobs_interrupted") + server.lines_with("hard limit")


@row("killed by SIGALRM, 1.5 s beyond it")
async def _(_: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("stop_programs.py")), "holds_the_gil"]
    with unread_socket() as log:
        ended = await trio.run_process(program, stderr=log, check=False)

    assert ended.returncode == -signal.SIGALRM


@row("any other")
async def _(folder: Path) -> None:
    ends = "import atexit, os\natexit.register(os._exit, 9)\nasync def quick(_): pass"
    async with running_command(folder, config=configuration("quick"), handlers=ends) as server:
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 9
        assert not server.lines_with("stopped")
    at_import = await run_command(
        folder, config=configuration("quick"), handlers="import os; os._exit(9)"
    )
    assert at_import.status == 9


@row("killed by another signal")
async def _(folder: Path) -> None:
    await killed_by(signal.SIGKILL, folder)


async def killed_by(signum: int, folder: Path) -> None:
    """A server that is sent this signal ends by it, without a word."""
    with Gate(folder):
        async with running_command(folder, config=configuration("at_the_gate")) as server:
            await server.submit("at_the_gate")
            os.kill(server.process.pid, signum)

            assert await server.wait_exit() == -signum
            assert not server.lines_with("jobs_interrupted") + server.lines_with("stopped")


# Signals

PERIODS = {"workers": 1, "grace_period": 60}


async def drains(signum: signal.Signals, folder: Path) -> None:
    """The first lets jobs end, the second interrupts them, the third ends the process."""
    for count, (status, event) in enumerate(
        [(0, "stopped status=0"), (1, "jobs_interrupted"), (70, "third signal")], start=1
    ):
        function = "at_the_gate" if count < 3 else "stubborn"
        config = configuration(function, graceful_timeout=60, **PERIODS)
        place = folder / f"{signum.name}{count}"
        with Gate(place) as gate:
            async with running_command(place, config=config) as server:
                await server.submit(function, "job")
                await server.wait_for_line(f"work {function}")
                for n in range(count):
                    await trio.sleep(APART if n else 0)
                    server.send(signum)
                    if n == 1 and count == 3:
                        await server.wait_for_line("cancellation_swallowed")
                await server.wait_for_line("draining")
                if count == 1:
                    gate.open()

                assert await server.wait_exit() == status
                assert server.lines_with(event)
                assert ledger(place) == (["job"] if count == 1 else [])


@row("SIGTERM, SIGINT")
async def _(folder: Path) -> None:
    async with trio.open_nursery() as servers:
        for signum in STOPPING:
            servers.start_soon(drains, signum, folder)


@row("SIGHUP")
async def _(folder: Path) -> None:
    await change_nothing(folder, signal.SIGHUP, said="reloaded what=nothing")
    await hangs_up(folder / "terminal")


# Its own process group keeps a process from beginning a session, so a child begins it.
ON_A_TERMINAL = """
import os, sys
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os.setsid()
os.dup2(os.open("TERMINAL", os.O_RDWR), 0)
os.execv(sys.executable, [sys.executable, "-m", "trio_jobs"])
"""


async def hangs_up(folder: Path) -> None:
    """A server drains at the end of the terminal on which it was started."""
    terminal, inside = os.openpty()
    program = ON_A_TERMINAL.replace("TERMINAL", os.ttyname(inside))
    with Gate(folder) as gate, os.fdopen(terminal, "wb") as hung:
        async with running_command(
            folder,
            config=configuration("at_the_gate", grace_period=60),
            command=(sys.executable, "-c", program),
        ) as server:
            await server.submit("at_the_gate", "job")
            await server.wait_for_line("work at_the_gate")
            os.close(inside)
            hung.close()
            await server.wait_for_line("draining")
            gate.open()

            assert await server.wait_exit() == 0
            assert ledger(folder) == ["job"]


@row("SIGQUIT")
async def _(folder: Path) -> None:
    with Gate(folder):
        config = configuration("at_the_gate", workers=1, grace_period=60)
        async with running_command(folder, config=config) as server:
            running, waiting = [await server.submit("at_the_gate") for _ in range(2)]
            await server.wait_for_line("work at_the_gate")
            server.send(signal.SIGQUIT)

            assert await server.wait_exit() == 70
            assert server.lines_with("SIGQUIT: the process ends with status 70")
            assert server.lines_with("jobs_interrupted", running)
            assert server.lines_with("jobs_not_started", waiting)


async def change_nothing(folder: Path, *signals: signal.Signals, said: str = "") -> None:
    """A server that is sent these goes on as if there had been none; it may say so."""
    with Gate(folder) as gate:
        async with running_command(folder, config=configuration("at_the_gate")) as server:
            await server.submit("at_the_gate", "job")
            await server.wait_for_line("work at_the_gate")
            for signum in signals:
                server.send(signum)
                if said:
                    await server.wait_for_line(said.format(signum.name))
                server.send(signum)
            assert (await server.client.get("/health/ready")).status_code == 200
            gate.open()
            server.send(signal.SIGTERM)

            assert await server.wait_exit() == 0
            assert ledger(folder) == ["job"]
            warnings = [f"signal_ignored signal={each.name}" for each in signals]
            expected = warnings if "signal_ignored" in said else []
            assert [
                line.partition("other_signals ")[2] for line in server.lines_with("WARNING")
            ] == expected


IGNORED = "signal_ignored signal={}"


@row("SIGUSR1, SIGUSR2")
async def _(folder: Path) -> None:
    await change_nothing(folder, signal.SIGUSR1, signal.SIGUSR2, said=IGNORED)


@row("SIGALRM, before a stop")
async def _(folder: Path) -> None:
    await change_nothing(folder, signal.SIGALRM, said=IGNORED)


@row("SIGALRM, during a stop")
async def _(folder: Path) -> None:
    with Gate(folder):
        config = configuration("at_the_gate", workers=1, grace_period=60)
        async with running_command(folder, config=config) as server:
            await server.submit("at_the_gate")
            server.send(signal.SIGTERM)
            await server.wait_for_line("draining")
            server.send(signal.SIGALRM)

            assert await server.wait_exit() == -signal.SIGALRM


@row("SIGPIPE, SIGXFSZ, SIGCHLD, SIGURG, SIGWINCH")
async def _(folder: Path) -> None:
    names = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH)
    await change_nothing(folder, *names)


async def stands_still(folder: Path) -> None:
    """A stopped process does nothing; it drains when it goes on."""
    with Gate(folder) as gate:
        config = configuration("at_the_gate")
        # Not a fork: its parent alone is told that it stands still.
        async with running_command(folder, config=config, command=MODULE) as server:
            await server.submit("at_the_gate", "job")
            await server.wait_for_line("work at_the_gate")
            # The others of the row have no effect on a process without a terminal.
            server.send(signal.SIGSTOP)
            os.waitid(os.P_PID, server.process.pid, os.WSTOPPED | os.WNOWAIT)  # noqa: ASYNC222 - at once
            gate.open()
            server.send(signal.SIGTERM)
            assert ledger(folder) == []
            server.send(signal.SIGCONT)

            assert await server.wait_exit() == 0
            assert ledger(folder) == ["job"]


@row("SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU")
async def _(folder: Path) -> None:
    await stands_still(folder)


@row("SIGCONT")
async def _(folder: Path) -> None:
    await stands_still(folder)


# At the least; some systems have more.
FATAL = [
    *(signal.SIGKILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
    *(signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP, signal.SIGXCPU, signal.SIGPROF),
    *(signal.SIGVTALRM, signal.SIGIO, signal.SIGPWR, signal.SIGSTKFLT),
    *(signal.SIGRTMIN, signal.SIGRTMAX),
]


@row("SIGKILL")
async def _(folder: Path) -> None:
    # Each is the kernel's to act on: some of them are enough.
    async with trio.open_nursery() as servers:
        for signum in (signal.SIGABRT, signal.SIGSEGV, signal.SIGXCPU, signal.SIGRTMAX):
            servers.start_soon(killed_by, signum, folder / signum.name)


@row("a signal of the first four rows that the server's parent ignores")
async def _(folder: Path) -> None:
    ignore = "import os, signal, sys\n" + "".join(
        f"signal.signal(signal.{name}, signal.SIG_IGN)\n"
        for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
    )
    ignore += "os.execv(sys.executable, [sys.executable, '-m', 'trio_jobs'])"
    config = configuration("quick")
    async with running_command(
        folder, config=config, command=(sys.executable, "-c", ignore)
    ) as server:
        for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            server.send(signum)
        await server.submit("quick", "job")
        assert (await server.client.get("/health/ready")).status_code == 200
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
        assert ledger(folder) == ["job"]


# The first second


async def signalled_by_itself(folder: Path, signum: signal.Signals, customize: str) -> Command:
    """A command that gets a signal where a ``sitecustomize`` module sends it; it has ended."""
    (folder / "site").mkdir(parents=True)
    (folder / "site" / "sitecustomize.py").write_text(customize.replace("SIGNAL", signum.name))
    path = os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        async with started_command(
            folder,
            config=configuration("quick"),
            handlers="open('imported', 'w')\nasync def quick(_): pass",
        ) as server:
            await server.wait_exit()
    return server


IN_PYTHONS_START = "import os, signal; os.kill(os.getpid(), signal.SIGNAL)"

# When one of the first modules of the server's that take long is imported.
AT_AN_IMPORT = """
import importlib.abc
import os
import signal
import sys

class Signals(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "LATE":
            os.kill(os.getpid(), signal.SIGNAL)

sys.meta_path.insert(0, Signals())
"""


@row("before the command's first lines have run")
async def _(folder: Path) -> None:
    for signum in (*STOPPING, RELOADING, *ENDING, *HARMLESS):
        ended = await signalled_by_itself(folder / signum.name, signum, IN_PYTHONS_START)
        if signum == signal.SIGINT:
            assert ended.lines_with("KeyboardInterrupt")
            assert ended.process.returncode in (1, -signum)
        else:
            assert (ended.process.returncode, ended.lines) == (-signum, [])


@row("then, until the configuration is read")
async def _(folder: Path) -> None:
    # The second is what the arguments are parsed with.
    for signum, late in zip((*STOPPING, *ENDING), ["trio", "argparse", "trio"], strict=True):
        customize = AT_AN_IMPORT.replace("LATE", late)
        ended = await signalled_by_itself(folder / signum.name, signum, customize)
        if signum == signal.SIGQUIT:
            assert ended.process.returncode == 70
            assert ended.lines_with("SIGQUIT: the process ends with status 70")
        else:
            assert ended.process.returncode == 0
            assert ended.lines_with("stopped", "status=0")
        assert not (folder / signum.name / "imported").exists()
        assert not ended.lines_with("Running on")


@row("in that time")
async def _(folder: Path) -> None:
    # The ten seconds are shortened.
    command = (
        "import signal, sys, time; from trio_jobs.shutdown import signals;"
        " signals._NOTED_SECONDS = 0.2;"
        " taken = signals.Signals(); taken.take(); signal.raise_signal(signal.SIGTERM);"
        " open(sys.argv[1]).read()"
    )
    os.mkfifo(folder / "config.toml")
    ended = await trio.run_process(
        [sys.executable, "-c", command, str(folder / "config.toml")], check=False
    )

    assert ended.returncode == -signal.SIGALRM


@row("while the handlers are imported")
async def _(folder: Path) -> None:
    handlers = """
import os
import signal
os.kill(os.getpid(), signal.SIGTERM)
open("gate").read(1)  # waits for the test
open("imported", "w")

async def quick(_): pass
"""
    with Gate(folder) as gate:
        config = configuration("quick") + '\nlate = "late:quick"'
        write_files(folder)
        (folder / "late.py").write_text("open('late', 'w')\nasync def quick(_): pass")
        async with started_command(folder, config=config, handlers=handlers) as server:
            gate.open()

            assert await server.wait_exit() == 0
    assert (folder / "imported").exists()
    assert not (folder / "late").exists()
    assert not server.lines_with("Running on")
    assert server.lines_with("stopped", "status=0")

    endless = "import signal, time\nsignal.raise_signal(signal.SIGTERM)\ntime.sleep(3600)"
    config = f'{SHORT}[handlers]\nquick = "work:quick"'
    async with started_command(folder, config=config, handlers=endless) as server:
        assert await server.wait_exit() == 70
    assert server.lines_with("hard limit")
    assert server.lines_with("work.py", "in <module>")


@row("while the server begins to listen")
async def _(folder: Path) -> None:
    patch = """
import signal
from trio_jobs.server import serve

warm_up = serve.warm_up

async def be_signalled_and_warm_up(*arguments):
    signal.raise_signal(signal.SIGTERM)
    await warm_up(*arguments)

serve.warm_up = be_signalled_and_warm_up
"""
    config = configuration("quick")
    async with started_command(folder, config=config, patch=patch) as server:
        assert await server.wait_exit() == 0
    assert not server.lines_with("Running on")
    assert server.lines_with("stopped", "status=0")


@pytest.mark.parametrize("cell", ROWS)
async def test_row_is_true(cell: str, tmp_path: Path) -> None:
    await CHECKS[check_for(cell)](tmp_path)


def test_every_check_has_a_row() -> None:
    assert sorted(map(check_for, ROWS)) == sorted(CHECKS)


def test_every_signal_is_on_the_page() -> None:
    told = {name for cell in ROWS for name in re.findall(r"SIG[A-Z0-9]+", cell)}

    assert {signal.Signals(name).name for name in signal.Signals} <= told
    assert {each.name for each in FATAL} <= told


# What comes after the stop

LEAVES_MUCH = """
import atexit
import sys
import threading

threads = []

async def leave(_):
    threading.Thread(target=end_late).start()
    atexit.register(note, "atexit")
    sys.stdout.write("nobody can be told")

def end_late():
    threading.main_thread().join(0.3)
    note("thread")

def note(text):
    with open("ledger", "a") as ledger:
        print(text, file=ledger)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_what_comes_after_the_stop_comes_before_the_line_that_tells_the_status(
    tmp_path: Path,
) -> None:
    write_files(tmp_path, config='[handlers]\nleave = "work:leave"', handlers=LEAVES_MUCH)
    program = """
import signal
import sys
import trio_jobs.http_service
from trio_jobs.cli import run

serve = trio_jobs.http_service.serve

async def serve_and_submit(app, *arguments, **settings):
    import httpx, trio
    async with trio.open_nursery() as nursery:
        async def submit():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
                await client.post("http://localhost/jobs", json={"type": "leave"})
            signal.raise_signal(signal.SIGTERM)
        nursery.start_soon(submit)
        await serve(app, *arguments, **settings)

trio_jobs.http_service.serve = serve_and_submit
sys.exit(run(["--bind=127.0.0.1:0"]))
"""
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=180,
            check=False,
        )

    assert ended.returncode == 0, ended.stderr
    assert ledger(tmp_path) == ["atexit", "thread"]
    assert b"stopped status=0" in ended.stderr.splitlines()[-1]


# What comes before the server serves

LEAVES_A_THREAD = """
import threading
import time

threading.Thread(target=time.sleep, args=(3600,)).start()

async def quick(_): pass
"""
LEAVES_A_PROGRAM = """
import multiprocessing
import os
import time

child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
child.start()
with open("ledger", "w") as ledger:
    ledger.write(str(child.pid))

async def quick(_): pass
"""
# The five seconds are shortened.
SOON = "import trio_jobs.cli as cli; cli.UNSERVED_SECONDS = 0.3"


@pytest.mark.parametrize("options", [(), ("--check",)], ids=["start", "--check"])
@pytest.mark.parametrize(
    ("handlers", "function"),
    [
        (LEAVES_A_THREAD, "nothing"),
        (LEAVES_A_THREAD + "raise ImportError('missing')", "quick"),
        (LEAVES_A_PROGRAM, "nothing"),
    ],
    ids=["thread", "thread and error", "program"],
)
async def test_mistake_that_is_found_in_a_module_ends_the_process_whatever_the_module_has_left(
    tmp_path: Path, handlers: str, function: str, options: tuple[str, ...]
) -> None:
    async with started_command(
        tmp_path,
        *options,
        config=f'[handlers]\nquick = "work:{function}"',
        handlers=handlers,
        patch=SOON,
    ) as server:
        try:
            with trio.fail_after(PATIENCE):
                await server.process.wait()
        finally:
            for child in ledger(tmp_path):
                os.kill(int(child), signal.SIGKILL)  # it holds the log open
        assert await server.wait_exit() == 2
    assert server.lines[0].startswith("trio-jobs: ")
    assert server.lines_with("the process ends with status 2")


async def test_check_ends_whatever_a_module_has_left(tmp_path: Path) -> None:
    async with started_command(
        tmp_path,
        "--check",
        config='[handlers]\nquick = "work:quick"',
        handlers=LEAVES_A_THREAD,
        patch=SOON,
    ) as checked:
        assert await checked.wait_exit() == 0
    assert checked.lines_with("the process ends with status 0")


async def test_check_ends_by_the_first_signal_even_by_one_that_has_come_early(
    tmp_path: Path,
) -> None:
    customize = AT_AN_IMPORT.replace("LATE", "argparse").replace("SIGNAL", "SIGTERM")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(customize)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
        early = await run_command(tmp_path, "--check", config=configuration("quick"))
    late = await run_command(
        tmp_path,
        "--check",
        config=configuration("quick"),
        handlers="import signal; signal.raise_signal(signal.SIGTERM)",
    )

    assert early.status == late.status == -signal.SIGTERM
    assert not early.output + late.output
