"""What user code takes from the server is put back, and one line says so."""

import logging
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.command import Command, running_command
from trio_jobs.takeovers import Takeovers, TakesBackBeforeWaiting


class Thing:
    """Something of the server's that can be taken."""

    def __init__(self) -> None:
        self.taken = False
        self.looks = 0

    def intact(self) -> bool:
        """Whether it is there."""
        self.looks += 1
        return not self.taken

    def put_back(self) -> None:
        """Have it again."""
        self.taken = False


@pytest.fixture
def takeovers() -> Takeovers:
    return Takeovers()


def added(takeovers: Takeovers, what: str, *, costly: bool = False) -> Thing:
    """A thing that is held."""
    thing = Thing()
    takeovers.add(what, intact=thing.intact, put_back=thing.put_back, costly=costly)
    return thing


def test_nothing_is_said_while_all_is_there(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    thing = added(takeovers, "thing")

    takeovers.check(module="shop")

    assert thing.looks == 1
    assert not caplog.records


def test_what_was_taken_is_put_back_and_one_line_names_it_and_the_module(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = (added(takeovers, name) for name in ("first", "second", "third"))
    first.taken = third.taken = True

    takeovers.check(module="shop")

    assert not any(thing.taken for thing in (first, second, third))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert (record.msg, record.__dict__["what"]) == ("taken_back", "first,third")
    assert record.__dict__["module_name"] == "shop"


def test_line_names_the_types_that_ran_meanwhile(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    added(takeovers, "thing").taken = True

    takeovers.check(job_types=lambda: ["resize", "email", "resize"])

    [record] = caplog.records
    assert record.__dict__["job_types"] == "email,resize"


def test_what_is_taken_again_and_again_is_told_ever_more_seldom_and_anybody_new_at_once(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    thing = added(takeovers, "thing")
    for turn in range(1, 1001):
        thing.taken = True
        takeovers.check(job_types=partial(list, ["new"] if turn == 700 else ["usual"]))
        assert not thing.taken

    told = [(vars(each).get("times", 1), vars(each)["job_types"]) for each in caplog.records]
    assert told == sorted([*((2**n, "usual") for n in range(10)), (700, "new")])


def test_part_that_can_never_be_put_back_is_told_ever_more_seldom(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("no way")

    takeovers.add("broken", intact=lambda: False, put_back=fail)
    for _ in range(1000):
        takeovers.check()

    assert len(caplog.records) == 10


def test_part_that_cannot_be_put_back_is_told_and_keeps_no_other_from_it(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("no way")

    takeovers.add("broken", intact=lambda: False, put_back=fail)
    other = added(takeovers, "other")
    other.taken = True

    takeovers.check()

    assert not other.taken
    told, warned = caplog.records
    assert (told.msg, told.__dict__["what"], bool(told.exc_info)) == (
        "not_taken_back",
        "broken",
        True,
    )
    assert warned.__dict__["what"] == "other"


async def test_event_loop_looks_before_it_waits_and_leaves_out_what_is_costly_while_it_is_busy(
    takeovers: Takeovers,
) -> None:
    cheap, costly = added(takeovers, "cheap"), added(takeovers, "costly", costly=True)
    look = TakesBackBeforeWaiting(takeovers, tuple)

    look.before_io_wait(0)
    busy = cheap.looks, costly.looks
    look.before_io_wait(1)

    assert busy == (1, 0)
    assert (cheap.looks, costly.looks) == (2, 1)


async def test_jobs_that_ended_in_a_busy_turn_are_named_by_the_look_that_finds_what_they_took(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    def forget() -> list[str]:
        forgotten = ended[:]
        ended.clear()
        return forgotten

    cheap, costly = added(takeovers, "cheap"), added(takeovers, "costly", costly=True)
    look = TakesBackBeforeWaiting(takeovers, lambda: ended, forget)
    for name, timeout in [("email", 0), ("resize", 0), ("report", 1), ("late", 1)]:
        ended.append(name)
        costly.taken |= name == "email"
        cheap.taken = name in {"resize", "late"}
        look.before_io_wait(timeout)

    assert [(vars(each)["what"], vars(each)["job_types"]) for each in caplog.records] == [
        ("cheap", "resize"),
        ("costly", "email,report,resize"),
        ("cheap", "late"),
    ]


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


@pytest.mark.parametrize("take", [take for take in TAKES if "other" not in take])
async def test_job_that_has_ended_in_the_turn_in_which_it_was_submitted_is_named(
    tmp_path: Path, take: str
) -> None:
    handlers = f"{HANDLERS.replace('TAKE()', '')}\nasync def take(_):\n    {take}\n"
    async with running_command(tmp_path, config=CONFIG, handlers=handlers) as server:
        job = {"type": "take", "payload": None}
        await server.client.post("/jobs", json=job, headers={"Prefer": "wait=20"})
        await is_told_and_stops(server, TAKES[take], "job_types=take")


@pytest.mark.parametrize("take", TAKES)
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
