"""What user code takes from the server is put back, and one line says so."""

import signal
import sys
from pathlib import Path

import pytest

from tests.command import Command, running_command

# Over the real command

HANDLERS = """
import asyncio
import os
import signal
import socket

import trio

mine, its = socket.socketpair()
its.setblocking(False)

TAKE()

def other(*_):
    os.write(2, b"the handler's own\\n")

async def quick(_):
    pass
"""

# What takes, and what the warning says of it.
TAKES = {
    "signal.signal(signal.SIGTERM, lambda *_: None)": "SIGTERM",
    "signal.signal(signal.SIGTERM, signal.SIG_DFL)": "SIGTERM",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)": "SIGTERM",
    "[signal.signal(each, signal.SIG_IGN) for each in (15, 2, 1)]": "SIGTERM,SIGINT,SIGHUP",
    "signal.signal(signal.SIGQUIT, lambda *_: None)": "SIGQUIT",
    "signal.signal(signal.SIGUSR1, signal.SIG_DFL)": "SIGUSR1",
    "signal.signal(signal.SIGALRM, signal.SIG_DFL)": "SIGALRM",
    "signal.signal(signal.SIGPIPE, signal.SIG_DFL)": "SIGPIPE",
    "signal.set_wakeup_fd(its.fileno())": "wakeup_fd",
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])": "signal_mask",
}
# One of each kind; a job that goes on takes all of them.
KINDS = [*list(TAKES)[:1], *list(TAKES)[-2:]]
# What only a job can do.
TAKES_WHILE_IT_RUNS = {
    "asyncio.run(listen())": "SIGTERM,wakeup_fd",
    "await (receiver := trio.open_signal_receiver(signal.SIGTERM)).__enter__().__anext__()": (
        "SIGTERM"
    ),
}
CONFIG = '[pool]\ngrace_period = 60\n[handlers]\ntake = "work:take"\nquick = "work:quick"'


async def is_told_and_stops(server: Command, what: str, by: str) -> None:
    """One line names it; the server goes on, and stops at a signal."""
    await server.wait_for_line("taken_back", f"what={what} {by}")
    await server.submit("quick")
    server.send(signal.SIGTERM)

    assert await server.wait_exit() == 0
    assert len(server.lines_with("taken_back")) == 1
    assert not server.lines_with("the handler's own")


@pytest.mark.parametrize("take", KINDS)
async def test_job_that_has_ended_in_the_turn_in_which_it_was_submitted_is_named(
    tmp_path: Path, take: str
) -> None:
    handlers = f"{HANDLERS.replace('TAKE()', '')}\nasync def take(_):\n    {take}\n"
    async with running_command(tmp_path, config=CONFIG, handlers=handlers) as server:
        await server.run("take")
        await is_told_and_stops(server, TAKES[take], "job_types=take")


@pytest.mark.parametrize("take", KINDS)
async def test_what_a_module_takes_at_import_is_put_back(tmp_path: Path, take: str) -> None:
    handlers = HANDLERS.replace("TAKE()", take)
    config = CONFIG.replace('take = "work:take"', "")
    async with running_command(tmp_path, config=config, handlers=handlers) as server:
        await is_told_and_stops(server, TAKES[take], "module_name=work")


@pytest.mark.parametrize("take", [*TAKES, *TAKES_WHILE_IT_RUNS])
async def test_what_a_job_takes_is_put_back_before_the_event_loop_waits(
    tmp_path: Path, take: str
) -> None:
    handlers = HANDLERS.replace("TAKE()", "") + (
        "async def listen():\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, other)\n"
        f"async def take(_):\n    {take}\n    await trio.sleep_forever()\n"
    )
    what = (TAKES | TAKES_WHILE_IT_RUNS)[take]
    async with running_command(tmp_path, config=CONFIG, handlers=handlers) as server:
        job_id = await server.submit("take")
        await server.wait_for_line("taken_back")  # while it runs
        await server.client.post(f"/jobs/{job_id}/cancel")
        await is_told_and_stops(server, what, "job_types=take")


async def test_handler_of_a_modules_own_for_a_signal_that_means_nothing_stays(
    tmp_path: Path,
) -> None:
    handlers = HANDLERS.replace("TAKE()", "").replace(
        "async def quick", "signal.signal(signal.SIGUSR1, other)\n\nasync def quick"
    )
    config = CONFIG.replace('take = "work:take"', "")
    async with running_command(tmp_path, config=config, handlers=handlers) as server:
        server.send(signal.SIGUSR1)
        await server.wait_for_line("the handler's own")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
        assert not server.lines_with("taken_back")


# Each leaves the server's own alarm with another time than its own, or none.
ALARMS = [
    "signal.setitimer(signal.ITIMER_REAL, 0)",
    "signal.signal(signal.SIGALRM, signal.SIG_IGN)",
    "signal.alarm(1)",
    "signal.setitimer(signal.ITIMER_REAL, 3600)",
]


@pytest.mark.parametrize("alarm", ALARMS)
async def test_alarm_that_a_job_changes_during_a_stop_is_set_again(
    tmp_path: Path, alarm: str
) -> None:
    # Longer than the alarm of one second that the handler has set.
    handlers = (
        HANDLERS.replace("TAKE()", "")
        + f"""
async def take(_):
    while not (before := signal.getitimer(signal.ITIMER_REAL)[0]):
        await trio.sleep(0.01)  # until the stop has begun
    {alarm}
    await trio.sleep(1.2)
    assert before - 10 < signal.getitimer(signal.ITIMER_REAL)[0] < before
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
"""
    )
    async with running_command(
        tmp_path, "--log-level=debug", config=CONFIG, handlers=handlers
    ) as server:
        job_id = await server.submit("take")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
        assert server.lines_with("taken_back", "what=alarm", "job_types=take")
        assert server.lines_with("job_succeeded", job_id)


async def test_blocked_signal_that_the_server_was_started_with_is_let_in(tmp_path: Path) -> None:
    block = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'trio_jobs'])"
    )
    async with running_command(tmp_path, command=(sys.executable, "-c", block)) as server:
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
