"""The command over a file: restarts, refusals in one line, and a disk that fails."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import MODULE, Command, Finished, Gate, run_command, running_command

CONFIG = """
[pool]
workers = 2
[store]
path = "jobs.db"
timeout = 0.5
[handlers]
quick = "work:quick"
wait = "work:wait_for_gate"
room = "work:make_room"
"""

HANDLERS = """
import os
import resource


async def quick(payload: object) -> object:
    return payload


def wait_for_gate(payload: object) -> None:
    os.read(os.open("gate", os.O_RDONLY), 1)


def make_room(payload: object) -> None:
    os.read(os.open("gate", os.O_RDONLY), 1)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
"""

# The disk is full, for this process, once a file has so many bytes.
SMALL_DISK = "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"


async def refused(folder: Path, **start: str) -> Finished:
    """A server that cannot start; it says so in one line."""
    environment = {"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}
    finished = await run_command(folder, config=CONFIG, handlers=HANDLERS, environment=environment)
    assert finished.status == 1
    assert len([line for line in finished.lines if line.startswith("trio-jobs: ")]) == 1
    assert not any("Running on" in line for line in finished.lines)
    return finished


async def test_restart_goes_on_where_the_last_server_has_stopped(tmp_path: Path) -> None:
    key = {"Idempotency-Key": "k"}
    with Gate(tmp_path) as gate:
        async with running_command(tmp_path, config=CONFIG, handlers=HANDLERS) as server:
            first = await server.client.post("/jobs", json={"type": "quick"}, headers=key)
            running = [await server.submit("wait") for _ in range(2)]
            pending = [await server.submit("quick", n) for n in range(5)]
            late = await server.client.post("/jobs", json={"type": "quick", "delay": 1000})
            server.send(signal.SIGTERM)
            await server.wait_for_line("draining")
            refusal = await server.client.post("/jobs", json={"type": "quick"})
            assert refusal.status_code == 503
            gate.open()
            assert await server.wait_exit() == 0
            await server.wait_for_line("jobs_kept", "count=6")
            assert not (tmp_path / "jobs.db-wal").exists()  # a copy of the file has all

        async with running_command(tmp_path, config=CONFIG, handlers=HANDLERS) as server:
            line = await server.wait_for_line("store_opened", "pending=5", "waiting=1")
            assert "suspects=0" in line
            for job_id in pending:
                answer = await server.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=20"})
                assert answer.json()["outcome"] == "succeeded"
            assert [(await server.job(job_id))["outcome"] for job_id in running] == [
                "succeeded"
            ] * 2
            again = await server.client.post("/jobs", json={"type": "quick"}, headers=key)
            assert again.json() == first.json()
            assert again.headers["idempotent-replayed"] == "true"
            assert (await server.job(late.json()["id"]))["run_at"] == late.json()["run_at"]
            listed = (await server.client.get("/jobs")).json()
            assert [job["id"] for job in listed] == sorted(job["id"] for job in listed)
            assert len(listed) == 9
            ready = (await server.client.get("/health/ready")).json()
            assert (ready["waiting"], ready["store_failing_seconds"]) == (1, None)
            assert ready["unwritten"] >= 0


async def test_second_server_on_the_file_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=HANDLERS) as server:
        finished = await refused(tmp_path)

        assert any("is in use by another server" in line for line in finished.lines)
        assert (await server.run("quick", 1))["result"] == 1
        checked = await run_command(tmp_path, "--check-store", config=CONFIG, handlers=HANDLERS)
        assert checked.status == 0
        assert "1 succeeded" in checked.output
        assert checked.output.endswith("the file is whole\n")


async def test_file_that_is_none_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"precious " * 1000)

    finished = await refused(tmp_path)
    checked = await run_command(tmp_path, "--check-store", config=CONFIG, handlers=HANDLERS)

    assert any("jobs.db" in line for line in finished.lines)
    assert (tmp_path / "jobs.db").read_bytes() == b"precious " * 1000
    assert checked.status == 1
    assert checked.output == ""


async def test_missing_folder_is_named(tmp_path: Path) -> None:
    config = CONFIG.replace("jobs.db", "missing/jobs.db")

    finished = await run_command(
        tmp_path,
        config=config,
        handlers=HANDLERS,
        environment={"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"},
    )

    assert finished.status == 1
    assert any("missing" in line for line in finished.lines)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ("[pool]\ndrain = 'running'\n", "pool.drain = 'running' needs store.path"),
        ("[store]\nkeep_for = 60\n", "store.keep_for needs store.path"),
        ("[store]\npath = 'x'\n[pool]\nleftovers = 'y'\n", "pool.leftovers has no use"),
        ("[store]\npath = 'x'\nmax_result_bytes = 1_000_000_000\n", "store.max_result_bytes"),
        (
            "[handlers.a]\ncall = 'work:quick'\nrepeatable = false\nretry = {attempts = 2}\n",
            "it is not repeatable",
        ),
    ],
)
async def test_settings_that_contradict_each_other_are_status_2(
    tmp_path: Path, config: str, fault: str
) -> None:
    finished = await run_command(tmp_path, "--check", config=config, handlers=HANDLERS)

    assert finished.status == 2
    assert any(fault in line for line in finished.lines), finished.lines


async def test_check_store_without_a_file_says_so(tmp_path: Path) -> None:
    without = await run_command(tmp_path, "--check-store", config="")
    missing = await run_command(tmp_path, "--check-store", config=CONFIG, handlers=HANDLERS)

    assert (without.status, missing.status) == (2, 1)
    assert any("there is no store file" in line for line in missing.lines)


# Each commit that fails is followed by an attempt to use the WAL again.
NO_PAUSE = """
from trio_jobs.stores.sqlite import journal
journal._BETWEEN_CHECKPOINTS = 0.0
"""


async def fill(server: Command) -> int:
    """Submit until the disk has no room for the smallest job; how many jobs were accepted."""
    accepted = 0
    for payload in ("x" * 50_000, None):
        refusals = 0
        while refusals < 2:  # after the first one the server tries to use the WAL again
            answer = await submit(server, payload)
            if answer.status_code == 201:
                accepted, refusals = accepted + 1, 0
                continue
            assert answer.status_code == 507, answer.text
            assert answer.headers["retry-after"] == "5"
            assert "nothing was kept" in answer.json()["detail"]
            refusals += 1
    return accepted


async def submit(server: Command, payload: object) -> httpx.Response:
    return await server.client.post("/jobs", json={"type": "quick", "payload": payload})


async def test_full_disk_refuses_jobs_and_holds_the_ends_of_others_until_there_is_room(
    tmp_path: Path,
) -> None:
    handlers = HANDLERS.replace("async def quick", SMALL_DISK + "async def quick", 1)
    with Gate(tmp_path) as gate:
        start = running_command(tmp_path, config=CONFIG, handlers=handlers, patch=NO_PAUSE)
        async with start as server:
            room = await server.submit("room")

            done = await server.run("quick")
            late = await server.client.post("/jobs", json={"type": "quick", "delay": 1000})

            accepted = await fill(server) + 2

            forget = await server.client.delete(f"/jobs/{done['id']}")
            cancel = await server.client.post(f"/jobs/{late.json()['id']}/cancel")
            assert forget.status_code == cancel.status_code == 507
            assert "nothing has changed" in forget.json()["detail"]
            assert "the job is being cancelled" in cancel.json()["detail"]
            assert (await server.job(done["id"]))["status"] == "completed"
            await server.wait_for_line("store_failing")
            ready = await server.client.get("/health/ready")
            assert ready.status_code == 200
            assert ready.json()["store_failing_seconds"] >= 0
            batch = await server.client.post(
                "/jobs/batch", json=[{"type": "quick", "payload": "x" * 50_000}]
            )
            stream = await server.client.post(
                "/jobs/stream", content=b'{"type":"quick","payload":"%s"}\n' % (b"x" * 50_000)
            )
            assert batch.status_code == stream.status_code == 507
            assert stream.json()["accepted"] == 0
            assert (await server.job(room))["status"] == "processing"

            gate.open()  # the job makes room, and its end is written
            answer = await server.client.get(f"/jobs/{room}", headers={"Prefer": "wait=20"})
            assert answer.json()["outcome"] == "succeeded"
            await server.wait_for_line("store_works_again")
            assert (await server.run("quick", 1))["result"] == 1
            listed = (await server.client.get("/jobs", params={"status": "completed"})).json()
            assert len(listed) == accepted + 2
            assert (await server.job(late.json()["id"]))["outcome"] == "cancelled"
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0


# The thread that writes waits for the gate, in the second commit.
HANGS = """
from trio_jobs.stores.sqlite.record_writer import RecordWriter
real, commits = RecordWriter.write, []
def write(self, records, *more, **named):
    commits.append(1)
    if len(commits) == 2:
        os.read(os.open("gate", os.O_RDONLY), 1)
    return real(self, records, *more, **named)
