"""Handlers of all kinds in the real command: its signals, its end, its log."""

import signal
import sys
from pathlib import Path

import pytest
import trio

from tests.command import MODULE, Command, run_command, running_command

WORK = """
import gc
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


async def frozen(payload):
    return gc.get_freeze_count()
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
frozen = "work:frozen"

[handlers.wait]
call = "work:wait_for_go"
run = "process"
"""


async def test_a_handler_that_blocks_the_loop_is_reported(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=WORK) as server:
        job_id = await server.submit("block")

        line = await server.wait_for_line("event_loop_blocked")

    assert "handler=work:block" in line
    assert job_id in line


async def test_the_garbage_collector_skips_the_modules(tmp_path: Path) -> None:
    # A fork would have them skipped already.
    async with running_command(tmp_path, config=CONFIG, handlers=WORK, command=MODULE) as server:
        job = await server.run("frozen")

    assert job["result"] > 10_000


async def test_check_shows_the_schema_of_each_payload(tmp_path: Path) -> None:
    finished = await run_command(tmp_path, "--check", config=CONFIG, handlers=WORK)

    assert finished.status == 0
    assert '\n# "typed" = {"type":"array","items":{"type":"integer"}}\n' in finished.output
    assert '\n# "wait" = {}\n' in finished.output


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
