"""Handlers of all kinds in the real command: its signals, its end, its log."""

import signal
import sys
from pathlib import Path

import pytest
import trio

from tests.command import MODULE, SCRIPT, Command, run_command, running_command
from tests.handlers.support import wait_for_pids, wait_until_dead

WORK = """
import os
import time


def wait_for_go(payload):
    open(f"{os.getpid()}.pid", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.005)
    return os.getpid()


async def block(payload):
    time.sleep(0.2)


async def typed(payload: list[int]):
    return sum(payload)
"""

CONFIG = """
[pool]
workers = 2
processes = 1

[logging]
slow_step = 0.1

[handlers]
block = "work:block"
typed = "work:typed"

[handlers.wait]
call = "work:wait_for_go"
run = "process"
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_the_whole_group_lets_the_childrens_jobs_finish(
    number: signal.Signals, tmp_path: Path
) -> None:
    async with running_command(
        tmp_path, "--log-level", "debug", config=CONFIG, handlers=WORK
    ) as server:
        job_id = await server.submit("wait")
        await wait_for_pids(tmp_path)

        server.send_to_group(number)
        await server.wait_for_line("draining")
        (tmp_path / "go").touch()

        await server.wait_for_line("job_succeeded", job_id)
        assert await server.wait_exit() == 0


async def test_a_handler_that_blocks_the_loop_is_reported(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=WORK) as server:
        job_id = await server.submit("block")

        line = await server.wait_for_line("event_loop_blocked")

    assert "handler=work:block" in line
    assert job_id in line


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(MODULE, id="module"),
        pytest.param(
            SCRIPT,
            id="script",
            marks=pytest.mark.skipif(not Path(SCRIPT[0]).exists(), reason="not installed"),
        ),
    ],
)
async def test_a_child_does_not_run_the_command_again(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "go").touch()

    async with running_command(
        tmp_path, "--log-level", "debug", config=CONFIG, handlers=WORK, command=command
    ) as server:
        job_id = await server.submit("wait")
        await server.wait_for_line("job_succeeded", job_id)

        assert len(server.lines_with("Running on")) == 1
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0


async def test_check_shows_the_schema_of_each_payload(tmp_path: Path) -> None:
    finished = await run_command(tmp_path, "--check", config=CONFIG, handlers=WORK)

    assert finished.status == 0
    assert '\n# "typed" = {"type":"array","items":{"type":"integer"}}\n' in finished.output
    assert '\n# "wait" = {}\n' in finished.output


@pytest.mark.parametrize(
    ("handlers", "message"),
    [
        ("[handlers.a]\ncall = 'work:typed'\nrun = 'thread'", "needs a plain one"),
        ("[handlers.a]\ncall = 'work:nothing'", "work.py) has no 'nothing'"),
        ("[handlers.a]\ncall = 'nowhere:f'", "no module named 'nowhere'"),
    ],
)
async def test_a_handler_that_does_not_fit_is_named_by_its_key(
    handlers: str, message: str, tmp_path: Path
) -> None:
    finished = await run_command(tmp_path, "--check", config=handlers, handlers=WORK)

    assert finished.status == 2
    [line] = finished.lines
    assert "config.toml: handlers.a" in line
    assert message in line


async def test_signals_to_the_group_while_a_process_starts_fail_no_job(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    async with running_command(
        tmp_path, "--log-level", "debug", config=CONFIG, handlers=WORK
    ) as server:
        for _ in range(2):
            await server.submit("wait")
        for _ in range(8):  # one request to stop, and enough for each try to start the process
            server.send_to_group(signal.SIGINT)
            await trio.sleep(0.02)

        status = await server.wait_exit()
        assert not server.lines_with("job_failed")
        assert not server.lines_with("Traceback")
        # Sent in more than 0.2 s, by a busy machine, they are two requests to stop.
        all_succeeded = len(server.lines_with("job_succeeded")) == 2
        assert status == (0 if all_succeeded else 1)


GREEDY = """
import os
import subprocess
import sys
import time

