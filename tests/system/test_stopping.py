"""The stop of the real command: what a signal does, at any time, and what a failure of ours does.

Durations are short, and none is asserted: a stop that does not end, or not in the way it should,
shows in the exit status, the log and the ledger that the handlers write. Where a time must not run
out it is long (a test that waited for it would fail), where it has to, it is short.
"""

import contextlib
import os
import signal
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import (
    Command,
    Gate,
    configuration,
    ledger,
    post_job,
    running_command,
    started_command,
)


def named(server: Command, event: str) -> list[str]:
    """The ids of all log lines with this event."""
    lines = server.lines_with(f" {event} ")
    return [job_id for line in lines for job_id in line.partition("job_ids=")[2].split(",")]


# Levels


@pytest.mark.smoke
async def test_all_accepted_jobs_are_completed_and_no_others_are_taken_meanwhile(
    tmp_path: Path,
) -> None:
    config = configuration("at_the_gate", workers=10, buffer_size=100, grace_period=60)
    with Gate(tmp_path) as gate:
        async with running_command(tmp_path, config=config) as server:
            ids = [await server.submit("at_the_gate", n) for n in range(110)]
            await server.wait_for_lines(10, "work at_the_gate")
            server.send(signal.SIGTERM)
            await server.wait_for_line("draining", "buffered=100")

            refusal = await server.client.post("/jobs", json={"type": "at_the_gate"})
            ready = await server.client.get("/health/ready")
            assert refusal.status_code == 503
            assert int(refusal.headers["retry-after"]) >= 1
            assert refusal.headers["connection"] == "close"
            assert ready.status_code == 503
            assert (await server.job(ids[0]))["status"] == "processing"
            assert (await server.job(ids[-1]))["status"] == "pending"
            assert len((await server.client.get("/jobs")).json()) == 110

            gate.open()
            assert await server.wait_exit() == 0
            assert ledger(tmp_path) == sorted(str(n) for n in range(110))


@pytest.mark.smoke
async def test_sigterm_under_load_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    config = configuration("short", workers=4, buffer_size=50, grace_period=60)
    accepted: list[str] = []
    statuses: set[int] = set()
    enough = trio.Event()

    async def keep_submitting(url: httpx.URL, name: int) -> None:
        for n in range(10_000):
            payload = f"{name}-{n}"
            status = await post_job(url, "short", payload)
            statuses.add(status)
            if status == 201:
                accepted.append(payload)
            if len(accepted) > 300:
                enough.set()
            if status == 0:
                return  # it has stopped listening

    async with running_command(tmp_path, config=config) as server:
        async with trio.open_nursery() as clients:
            for name in range(8):
                clients.start_soon(keep_submitting, httpx.URL(server.url), name)
            await enough.wait()
            server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
        assert ledger(tmp_path) == sorted(accepted)
        assert statuses <= {0, 201, 429, 503}


@pytest.mark.smoke
async def test_end_of_the_grace_period_names_each_unfinished_job(tmp_path: Path) -> None:
    config = configuration(
        "at_the_gate", workers=10, buffer_size=100, grace_period=0.3, graceful_timeout=20
    )
    with Gate(tmp_path):
        async with running_command(tmp_path, config=config) as server:
            ids = [await server.submit("at_the_gate", n) for n in range(110)]
            await server.wait_for_lines(10, "work at_the_gate")
            server.send(signal.SIGTERM)

            assert await server.wait_exit() == 1
            assert named(server, "jobs_interrupted") == ids[:10]
            assert named(server, "jobs_not_started") == ids[10:]
            assert ledger(tmp_path) == []


# The hard limit


