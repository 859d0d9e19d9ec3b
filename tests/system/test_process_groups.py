"""What a process handler starts: it has Python's own signals, and ends with its job's process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.handlers import tasks
from tests.handlers.support import (
    able_to_import_tests,
    children_of,
    entered,
    in_process,
    is_alive,
    message_of,
    process,
    quoted,
    wait_for_pids,
    wait_until,
    wait_until_dead,
)
from tests.support import ProcessPool, running_pool
from trio_jobs import Outcome
from trio_jobs.handlers.process_group import ProcessGroup

# Seconds. Only a jump of the clock ends them.
LIMIT = 100.0


async def pass_limit_behind(folder: Path, count: int, clock: MockClock) -> None:
    """Let the time limit pass when so many processes have entered."""
    clock.rate = 1
    await wait_for_pids(folder, count)
    clock.jump(LIMIT)


async def test_a_time_limit_ends_what_the_function_has_started(
    processes: ProcessPool, tmp_path: Path, mock_clock: MockClock
) -> None:
    handler = in_process(tasks.have_a_family, timeout=LIMIT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_limit_behind, tmp_path, 3, mock_clock)
        ending = await process(handler, quoted(tmp_path), processes=processes)

    assert ending.outcome is Outcome.TIMED_OUT
    family = await wait_for_pids(tmp_path, 3)
    for pid in family:
        await wait_until_dead(pid)


async def test_what_a_function_leaves_behind_ends_with_its_process(tmp_path: Path) -> None:
    async with ProcessPool(1) as processes:
        ending = await process(
            in_process(tasks.leave_a_program), quoted(tmp_path), processes=processes
        )
        assert ending.outcome is Outcome.SUCCEEDED
        [left] = await wait_for_pids(tmp_path)

    await wait_until_dead(left)


@pytest.mark.parametrize("has_pidfd", [True, False])
async def test_what_a_function_leaves_behind_ends_when_its_process_dies(
    *, has_pidfd: bool, processes: ProcessPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_pidfd:
        monkeypatch.delattr("os.pidfd_open")
    handler = in_process(tasks.leave_a_program_and_die)

    ending = await process(handler, quoted(tmp_path), processes=processes)

    assert message_of(ending) == "the process that ran the job ended itself with status 0"
    [left] = await wait_for_pids(tmp_path)
    await wait_until_dead(left)


async def test_what_joins_the_group_while_its_process_dies_ends_as_well(
    processes: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_exited = ProcessGroup.wait_exited
    joined: list[subprocess.Popen[bytes]] = []

    async def join_and_wait(group: ProcessGroup) -> None:
        await wait_exited(group)
        if not joined and group._leader is not None:
            joined.append(subprocess.Popen(["sleep", "60"], process_group=group._leader.pid))  # noqa: ASYNC220

    handler = in_process(tasks.sleep, timeout=0.5)
    monkeypatch.setattr(ProcessGroup, "wait_exited", join_and_wait)
    ending = await process(handler, processes=processes)

    assert ending.outcome is Outcome.TIMED_OUT
    with joined[0] as program:
        assert program.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "program",
    [["timeout", "60", "sleep", "60"], ["bash", "-c", "set -m; sleep 60 & wait"]],
    ids=lambda program: program[0],
)
async def test_a_program_in_a_group_of_its_own_survives(program: list[str], tmp_path: Path) -> None:
    payload = msgspec.json.encode({"folder": str(tmp_path), "program": program})

    async with running_pool({"test": in_process(tasks.run_a_program)}, workers=1) as pool:
        job = pool.submit("test", payload)
        [started] = await wait_for_pids(tmp_path)
        await wait_until(lambda: children_of(started))
        [sleeping] = children_of(started)
        await wait_until(lambda: os.getpgid(sleeping) in (started, sleeping))
        group = os.getpgid(sleeping)
        assert pool.executor.cancel(job.id)
        await wait_until(lambda: pool.ending(job))

    try:
        os.killpg(group, 0)
        assert is_alive(sleeping)
    finally:
        os.killpg(group, signal.SIGKILL)


async def test_a_program_in_a_session_of_its_own_survives(
    processes: ProcessPool, tmp_path: Path, mock_clock: MockClock
) -> None:
    handler = in_process(tasks.leave_a_session, timeout=LIMIT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_limit_behind, tmp_path, 1, mock_clock)
        ending = await process(handler, quoted(tmp_path), processes=processes)

    [left] = await wait_for_pids(tmp_path)
    try:
        assert ending.outcome is Outcome.TIMED_OUT
        os.kill(left, 0)
    finally:
        os.kill(left, signal.SIGKILL)


SERVER = """
import sys
import trio
from tests.handlers import tasks
from tests.handlers.support import process
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.process_pool import ProcessPool

