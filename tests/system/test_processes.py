"""Handlers in child processes: on the real clock, by what they do, not by how long it takes."""

import errno
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.command import PATIENCE
from tests.handlers import tasks
from tests.handlers.support import (
    able_to_import_tests,
    children_of,
    in_process,
    is_alive,
    message_of,
    process,
    quoted,
    wait_for_pids,
    wait_until,
    wait_until_dead,
)
from tests.support import ChildHandle, ProcessPool, RunningPool, running_pool
from tests.system.conftest import MakeHandler
from trio_jobs import Ending, Handler, JobStatus, Outcome


@pytest.mark.smoke
async def test_json_goes_in_and_json_comes_out(processes: ProcessPool) -> None:
    ending = await process(in_process(tasks.add), b'{"left": 20, "right": 22}', processes=processes)

    assert ending == Ending(
        outcome=Outcome.SUCCEEDED, result=b'{"sum":42,"pair":{"left":20,"right":22},"set":[1]}'
    )


async def test_a_child_spreads_a_payload_as_the_server_does() -> None:
    functions = {
        "names": in_process(tasks.repeat),
        "word": Handler.of(tasks.repeat, run="process", spread=False),
    }
    async with running_pool(functions, processes=1) as pool:
        jobs = [
            pool.submit("names", b'{"word": "a", "times": 3}'),
            pool.submit("word", b'"b"'),
            pool.submit("names", b'{"word": "c"}'),
        ]

    endings = [pool.ending(job) for job in jobs]
    results = [None if ending is None else ending.result for ending in endings]
    assert results == [
        b'["names","a","a","a"]',
        b'["word","b","b"]',
        b'["names","c","c"]',
    ]


async def test_error_with_text_that_is_no_unicode_is_the_jobs_error(processes: ProcessPool) -> None:
    ending = await process(in_process(tasks.fail_at_a_name_in_latin_1), processes=processes)

    assert ending.outcome is Outcome.FAILED
    assert ending.error is not None
    assert (ending.error.type, ending.error.message) == ("LookupError", "gr��e.txt")
    assert len(children_of(os.getpid())) == 1  # it lives on


async def test_processes_are_started_on_demand_and_never_more_than_there_may_be(
    tmp_path: Path,
) -> None:
    async with running_pool(
        {"test": in_process(tasks.enter_and_wait)}, workers=4, processes=2
    ) as pool:
        assert not children_of(os.getpid())

        jobs = [pool.submit("test", quoted(tmp_path)) for _ in range(4)]
        await wait_for_pids(tmp_path, 2)
        await wait_all_tasks_blocked(0.01)
        assert len(children_of(os.getpid())) == 2
        (tmp_path / "go").touch()

    endings = [pool.ending(job) for job in jobs]
    assert len({ending.result for ending in endings if ending is not None}) == 2


@pytest.mark.smoke
async def test_a_time_limit_kills_the_process(processes: ProcessPool, tmp_path: Path) -> None:
    handler = in_process(tasks.enter_and_hold_the_gil, timeout=0.3)

    ending = await process(handler, quoted(tmp_path), processes=processes)

    assert ending.outcome is Outcome.TIMED_OUT
    assert message_of(ending) == "the time limit of 0.3 s passed"
    assert not children_of(os.getpid())


async def test_a_cancel_kills_the_process_and_the_next_job_gets_a_fresh_one(tmp_path: Path) -> None:
    table = {"wait": in_process(tasks.enter_and_wait), "pid": in_process(tasks.pid)}

    async with running_pool(table, workers=1) as pool:
        job = pool.submit("wait", quoted(tmp_path))
        following = pool.submit("pid")
        [killed] = await wait_for_pids(tmp_path)
        assert pool.executor.cancel(job.id)
        await wait_until_dead(killed)

    ending, next_ending = (pool.ending(each) for each in (job, following))
    assert ending is not None
    assert ending.outcome is Outcome.CANCELLED
    assert next_ending is not None
    assert next_ending.outcome is Outcome.SUCCEEDED
    assert next_ending.result != str(killed).encode()


async def test_a_cancel_reaches_a_job_that_waits_for_a_process(tmp_path: Path) -> None:
    async with running_pool({"wait": in_process(tasks.enter_and_wait)}, workers=2) as pool:
        pool.submit("wait", quoted(tmp_path))
        await wait_for_pids(tmp_path)
        waiting = pool.submit("wait", quoted(tmp_path))
        await wait_all_tasks_blocked()
        assert pool.executor.cancel(waiting.id)
        await wait_all_tasks_blocked()
        outcome = pool.outcome(waiting)
        (tmp_path / "go").touch()

    assert outcome is Outcome.CANCELLED


async def test_the_pools_end_kills_the_process_and_releases_the_job(tmp_path: Path) -> None:
    async with running_pool({"wait": in_process(tasks.enter_and_wait)}, workers=1) as pool:
        job = pool.submit("wait", quoted(tmp_path))
        [killed] = await wait_for_pids(tmp_path)
        pool.scope.cancel()

    assert not is_alive(killed)
    assert pool.status(job) is JobStatus.PENDING


