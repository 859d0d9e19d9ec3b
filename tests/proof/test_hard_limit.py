"""The hard limit fires when it must, names what was in the way, and fires only then."""

import contextlib
import os
import signal
import time
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import Command, running_command
from tests.proof.share import share_of
from tests.server.serving import get

HANDLERS = Path(__file__).with_name("obstacles.py")

GRACE, GRACEFUL = 0.2, 0.2
# What design.md allows, after the signal.
LIMIT = GRACE + GRACEFUL + 1

# What its report may take, and a busy machine may take to notice the process's end.
SLACK = 30.0

# What the limit has to end, and what its report shows of it.
MUST_FIRE = {
    "shielded": "in shielded",
    "stubborn": "in stubborn",
    "blocking": "in blocking",
    "awaiting_a_thread": "in awaiting_a_thread",
    "leaving_a_pool": "thread left behind",
    "leaving_a_thread": "thread left behind",
}
# These two leave no job unfinished: it is only the process that does not end.
COMPLETED = {"leaving_a_pool", "leaving_a_thread"}


def config(*functions: str) -> str:
    """A short way to the limit."""
    lines = [f"[handlers.{name}]\ncall = 'work:{name}'" for name in functions]
    return "\n".join(
        [
            f"[pool]\nworkers = 4\ngrace_period = {GRACE}",
            f"[http]\ngraceful_timeout = {GRACEFUL}",
            *lines,
            *(["run = 'process'"] if functions[-1:] == ("endless_process",) else []),
        ]
    )


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="fills the log's pipe from its other end"
)


def fill_log(server: Command) -> None:
    """Nobody reads it any more, and what a pipe takes is used up."""
    server.stop_reading()
    assert isinstance(server.process.stderr, trio.lowlevel.FdStream)
    reader = server.process.stderr.fileno()
    writer = os.open(f"/proc/self/fd/{reader}", os.O_WRONLY | os.O_NONBLOCK)
    # Not by jobs that log much: their lines would come later, and not all of them perhaps.
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.close(writer)


async def ended_by_the_limit(folder: Path, function: str, *, read_log: bool) -> str:
    """Have the limit end a server in which this function runs; what was seen, in a line."""
    settings = config(function)
    handlers = HANDLERS.read_text()
    async with running_command(folder, config=settings, handlers=handlers) as server:
        job_id = await server.submit(function)
        (folder / "go").touch()
        await server.wait_for_line(f"{function}_began")
        if not read_log:
            fill_log(server)
        signalled = time.monotonic()
        server.send(signal.SIGTERM)

        status = await server.process.wait()
        took = time.monotonic() - signalled
        assert status == 70
        assert not (folder / f"ended-{server.process.pid}").exists()
        assert LIMIT - 0.1 < took < LIMIT + SLACK
        if read_log:
            await server.wait_exit()
            await server.wait_for_line("hard limit reached")
            await server.wait_for_line(MUST_FIRE[function])
            named = server.lines_with("jobs_interrupted", job_id)
            assert bool(named) == (function not in COMPLETED)
        log = "read" if read_log else "unread"
        return f"{function}, log {log}: status {status} after {took:.2f} s (limit {LIMIT:.1f} s)"


# More than the kernel takes of an answer that nobody reads.
ENDLESS = "x" * 16_000_000


async def ask_and_never_read(url: str, job_id: str) -> trio.SocketStream:
    """A client that does not read its answer; the server has begun to send it."""
    parts = httpx.URL(url)
    stream = await trio.open_tcp_stream(parts.host, parts.port or 0)
    await stream.send_all(get(f"/jobs/{job_id}"))
    await trio.lowlevel.wait_readable(stream.socket.fileno())
    return stream


