"""A command in a fork of a ready Python is what a start makes of it."""

import os
import select
from pathlib import Path

import pytest

from tests.command import MODULE, environment, ready_python, run_command, running_command

WORK = """
import os
import signal
import sys
import __main__

async def state(_):
    return {
        "arguments": sys.argv,
        "path": sys.path,
        "main": [__main__.__spec__.name, __main__.__file__],
        "flags": str(sys.flags),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "signals": {each.name: handler(each) for each in signal.Signals},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "leads its group": os.getpgrp() == os.getpid(),
        "umask": [os.umask(0o77), os.umask(0o77)][0],
        "descriptors": sorted(descriptors()),
    }

def handler(signum):
    return str(signal.getsignal(signum)).partition(" at 0x")[0]

def descriptors():
    if not os.path.isdir("/proc/self/fd"):
        return
    for fd in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{fd}").partition("[")[0]
        except FileNotFoundError:  # of the listing itself
            pass
"""


async def test_command_in_a_fork_is_as_one_that_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready_python()
    monkeypatch.delenv("PATH")  # what forks has it, its commands have not
    config = '[handlers]\nstate = "work:state"\n'
    arguments = ("--log-level=debug", "--workers=2")
    async with running_command(tmp_path, *arguments, config=config, handlers=WORK) as server:
        forked = (await server.run("state"))["result"]
    async with running_command(
        tmp_path, *arguments, config=config, handlers=WORK, command=MODULE
    ) as server:
        started = (await server.run("state"))["result"]

    assert forked == started
    assert started["arguments"][1:] == list(arguments)
    assert "PATH" not in started["environment"]


@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["--nonsense"], 2)])
async def test_output_and_status_are_those_of_a_start(
    tmp_path: Path, arguments: list[str], status: int
) -> None:
    forked = await run_command(tmp_path, *arguments)
    started = await run_command(tmp_path, *arguments, command=MODULE)

    assert forked == started
    assert forked.status == status


def test_command_that_has_ended_is_sent_no_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    fork = ready_python().fork(["--version"], cwd=tmp_path, env=environment({}))
    select.select([fork.numbers], [], [])
    monkeypatch.setattr(os, "kill", lambda pid, _signum: sent.append(pid))

    fork.kill()

    assert sent == []
    assert fork.wait(0) == 0
