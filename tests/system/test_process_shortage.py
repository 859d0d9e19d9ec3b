"""Process jobs that cannot begin: no descriptor, no thread, children that die too early."""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.handlers import tasks
from tests.handlers.support import (
    children_of,
    in_process,
    make_executor,
    process,
    quoted,
    wait_for_pids,
    wait_until,
    wait_until_dead,
)
from tests.support import (
    ChildHandle,
    ProcessPool,
    make_job,
    running_pool,
)
from tests.system.conftest import MakeHandler
from trio_jobs import Ending, Handler, JobStatus, Outcome
from trio_jobs.handlers.frames import FrameReader, Kind


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open no more than so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(tasks.descriptors())
    held = [os.open(os.devnull, os.O_RDONLY)]
    while max(held) < highest:  # the limit is one of numbers
        held.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in held:
            os.close(number)


@pytest.mark.parametrize("left", range(12))
async def test_jobs_wait_while_there_are_no_descriptors_and_then_run(
    left: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(tasks.descriptors())
    handler = in_process(tasks.pid, timeout=30)

    async with running_pool({"test": handler}, workers=4, processes=2) as pool:
        with descriptors_left(left):
            jobs = [pool.submit("test") for _ in range(8)]
            await wait_until(lambda: pool.blocked or left > 8)
            shown = pool.parts.store.find_nowait(jobs[0].id)
            blocked = pool.blocked

    assert left > 8 or shown.status is JobStatus.PROCESSING
    assert left > 8 or "no process can be started: [Errno 24] Too many open files" in str(blocked)
    assert {pool.outcome(job) for job in jobs} == {Outcome.SUCCEEDED}
    causes = [vars(each)["reason"] for each in caplog.records if each.message == "jobs_blocked"]
    assert len({*causes}) == len(causes) <= 3  # a child has no more than its server
    assert len(tasks.descriptors()) == before


async def test_jobs_outlast_the_killing_of_every_process_that_is_not_ready(tmp_path: Path) -> None:
    killed: list[int] = []

    async def kill_each(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while len(killed) < 6:
            for pid in children_of(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        await nursery.start(kill_each)
        async with running_pool({"test": in_process(tasks.pid)}, workers=2, processes=2) as pool:
            jobs = [pool.submit("test") for _ in range(6)]

    assert {pool.outcome(job) for job in jobs} == {Outcome.SUCCEEDED}


async def test_a_job_that_its_dead_process_has_not_taken_runs_in_another(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    handler = in_process(tasks.add_a_line, timeout=30)

    async with ProcessPool(1) as processes:
        await process(in_process(tasks.pid), processes=processes)
        [idle] = children_of(os.getpid())
        os.kill(idle, signal.SIGSTOP)
        executor = make_executor({"test": handler}, processes=processes)
        endings = []

        async def run() -> None:
            endings.append(await executor(make_job("a", payload=quoted(ledger))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            assert executor.has_begun("a")
            os.kill(idle, signal.SIGKILL)
            await wait_until_dead(idle)

    assert endings == [Ending(outcome=Outcome.SUCCEEDED, result=b"1")]


async def test_the_limit_of_a_job_passes_also_in_a_process_that_does_not_take_it() -> None:
    async with ProcessPool(1) as processes:
        await process(in_process(tasks.pid), processes=processes)
        [idle] = children_of(os.getpid())
        os.kill(idle, signal.SIGSTOP)

        ending = await process(in_process(tasks.pid, timeout=0.2), processes=processes)

    assert ending.outcome is Outcome.TIMED_OUT
    await wait_until_dead(idle)


WORKED = "def work(_payload): return 'worked'"


async def test_a_job_whose_process_dies_while_it_imports_waits_and_can_be_cancelled(
    make_handler: MakeHandler,
) -> None:
    table = {"test": make_handler("leaves_at_import", WORKED, in_child="os._exit(3)")}

    async with running_pool(table, workers=2) as pool:
        job = pool.submit("test")
        blocked = await wait_until(lambda: pool.blocked)
        assert pool.executor.cancel(job.id)
        await wait_until(lambda: pool.outcome(job))
        unblocked = pool.blocked
        last = pool.submit("test")
        await wait_until(lambda: pool.blocked)
        pool.scope.cancel()

    assert blocked == "a process that was started for a job ended itself with status 3 at once"
    assert pool.outcome(job) is Outcome.CANCELLED
    assert unblocked is None
    assert pool.parts.pool.unfinished().ids == ([], [last.id])


@pytest.mark.parametrize(
    "error", ["MemoryError", "OSError(24, 'Too many')", 'RuntimeError("can\'t start new thread")']
)
async def test_a_job_whose_modules_find_the_machine_exhausted_waits(
    error: str, make_handler: MakeHandler, tmp_path: Path
) -> None:
    better = tmp_path / "better"
    in_child = f"\n    if not os.path.exists({str(better)!r}): raise {error}"
    table = {"test": make_handler(f"exhausted_{len(error)}", WORKED, in_child=in_child)}

    async with running_pool(table, workers=1) as pool:
        job = pool.submit("test")
        blocked = await wait_until(lambda: pool.blocked)
        better.touch()

    assert blocked is not None
    assert blocked.startswith("a process cannot import the handlers: ")
    assert pool.ending(job) == Ending(outcome=Outcome.SUCCEEDED, result=b'"worked"')


async def test_a_job_waits_for_the_thread_that_starts_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_sync, left = trio.to_thread.run_sync, [1]

    async def fail_once(*args: object, **kwargs: object) -> object:
        if left:
            left.pop()
            raise RuntimeError("can't start new thread")
        return await run_sync(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("trio.to_thread.run_sync", fail_once)

    async with ProcessPool(1) as processes:
        ending = await process(in_process(tasks.pid), processes=processes)

    assert (left, ending.outcome) == ([], Outcome.SUCCEEDED)


async def hold_trios_threads(_payload: object) -> None:
    """Take all of them and more, until the job is cancelled."""
    read, write = os.pipe()
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(in_thread, read)
    finally:
        os.write(write, b"x" * 50)  # they end
        os.close(write)


async def in_thread(read: int) -> None:
    await trio.to_thread.run_sync(os.read, read, 1, abandon_on_cancel=True)


async def test_process_jobs_begin_and_end_although_a_handler_holds_all_of_trios_threads(
    tmp_path: Path,
) -> None:
    table = {
        "hold": Handler.of(hold_trios_threads),
        "pid": in_process(tasks.pid),
        "long": in_process(tasks.enter_and_wait, timeout=0.3),
    }

    async with running_pool(table, workers=2) as pool:
        holding = pool.submit("hold")
        await wait_all_tasks_blocked(0.01)
        assert trio.to_thread.current_default_thread_limiter().available_tokens == 0
        jobs = [pool.submit("pid"), pool.submit("long", quoted(tmp_path)), pool.submit("pid")]
        await wait_until(lambda: pool.parts.store.find_nowait(jobs[-1].id).outcome)
        pool.executor.cancel(holding.id)

    outcomes = [pool.outcome(job) for job in jobs]
    assert outcomes == [Outcome.SUCCEEDED, Outcome.TIMED_OUT, Outcome.SUCCEEDED]


async def test_a_job_that_waits_for_a_free_process_is_reported_as_not_started(
    tmp_path: Path,
) -> None:
    table = {"test": in_process(tasks.enter_and_wait)}

    async with running_pool(table, workers=2, processes=1) as pool:
        first = pool.submit("test", quoted(tmp_path))
        await wait_for_pids(tmp_path)
        second = pool.submit("test", quoted(tmp_path))
        await wait_all_tasks_blocked()
        pool.scope.cancel()

    assert pool.parts.pool.unfinished().ids == ([first.id], [second.id])


# What a process cannot have any more: so much memory, or so many descriptors.
NO_MEMORY = """
        pages = int(open("/proc/self/statm").read().split()[0])
        limit, what = pages * resource.getpagesize() + {} * 1024, resource.RLIMIT_AS
"""
NO_DESCRIPTORS = """
        count = max(int(each) for each in os.listdir('/proc/self/fd'))
        limit, what = count + {}, resource.RLIMIT_NOFILE
"""

# Libraries that the linker loads: its errors are of many kinds.
LIBRARIES = """if not os.path.exists({better!r}):
        import resource{limit}
        resource.setrlimit(what, (limit, limit))
    import asyncio, ctypes, decimal, sqlite3, ssl, zoneinfo
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize(
    ("limit", "left"),
    [
        *((NO_MEMORY, left) for left in (0, 500, 1000, 2000, 3000, 4000, 6000, 8000, 12000, 16000)),
        *((NO_DESCRIPTORS, left) for left in (0, 2, 5)),
    ],
)
async def test_jobs_wait_while_a_process_cannot_have_what_the_server_has_imported(
    limit: str, left: int, make_handler: MakeHandler, tmp_path: Path
) -> None:
    better = tmp_path / "better"
    in_child = LIBRARIES.format(better=str(better), limit=limit.format(left).rstrip())
    table = {"test": make_handler(f"needs_{len(limit)}_{left}", WORKED, in_child=in_child)}

    async with running_pool(table, workers=1) as pool:
        job = pool.submit("test")
        await wait_until(lambda: pool.blocked or pool.outcome(job))
        better.touch()

    assert pool.ending(job) == Ending(outcome=Outcome.SUCCEEDED, result=b'"worked"')


async def test_processes_that_die_before_they_take_a_job_are_told_and_not_tried_without_pause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trio_jobs.handlers.process_pool._PAUSE_AFTER_DEATH", 0.01)
    send, deaths = ChildHandle.send, [3]

    def die_first(child: ChildHandle, *args: Any) -> None:  # noqa: ANN401
        if deaths[0]:
            deaths[0] -= 1
            child.group.kill_group()
        send(child, *args)

    monkeypatch.setattr(ChildHandle, "send", die_first)
    async with running_pool({"test": in_process(tasks.pid)}, workers=1) as pool:
        job = pool.submit("test")
        blocked = await wait_until(lambda: pool.blocked)

    assert blocked == "a process has ended before it took its job"
    assert pool.outcome(job) is Outcome.SUCCEEDED
    assert [record.message for record in caplog.records] == ["jobs_blocked"]


async def test_a_first_word_that_is_none_is_told_and_the_process_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    next_frame, words = FrameReader.next, [b"{}"]

    def first_garbage(reader: FrameReader, **most: int) -> tuple[Kind, bytes] | None:
        found = next_frame(reader, **most)
        return (found[0], words.pop()) if found and words else found

    monkeypatch.setattr(FrameReader, "next", first_garbage)
    async with ProcessPool(1) as processes:
        ending = await process(in_process(tasks.pid), processes=processes)

    assert ending.outcome is Outcome.SUCCEEDED
    [record] = caplog.records
    assert "gave no sign that is understood: Object missing" in vars(record)["reason"]