@pytest.mark.parametrize(
    "read_log", [True, pytest.param(False, marks=needs_proc)], ids=["log read", "log unread"]
)
async def test_limit_does_not_fire_for_what_the_stop_can_deal_with(
    tmp_path: Path, *, read_log: bool
) -> None:
    """An unread log, a client that does not read, a thread and a process that do not return."""
    settings = config("endless_thread", "endless_process")
    # What the client leaves of the time is for all the rest, also on a busy machine.
    settings = settings.replace(
        f"graceful_timeout = {GRACEFUL}", f"graceful_timeout = 5\nmax_body_bytes = {2**25}"
    )
    handlers = HANDLERS.read_text()
    async with running_command(tmp_path, config=settings, handlers=handlers) as server:
        thread = await server.submit("endless_thread", ENDLESS)
        process = await server.submit("endless_process")
        await server.wait_for_line("endless_thread_began")
        await server.wait_for_line("endless_process_began")
        stream = await ask_and_never_read(server.url, thread)
        if not read_log:
            fill_log(server)
        server.send(signal.SIGTERM)

        async with stream:
            assert await server.process.wait() == 1
        assert (tmp_path / f"ended-{server.process.pid}").exists()
        if read_log:
            await server.wait_exit()
            assert server.lines_with("stopped", "status=1")
            assert server.lines_with("thread_still_running", thread)
            assert server.lines_with("connections_cut")
            assert server.lines_with("jobs_interrupted", thread)
            assert server.lines_with("jobs_interrupted", process)
            assert not server.lines_with("hard limit")


async def test_process_that_is_frozen_beyond_its_limit_ends_when_it_goes_on(
    tmp_path: Path,
) -> None:
    async with running_command(
        tmp_path, config=config("shielded"), handlers=HANDLERS.read_text()
    ) as server:
        await server.submit("shielded")
        await server.wait_for_line("shielded_began")
        server.send(signal.SIGTERM)
        server.send(signal.SIGSTOP)
        await trio.sleep(LIMIT + 2)  # its clocks go on
        server.send(signal.SIGCONT)

        # Which of the three clocks is first is not to be known.
        assert await server.process.wait() in (70, 1, -signal.SIGALRM)
        assert not (tmp_path / f"ended-{server.process.pid}").exists()


async def test_stop_begins_when_a_call_of_c_that_holds_the_gil_returns(tmp_path: Path) -> None:
    """The signal comes during the call, which takes longer than the limit."""
    settings, handlers = config("holding_the_gil_for_a_while"), HANDLERS.read_text()
    async with running_command(tmp_path, config=settings, handlers=handlers) as server:
        job_id = await server.submit("holding_the_gil_for_a_while")
        (tmp_path / "go").touch()
        await server.wait_for_line("holding_the_gil_for_a_while_began")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 1
        said = [
            server.lines.index(line)
            for what in ("the call has returned", "draining", "jobs_interrupted", "stopped")
            for line in server.lines_with(what)
        ]
        assert said == sorted(said)
        assert len(said) == 4
        assert server.lines_with("jobs_interrupted", job_id)
        assert not server.lines_with("hard limit")
        assert not server.lines_with("Timeout (")


@pytest.mark.parametrize(
    ("functions", "logs"),
    [
        (["leaving_a_pool"], [True]),
        pytest.param(["stubborn"], [False], marks=needs_proc),
        pytest.param(
            list(MUST_FIRE)[: max(round(share_of(len(MUST_FIRE))), 1)],
            [True, False],
            marks=pytest.mark.soak,
        ),
    ],
    ids=["log read", "log unread", "all of them"],
)
async def test_whatever_is_in_the_way_the_limit_ends_it(
    tmp_path: Path, report: Path, functions: list[str], logs: list[bool]
) -> None:
    lines = [
        await ended_by_the_limit(tmp_path / f"{function}{read_log}", function, read_log=read_log)
        for function in functions
        for read_log in logs
    ]
    (report / "hard_limit.txt").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.soak
async def test_one_call_of_c_that_holds_the_gil_is_ended_by_faulthandler(tmp_path: Path) -> None:
    settings = config("holding_the_gil").replace(f"grace_period = {GRACE}", "grace_period = 2")
    handlers = HANDLERS.read_text()
    async with running_command(tmp_path, config=settings, handlers=handlers) as server:
        await server.submit("holding_the_gil")
        server.send(signal.SIGTERM)  # before the call: during it, the stop begins when it returns
        await server.wait_for_line("draining")
        (tmp_path / "go").touch()
        await server.wait_for_line("holding_the_gil_began")

        assert await server.wait_exit() == 1
        await server.wait_for_line("Timeout (")  # faulthandler's first words
        await server.wait_for_line("in holding_the_gil")
        assert not server.lines_with("hard limit reached")