@pytest.mark.smoke
async def test_hard_limit_ends_the_process_and_shows_what_was_in_the_way(tmp_path: Path) -> None:
    async def ended_by_the_limit(function: str, payload: object = None) -> None:
        folder = tmp_path / function
        config = configuration(function, workers=1, grace_period=0.1, graceful_timeout=0.1)
        with Gate(folder) as gate:
            async with running_command(folder, config=config) as server:
                job_id = await server.submit(function, payload)
                gate.open()
                await server.wait_for_line(f"{function}_began")
                server.send(signal.SIGTERM)

                assert await server.wait_exit() == 70
                await server.wait_for_line("hard limit reached")
                await server.wait_for_line("jobs_interrupted", job_id)
                await server.wait_for_line("work.py", f"in {function}")

    async def ended_by_the_limit_after_its_last_job() -> None:
        folder = tmp_path / "leave_thread"
        config = configuration("leave_thread", workers=1, grace_period=0.1, graceful_timeout=0.5)
        async with running_command(folder, "--log-level=debug", config=config) as server:
            job_id = await server.submit("leave_thread")
            await server.wait_for_line("job_succeeded", job_id)
            server.send(signal.SIGTERM)

            assert await server.wait_exit() == 70
            await server.wait_for_line("thread left behind")
            assert not server.lines_with("jobs_interrupted")
            assert not server.lines_with("stopped")  # which tells the status that there is

    async with trio.open_nursery() as servers:
        servers.start_soon(ended_by_the_limit, "stubborn")
        servers.start_soon(ended_by_the_limit, "shielded")
        servers.start_soon(ended_by_the_limit, "block_loop", 3600)
        servers.start_soon(ended_by_the_limit_after_its_last_job)


# A log whose reader is slow

# Each piece of the log takes a moment, as with a reader that is merely slow.
SLOW_LOG = """
import time
import trio_jobs.bounded_write

write_within = trio_jobs.bounded_write.write_within

def write_slowly(*arguments):
    time.sleep(0.1)
    return write_within(*arguments)

trio_jobs.bounded_write.write_within = write_slowly
"""


async def test_last_lines_reach_a_log_that_takes_its_time(tmp_path: Path) -> None:
    config = configuration("quick")
    async with running_command(tmp_path, config=config, patch=SLOW_LOG) as server:
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
        assert "stopped status=0" in server.lines[-1]


# Failures of our own

# What stands before the command, to put a fault into it.
FAULT_IN_THE_STORE = """
from trio_jobs.stores.memory import MemoryStore

def complete(self, job_id, ending, *, duration, show):
    raise RuntimeError("the store is broken")

MemoryStore.complete = complete
"""

FAULT_AT_THE_START = """
import trio_jobs.http_service

async def serve(*arguments, **settings):
    raise RuntimeError("the front door does not open")

trio_jobs.http_service.serve = serve
"""


async def test_failing_store_ends_the_server_at_once_with_its_traceback_first(
    tmp_path: Path,
) -> None:
    config = configuration("at_the_gate", "quick", workers=2, grace_period=60)
    with Gate(tmp_path):
        async with running_command(tmp_path, config=config, patch=FAULT_IN_THE_STORE) as server:
            busy = await server.submit("at_the_gate")
            await server.wait_for_line("work at_the_gate")
            failing = await server.submit("quick")

            assert await server.wait_exit() == 1
            log = server.log
            assert "RuntimeError: the store is broken" in log
            assert log.index("the store is broken") < log.index("jobs_interrupted")
            assert sorted(named(server, "jobs_interrupted")) == sorted([busy, failing])
            assert not server.lines_with("ExceptionGroup")


async def test_crash_of_the_event_loop_is_not_outlasted_by_a_thread(tmp_path: Path) -> None:
    handlers = """
import threading
import time
import trio

async def crash(_):
    threading.Thread(target=time.sleep, args=(60,)).start()
    trio.lowlevel.current_trio_token().run_sync_soon(lambda: 1 / 0)
"""
    config = '[http]\ngraceful_timeout = 0.2\n[handlers]\ncrash = "work:crash"'
    async with running_command(tmp_path, config=config, handlers=handlers) as server:
        with contextlib.suppress(httpx.RequestError):
            await server.submit("crash")

        assert await server.wait_exit() == 70


