"""`logging.keep_job_lines`: the last lines that a job logs are in the job."""

from pathlib import Path

import pytest
import trio

from tests.command import Command, running_command

HANDLERS = """
import asyncio, logging, threading, time
import trio
log = logging.getLogger("shop")

def lines(number, end):
    for n in range(number):
        log.info("line %d <img onerror=x> \\x1b[31m \\ud800", n)
    log.debug("too little")
    if end == "long":
        log.warning("x" * 10_000)
    if end == "fail":
        raise ValueError("out of paper")

async def on_trio(number, end):
    lines(number, end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, log.info, "from a thread")
    if end != "fail":
        await trio.sleep_forever()

async def on_asyncio(number, end):
    lines(number, end)
    await asyncio.to_thread(log.info, "from a thread")
    await asyncio.sleep(3600)

def in_thread(number, end):
    lines(number, end)
    log.info("from a thread")
    time.sleep(3600)

def in_process(number, end):
    in_thread(number, end)
"""

CONFIG = """
[logging]
keep_job_lines = {most}
[handlers]
trio = "work:on_trio"
thread = "work:in_thread"
[handlers.asyncio]
call = "work:on_asyncio"
run = "asyncio"
[handlers.process]
call = "work:in_process"
run = "process"
"""


async def log_with(command: Command, job_id: str, text: str) -> list[str]:
    """The log of a running job, once it has this text."""
    while True:
        job = await command.job(job_id)
        assert job["status"] != "completed", job
        log: list[str] = job.get("log", [])
        if any(text in line for line in log):
            return log
        await trio.sleep(0.01)  # lines wake nobody


@pytest.mark.parametrize("kind", ["trio", "asyncio", "thread", "process"])
async def test_running_job_shows_its_own_last_lines(kind: str, tmp_path: Path) -> None:
    config = CONFIG.format(most=3)
    async with running_command(tmp_path, config=config, handlers=HANDLERS) as command:
        other = await command.submit(kind, {"number": 1, "end": "other"})
        job_id = await command.submit(kind, {"number": 9, "end": "long"})
        log = await log_with(command, job_id, "from a thread")
        others = await log_with(command, other, "from a thread")

    assert len(log) == 3
    assert "line 8 <img onerror=x>" in log[0]
    assert "\x1b" not in log[0]
    assert (len(log[1]), log[1][-1]) == (500, "…")
    assert "from a thread" in log[2]
    assert ["line 0" in others[0], "from a thread" in others[1]] == [True, True]
    assert len(others) == 2


@pytest.mark.parametrize("kind", ["trio", "asyncio", "thread", "process"])
async def test_job_that_fails_keeps_the_last_4_kb(kind: str, tmp_path: Path) -> None:
    config = CONFIG.format(most=1000)
    async with running_command(tmp_path, config=config, handlers=HANDLERS) as command:
        job = await command.run(kind, {"number": 200, "end": "fail"})

    size = sum(len(line.encode()) for line in job["log"])
    assert 3_500 < size <= 4_096
    assert any("line 199" in line for line in job["log"][-2:])
    assert not any("line 100 " in line for line in job["log"])


async def test_by_default_no_line_is_kept(tmp_path: Path) -> None:
    config = CONFIG.format(most=0)
    async with running_command(tmp_path, config=config, handlers=HANDLERS) as command:
        job = await command.run("trio", {"number": 20, "end": "fail"})
        await command.wait_for_line("line 19")

    assert "log" not in job