import trio


async def hold_threads(payload):
    async with trio.open_nursery() as nursery:
        for _ in range(45):
            nursery.start_soon(look_up)


async def look_up():  # as a look-up of a name that hangs
    await trio.to_thread.run_sync(time.sleep, 600, abandon_on_cancel=True)


def change_folder(payload):
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")


def folder(payload):
    return os.getcwd()


def start_a_program(payload):
    program = subprocess.Popen(["sleep", "600"])
    open(f"{program.pid}.pid", "w").close()
    open(f"{os.getpid()}.pid", "w").close()
    program.wait()
"""

GREEDY_CONFIG = """
[pool]
workers = 3
processes = 1
grace_period = {grace}

[handlers]
hold = "work:hold_threads"
change = "work:change_folder"

[handlers.folder]
call = "work:folder"
run = "process"
timeout = 20

[handlers.program]
call = "work:start_a_program"
run = "process"
timeout = {timeout}
"""


async def test_threads_and_folder_that_a_handler_takes_are_no_loss_for_processes(
    tmp_path: Path,
) -> None:
    config = GREEDY_CONFIG.format(grace=0.5, timeout=1)
    async with running_command(tmp_path, config=config, handlers=GREEDY) as server:
        held = await server.submit("hold")
        wait = {"Prefer": "wait=30"}
        await server.client.post("/jobs", json={"type": "change"}, headers=wait)
        answer = await server.client.post("/jobs", json={"type": "folder"}, headers=wait)
        limited = await server.client.post("/jobs", json={"type": "program"}, headers=wait)
        started = await wait_for_pids(tmp_path, 2)

        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 1
        assert server.lines_with("jobs_interrupted", held)
    assert (answer.json()["outcome"], answer.json()["result"]) == ("succeeded", str(tmp_path))
    assert limited.json()["outcome"] == "timed_out"
    for pid in started:
        await wait_until_dead(pid)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_program_that_a_process_has_started_ends_with_the_server(
    end: signal.Signals, tmp_path: Path
) -> None:
    config = GREEDY_CONFIG.format(grace=0.2, timeout=600)
    async with running_command(tmp_path, config=config, handlers=GREEDY) as server:
        await server.submit("program")
        started = await wait_for_pids(tmp_path, 2)

        server.send(end)
        await server.process.wait()

    for pid in started:
        await wait_until_dead(pid)


HOLDS_DESCRIPTORS = """
import math
import os
import sys

import trio

if "trio_jobs.main" in sys.modules:  # in the server: the pause never ends
    from trio_jobs.handlers import start_shortage

    start_shortage._SHORTEST_PAUSE = start_shortage._LONGEST_PAUSE = math.inf

held = []


async def hold_all_but(count):
    resource = __import__("resource")
    highest = max(map(int, os.listdir("/proc/self/fd"))) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for _ in range(count):
            os.close(held.pop())


def work(payload):
    return "worked"
"""

HOLDS_CONFIG = """
[handlers]
hold = "work:hold_all_but"

[handlers.work]
call = "work:work"
run = "process"
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
async def test_a_connection_that_closes_wakes_a_job_that_waits_for_descriptors(
    tmp_path: Path,
) -> None:
    async with running_command(tmp_path, config=HOLDS_CONFIG, handlers=HOLDS_DESCRIPTORS) as server:
        idle = [await open_connection(server) for _ in range(20)]
        await server.submit("hold", 2)
        job_id = await server.submit("work")
        await server.wait_for_line("jobs_blocked", "Too many open files")
        for stream in idle:
            await stream.aclose()
        answer = await server.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=20"})

    assert answer.json()["result"] == "worked"


async def open_connection(server: Command) -> trio.SocketStream:
    """A connection that the server has answered a request on, and keeps."""
    host, _, port = server.url.partition("//")[2].partition(":")
    stream = await trio.open_tcp_stream(host, int(port.rstrip("/")))
    await stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert await stream.receive_some()
    return stream