# The HTTP server serves until the test says so.
FAULT_IN_HTTP = """
import trio_jobs.http_service

serve = trio_jobs.http_service.serve

async def serve_until_told(*arguments, closing, task_status, **settings):
    early = trio.Event()
    async with trio.open_nursery() as nursery:
        task_status.started(await nursery.start(lambda task_status: serve(
            *arguments, closing=early, task_status=task_status, **settings)))
        told = os.open("fault", os.O_RDONLY | os.O_NONBLOCK)
        await trio.lowlevel.wait_readable(told)
        FAULT

trio_jobs.http_service.serve = serve_until_told
"""


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ('raise RuntimeError("the front door is broken")', "the front door is broken"),
        ("early.set()", "HTTP has ended by itself"),  # closes as if the pool had ended
    ],
    ids=["fails", "ends"],
)
async def test_http_that_fails_or_ends_by_itself_lets_the_accepted_jobs_end(
    tmp_path: Path, fault: str, error: str
) -> None:
    config = configuration("at_the_gate", workers=1, grace_period=60)
    patch = FAULT_IN_HTTP.replace("FAULT", fault)
    os.mkfifo(tmp_path / "fault")
    with Gate(tmp_path) as gate:
        async with running_command(tmp_path, config=config, patch=patch) as server:
            for n in range(3):
                await server.submit("at_the_gate", n)
            await server.wait_for_line("work at_the_gate")
            (tmp_path / "fault").write_bytes(b"now")
            await server.wait_for_line(f"RuntimeError: {error}")
            await server.wait_for_line("draining", "buffered=2")
            gate.open()

            assert await server.wait_exit() == 1
            assert ledger(tmp_path) == ["0", "1", "2"]
            assert not server.lines_with("ExceptionGroup")


# A worker leaves with its first job, as if the channel had ended.
FAULT_IN_A_WORKER = """
import trio_jobs.pool.worker

async def take_a_job_and_return(jobs, *arguments):
    with jobs:
        await jobs.receive()

trio_jobs.pool.worker.run_worker = take_a_job_and_return
"""


async def test_worker_that_returns_before_its_channel_has_ended_ends_the_server(
    tmp_path: Path,
) -> None:
    config = configuration("quick", workers=2, grace_period=60)
    async with running_command(tmp_path, config=config, patch=FAULT_IN_A_WORKER) as server:
        with contextlib.suppress(httpx.RequestError):
            await server.submit("quick")

        assert await server.wait_exit() == 1
        await server.wait_for_line("pool_failed")
        await server.wait_for_line("RuntimeError: a worker has returned")


async def test_http_that_does_not_start_ends_the_server(tmp_path: Path) -> None:
    async with started_command(
        tmp_path, config=configuration("quick"), patch=FAULT_AT_THE_START
    ) as server:
        assert await server.wait_exit() == 1
        await server.wait_for_line("RuntimeError: the front door does not open")
        assert not server.lines_with("ExceptionGroup")


async def test_failing_store_stops_a_server_at_once_whose_handlers_do_not_unwind(
    tmp_path: Path,
) -> None:
    config = configuration("shielded", "quick", workers=2, grace_period=60, graceful_timeout=1)
    async with running_command(tmp_path, config=config, patch=FAULT_IN_THE_STORE) as server:
        held = await server.submit("shielded")
        await server.client.post("/jobs", json={"type": "quick"})
        await server.wait_for_line("pool_failed")
        refused = await server.client.post("/jobs", json={"type": "quick"})
        status = await server.wait_exit()

    assert refused.status_code == 503
    assert status == 70
    assert server.lines_with("jobs_interrupted", held)


WAITS_IN_C = """
import ctypes
import os

async def wait(_):
    library = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    os.write(2, b"wait began\\n")
    library.pthread_mutex_lock(mutex)  # for ever
"""


@pytest.mark.parametrize(
    ("signals", "line"),
    [
        ([signal.SIGTERM], "hard limit reached"),
        ([signal.SIGTERM] * 3, "third signal"),
        ([signal.SIGQUIT], "SIGQUIT: "),
    ],
    ids=["first", "third", "SIGQUIT"],
)
async def test_signals_count_while_the_main_thread_waits_in_c(
    tmp_path: Path, signals: list[signal.Signals], line: str
) -> None:
    seconds = 0.2 if len(signals) == 1 else 60
    config = (
        f"[pool]\ngrace_period = {seconds}\n[http]\ngraceful_timeout = {seconds}\n"
        '[handlers]\nwait = "work:wait"'
    )
    async with running_command(tmp_path, config=config, handlers=WAITS_IN_C) as server:
        job_id = await server.submit("wait")
        await server.wait_for_line("wait began")
        for n, signum in enumerate(signals):
            await trio.sleep(0.5 if n else 0)  # apart, so that each counts
            server.send(signum)

        assert await server.wait_exit() == 70
    assert server.lines_with(line)
    assert server.lines_with("jobs_interrupted", job_id)