RecordWriter.write = write
"""


async def test_disk_that_hangs_is_504_then_503_and_health_is_unaffected(tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        start = running_command(tmp_path, config=CONFIG, handlers=HANDLERS, patch=HANGS)
        async with start as server:
            key = {"Idempotency-Key": "k"}
            job = await server.client.post("/jobs", json={"type": "wait"})
            assert job.status_code == 201

            unknown = await server.client.post("/jobs", json={"type": "quick"}, headers=key)
            away = await server.client.post("/jobs", json={"type": "quick"})
            health = await server.client.get("/health")

            assert unknown.status_code == 504
            assert "repeat it with the same key" in unknown.json()["detail"]
            assert away.status_code == 503
            assert away.json()["reason"] == "store_away"
            assert "nothing was kept" in away.json()["detail"]
            assert health.status_code == 200

            gate.open()
            while (await server.client.get("/health/ready")).json()["unwritten"]:
                pass
            headers = {**key, "Prefer": "wait=20"}
            again = await server.client.post("/jobs", json={"type": "quick"}, headers=headers)
            assert again.headers["idempotent-replayed"] == "true"
            assert again.json()["outcome"] == "succeeded"
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0


async def test_disk_that_hangs_at_a_stop_delays_it_to_a_bounded_time(tmp_path: Path) -> None:
    config = CONFIG.replace("workers = 2", "workers = 2\ngrace_period = 0.5")
    config += "[http]\ngraceful_timeout = 0.5\n"
    with Gate(tmp_path):
        start = running_command(tmp_path, config=config, handlers=HANDLERS, patch=HANGS)
        async with start as server:
            job_id = await server.submit("quick")  # its end is not written
            with trio.move_on_after(0.5):
                await server.client.post("/jobs", json={"type": "quick"})
            server.send(signal.SIGTERM)

            assert await server.wait_exit() in (1, 70)
            await server.wait_for_line("unwritten_ends", job_id)


async def test_failed_sync_ends_the_server_at_once(tmp_path: Path) -> None:
    program = """
import sqlite3
from trio_jobs.stores.sqlite.record_writer import RecordWriter
real, commits = RecordWriter.write, []
def write(self, records, *more, **named):
    commits.append(1)
    if len(commits) > 2:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error
    return real(self, records, *more, **named)
RecordWriter.write = write
"""
    start = running_command(tmp_path, config=CONFIG, handlers=HANDLERS, patch=program)
    async with start as server:
        with suppress(httpx.HTTPError):  # the server has gone
            while True:
                await server.client.post("/jobs", json={"type": "quick"})
        assert await server.wait_exit() == 1
        await server.wait_for_line("pool_failed")


async def test_file_belongs_to_its_user_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with running_command(
            tmp_path, config=CONFIG, handlers=HANDLERS, command=MODULE
        ) as server:
            await server.run("quick")
            modes = {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(tmp_path)}
    finally:
        os.umask(old)

    ours = {name: mode for name, mode in modes.items() if name.startswith("jobs.db")}
    assert set(ours.values()) == {0o600}, ours