@pytest.mark.parametrize(
    ("function", "payload", "message"),
    [
        (tasks.die, b"9", "was killed by signal 9 (Killed)"),  # as for want of memory
        (tasks.leave, b"0", "ended itself with status 0"),
        (tasks.leave, b"3", "ended itself with status 3"),
        (tasks.crash, b"null", "was killed by signal 11 (Segmentation fault)"),
    ],
)
@pytest.mark.smoke
async def test_a_process_that_dies_fails_its_job_and_no_other(
    function: Callable[..., object], payload: bytes, message: str
) -> None:
    table = {"die": in_process(function), "pid": in_process(tasks.pid)}

    async with running_pool(table, workers=2) as pool:
        dying = pool.submit("die", payload)
        others = [pool.submit("pid") for _ in range(10)]

    ending = pool.ending(dying)
    assert ending is not None
    assert ending.outcome is Outcome.FAILED
    assert ending.error is not None
    assert ending.error.type == "ProcessDiedError"
    assert ending.error.message == f"the process that ran the job {message}"
    for job in others:
        assert pool.outcome(job) is Outcome.SUCCEEDED


async def test_a_process_whose_start_fails_half_way_is_ended_and_started_again(
    processes: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    open_pidfd = os.pidfd_open

    def fail_once(pid: int) -> int:
        started.append(pid)
        if len(started) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_pidfd(pid)

    monkeypatch.setattr("os.pidfd_open", fail_once)

    ending = await process(in_process(tasks.pid), processes=processes)

    assert ending.result == str(started[1]).encode()
    assert children_of(os.getpid()) == [started[1]]


# As a program may begin that another one has started.
IGNORES_CHILDREN = """
import signal
import trio
from tests.handlers import tasks
from tests.handlers.support import process
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.process_pool import ProcessPool

async def main():
    handler = Handler.of(tasks.die, run="process")
    async with ProcessPool(1) as processes:
        ending = await process(handler, b"9", processes=processes)
        print(ending.error.type, ending.error.message)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
trio.run(main)
"""


async def test_a_process_that_dies_fails_its_job_also_where_nobody_is_told_how(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.py"
    program.write_text(IGNORES_CHILDREN)

    with trio.fail_after(PATIENCE):
        finished = await trio.run_process(
            [sys.executable, program], env=able_to_import_tests(), capture_stdout=True
        )

    assert finished.stdout == b"ProcessDiedError the process that ran the job has ended\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_meant_for_the_server_leaves_the_job_alone(
    number: signal.Signals, tmp_path: Path
) -> None:
    async with running_pool({"wait": in_process(tasks.enter_and_wait)}, workers=1) as pool:
        job = pool.submit("wait", quoted(tmp_path))
        [pid] = await wait_for_pids(tmp_path)
        os.kill(pid, number)
        (tmp_path / "go").touch()

    ending = pool.ending(job)
    assert ending == Ending(outcome=Outcome.SUCCEEDED, result=str(pid).encode())


@pytest.mark.parametrize(
    ("function", "payload", "message"),
    [
        (tasks.large, b"100", "the result is 102 bytes of JSON, more than 100"),
        (tasks.unserialisable, b"null", "the result is not serialisable: "),
    ],
)
async def test_a_result_that_cannot_be_kept_stays_in_the_process(
    function: Callable[..., object], payload: bytes, message: str, processes: ProcessPool
) -> None:
    handler = in_process(function)

    ending = await process(handler, payload, processes=processes, max_result_bytes=100)

    assert message_of(ending).startswith(message)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
async def test_a_process_does_not_inherit_the_servers_sockets(processes: ProcessPool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)

        ending = await process(in_process(tasks.open_sockets), processes=processes)

    assert ending.result == b"[]"


async def test_a_process_that_does_not_end_by_itself_is_killed_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with ProcessPool(1) as processes:
        processes.closing_time = 0.1
        await process(in_process(tasks.leave_a_thread_behind), processes=processes)

    assert not children_of(os.getpid())
    assert [record.message for record in caplog.records] == ["processes_killed"]


async def test_a_process_that_does_not_end_well_hides_nothing_else() -> None:
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012  (how the block ends is the test)
        async with ProcessPool(1) as processes:
            processes.closing_time = 0.1
            await process(in_process(tasks.leave_a_thread_behind), processes=processes)
            raise KeyError("mine")


def no_pidfd(_pid: int) -> int:
    raise OSError(errno.ENOSYS, "not with this kernel")


@pytest.mark.parametrize(
    ("function", "has_pidfd"),
    [
        (tasks.close_all_and_stay, True),
        (tasks.close_all_and_stay, False),
        (tasks.become_a_program, True),
    ],
)
def test_a_process_that_closes_its_descriptors_and_stays_is_killed(
    function: Callable[..., object],
    *,
    has_pidfd: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not has_pidfd:
        monkeypatch.setattr("os.pidfd_open", no_pidfd)
    late = tmp_path / "late"

    async def main() -> tuple[Ending, bool, Ending]:
        async with ProcessPool(1) as processes:
            ending = await process(in_process(function), quoted(late), processes=processes)
            waited = late.exists()
            return ending, waited, await process(in_process(tasks.pid), processes=processes)

    ending, waited, again = trio.run(main)

    assert message_of(ending) == (
        "the process that ran the job has closed its pipes to the server, and was killed for that"
    )
    assert not waited  # the event loop has not stood still for it
    assert again.outcome is Outcome.SUCCEEDED


async def test_idle_processes_that_have_died_are_reaped_when_the_next_job_begins(
    tmp_path: Path,
) -> None:
    table = {"wait": in_process(tasks.enter_and_wait), "pid": in_process(tasks.pid)}

    async with running_pool(table, workers=4, processes=4) as pool:
        for _ in range(4):
            pool.submit("wait", quoted(tmp_path))
        idle = await wait_for_pids(tmp_path, 4)
        (tmp_path / "go").touch()
        processes = pool.parts.pool.places.processes
        await wait_until(lambda: processes is not None and len(processes._queue.idle) == 4)
        descriptors = len(tasks.descriptors())
        last = await next_result(pool)
        for pid in {*idle} - {last}:
            os.kill(pid, signal.SIGKILL)
            await wait_until_dead(pid)
        assert await next_result(pool) == last

        assert children_of(os.getpid()) == [last]
        assert len(tasks.descriptors()) == descriptors - 3 * 6


async def next_result(pool: RunningPool) -> int:
    job = pool.submit("pid")
    await wait_until(lambda: pool.ending(job))
    ending = pool.ending(job)
    assert ending is not None
    assert ending.result is not None
    return int(ending.result)


async def test_what_a_module_takes_to_be_imported_is_not_its_functions_time(
    make_handler: MakeHandler, tmp_path: Path, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    importing, go_on = tmp_path / "importing", tmp_path / "go_on"
    lines = [
        "from pathlib import Path",
        f"Path({str(importing)!r}).touch()",
        f"while not Path({str(go_on)!r}).exists(): pass",
    ]
    source = "def work(number): return 2 * number"
    handler = make_handler("slow_to_import", source, timeout=1000, in_child="\n    ".join(lines))

    async with running_pool({"test": handler}, workers=1, processes=1) as pool:
        job = pool.submit("test", b"21")
        await wait_until(importing.exists)
        mock_clock.jump(1000)
        await wait_all_tasks_blocked()
        go_on.touch()

    ending = pool.ending(job)
    assert ending == Ending(outcome=Outcome.SUCCEEDED, result=b"42")


@pytest.mark.parametrize("function", [tasks.fork, tasks.fork_and_raise])
async def test_the_copy_that_a_fork_makes_of_a_process_takes_no_jobs(
    function: Callable[..., object], processes: ProcessPool
) -> None:
    before = await process(in_process(tasks.pid), processes=processes)
    forked = await process(in_process(function), processes=processes)
    after = [await process(in_process(tasks.pid), processes=processes) for _ in range(3)]

    assert forked.result is not None
    await wait_until_dead(int(forked.result))
    assert [ending.result for ending in after] == [before.result] * 3


@pytest.mark.parametrize("function", [tasks.fork_and_leave, tasks.fork_unseen_and_leave])
async def test_a_process_that_ends_is_noticed_although_a_copy_of_it_lives(
    function: Callable[..., object], processes: ProcessPool, tmp_path: Path
) -> None:
    late = tmp_path / "late"

    ending = await process(in_process(function), quoted(late), processes=processes)

    assert message_of(ending) == "the process that ran the job ended itself with status 3"
    assert not late.exists()


async def test_the_answer_of_a_process_is_kept_although_its_job_is_cut_off_as_it_comes(
    processes: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = await process(in_process(tasks.pid), processes=processes)
    read = ChildHandle._read
    scope = trio.CancelScope()

    def read_and_cancel(child: ChildHandle) -> None:
        read(child)
        scope.cancel()

    monkeypatch.setattr(ChildHandle, "_read", read_and_cancel)
    with scope:
        ending = await process(in_process(tasks.pid), processes=processes)

    assert ending == idle
    assert [str(pid).encode() for pid in children_of(os.getpid())] == [idle.result]


async def test_processes_that_are_killed_leave_no_descriptors_to_the_garbage_collector(
    processes: ProcessPool,
) -> None:
    gc.collect()
    gc.disable()

    try:
        before = len(tasks.descriptors())
        for _ in range(30):
            ending = await process(in_process(tasks.die), b"9", processes=processes)
            assert ending.outcome is Outcome.FAILED
        after = len(tasks.descriptors())
    finally:
        gc.enable()

    assert after == before
    assert not children_of(os.getpid())