async def main():
    handler = Handler.of(tasks.have_a_family, run="process")
    async with ProcessPool(1) as processes:
        await process(handler, sys.argv[1].encode(), processes=processes)

trio.run(main)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel for it")
@pytest.mark.parametrize(
    ("function", "count"), [("have_a_family", 3), ("enter_and_hold_the_gil", 1)]
)
async def test_no_process_survives_a_killed_server(
    function: str, count: int, tmp_path: Path
) -> None:
    program = tmp_path / "server.py"
    program.write_text(SERVER.replace("have_a_family", function))
    with subprocess.Popen(  # noqa: ASYNC220  (it is not talked to)
        [sys.executable, program, quoted(tmp_path)], env=able_to_import_tests()
    ) as server:
        try:
            family = await wait_for_pids(tmp_path, count)
        finally:
            server.kill()

    for pid in family:
        await wait_until_dead(pid)


FORKS = SERVER.replace(
    "        await process",
    """        import os
        if not os.fork():
            os.close(0); os.read(int(sys.argv[2]), 1); os._exit(0)
        await process""",
).replace(
    "async with ProcessPool(1) as processes:",
    """async with ProcessPool(1) as processes:
        await process(Handler.of(tasks.pid, run="process"), processes=processes)""",
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel for it")
async def test_a_copy_of_the_server_that_lives_on_keeps_none_alive(tmp_path: Path) -> None:
    program = tmp_path / "server.py"
    program.write_text(FORKS)
    read, write = os.pipe()
    try:
        with subprocess.Popen(  # noqa: ASYNC220  (it is not talked to)
            [sys.executable, program, quoted(tmp_path), str(read)],
            env=able_to_import_tests(),
            pass_fds=[read],
        ) as server:
            try:
                family = await wait_for_pids(tmp_path, 3)
            finally:
                server.kill()

        for pid in family:
            await wait_until_dead(pid)
    finally:
        os.close(read)
        os.close(write)  # the copy ends


@pytest.mark.parametrize("closed", ["<&-", ">&- 2>&-", "<&- >&- 2>&-"])
async def test_processes_start_also_without_standard_streams(closed: str, tmp_path: Path) -> None:
    program = tmp_path / "server.py"
    program.write_text(
        SERVER.replace("tasks.have_a_family", "tasks.enter_and_wait")
        .replace("        await process", "        assert (await process")
        .replace("processes=processes)", "processes=processes)).result")
    )
    (tmp_path / "go").touch()

    finished = await trio.run_process(
        ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, program, quoted(tmp_path)],
        env=able_to_import_tests(),
        check=False,
    )

    assert finished.returncode == 0
    assert len(entered(tmp_path)) == 1


async def test_a_program_gets_default_signals_and_no_mask(processes: ProcessPool) -> None:
    ending = await process(in_process(tasks.signals_of_a_program), processes=processes)

    assert ending.result is not None
    shown = msgspec.json.decode(ending.result)
    # SIGPIPE and the like are Python's own affair: subprocess gives the default back.
    assert shown == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
async def test_a_function_may_have_processes_and_pools_of_its_own(
    method: str, processes: ProcessPool
) -> None:
    payload = f'"{method}"'.encode()
    pool = await process(in_process(tasks.compute_in_a_pool), payload, processes=processes)
    ended = await process(in_process(tasks.terminate_a_process), payload, processes=processes)

    assert (pool.result, ended.result) == (b"[0,1,4]", b"-15")


async def test_a_copy_has_pythons_own_interrupt(processes: ProcessPool) -> None:
    ending = await process(in_process(tasks.interrupt_a_copy), processes=processes)

    assert ending.result == b'"KeyboardInterrupt"'
