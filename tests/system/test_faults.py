"""Faults that operators of such servers have met: what needs the real command, or long lists."""

import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import trio

from tests import faulty_work
from tests.command import (
    MODULE,
    Command,
    Gate,
    configuration,
    ledger,
    new_client,
    running_command,
)
from trio_jobs import Jobs
from trio_jobs.cli import run

FAULTY_WORK = Path(faulty_work.__file__).read_text()


async def completed_jobs(server: Command) -> dict[str, dict[str, object]]:
    """All jobs that have completed, each as its own GET shows it, by id."""
    listed = (await server.client.get("/jobs", params={"status": "completed"})).json()
    return {job["id"]: await server.job(job["id"]) for job in listed}


# Handlers


async def test_impossible_results_fail_their_job_and_break_no_get(tmp_path: Path) -> None:
    config = configuration("returns", "thread_returns", workers=2)
    kinds = [(name, kind) for name in ("returns", "thread_returns") for kind in faulty_work.RESULTS]
    async with running_command(tmp_path, config=config, handlers=FAULTY_WORK) as server:
        ids = [await server.submit(name, kind) for name, kind in kinds]
        await server.wait_for_lines(len(ids), " job_failed ")
        jobs = await completed_jobs(server)

    assert jobs.keys() == set(ids)
    for (_, kind), job_id in zip(kinds, ids, strict=True):
        assert jobs[job_id]["outcome"] == "failed", kind
        assert "result" not in jobs[job_id]


@pytest.mark.smoke
async def test_no_error_of_a_handler_takes_a_worker_away(tmp_path: Path) -> None:
    names = ["raises", "thread_raises", "raises_foreign_cancelled", "fails_in_its_cleanup"]
    config = configuration(*names, "four_together", workers=4)
    kinds = [
        *(("raises", kind) for kind in faulty_work.ERRORS),
        *(("thread_raises", kind) for kind in faulty_work.ERRORS),
        *[("raises_foreign_cancelled", None), ("fails_in_its_cleanup", None)] * 4,
    ]
    async with running_command(
        tmp_path, "--log-level=debug", config=config, handlers=FAULTY_WORK
    ) as server:
        ids = [await server.submit(*kind) for kind in kinds]
        await server.wait_for_lines(len(ids), " job_failed ")
        for n in range(4):
            await server.submit("four_together", n)
        # Four workers are left, or this never ends.
        await server.wait_for_lines(4, " job_succeeded ")
        jobs = await completed_jobs(server)
        server.send(signal.SIGTERM)
        status = await server.wait_exit()

    assert status == 0
    for job_id in ids:
        assert jobs[job_id]["outcome"] == "failed"
        error = jobs[job_id]["error"]
        assert isinstance(error, dict)
        assert error.keys() == {"type", "message"}
        assert len(error["message"]) <= 4000
        assert len(server.lines_with(" job_started ", job_id)) == 1


async def test_exit_of_a_handler_during_the_drain_is_not_the_exit_of_the_server(
    tmp_path: Path,
) -> None:
    config = configuration("exits_at_the_gate", workers=1, grace_period=60)
    with Gate(tmp_path) as gate:
        async with running_command(tmp_path, config=config, handlers=FAULTY_WORK) as server:
            ids = [await server.submit("exits_at_the_gate") for _ in range(3)]
            server.send(signal.SIGTERM)
            await server.wait_for_line("draining")
            gate.open()

            assert await server.wait_exit() == 0
            assert all(server.lines_with(" job_failed ", job_id, "SystemExit") for job_id in ids)


# Bodies

BAD_BODIES = {
    **{
        f"{depth} {name}": b'{"type": "quick", "payload": %s}' % (opening * depth + closing * depth)
        for depth in (65, 990, 5_000, 20_000)
        for name, opening, closing in [("arrays", b"[", b"]"), ("objects", b'{"a":', b"}")]
    },
    "only brackets": b"[" * 40_000,
    "invalid UTF-8": b'{"type": "\xff"}',
    "invalid UTF-8 in the payload": b'{"type": "quick", "payload": "\xff"}',
    "overlong UTF-8": b'{"type": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"type": "quick", "payload": "\xed\xa0\x80"}',
    "an escaped lone surrogate": b'{"type": "quick", "payload": "\\ud800"}',
    "UTF-16": '{"type": "quick"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"type": "quick"}',
    "a number out of range": b'{"type": "quick", "payload": 1e999}',
    "NaN": b'{"type": "quick", "payload": NaN}',
    "nothing": b"",
}


async def test_hostile_bodies_are_400_and_leave_no_job_and_no_traceback(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=configuration("quick")) as server:
        for name, body in BAD_BODIES.items():
            for media_type in ("application/json", "application/json; charset=utf-16"):
                answer = await server.client.post(
                    "/jobs", content=body, headers={"Content-Type": media_type}
                )
                assert answer.status_code == 400, name
                assert answer.json()["detail"], name
        assert (await server.client.get("/jobs")).json() == []
        assert not server.lines_with("Traceback")


# Resources


async def test_running_out_of_descriptors_loses_nothing_and_is_recovered_from(
    tmp_path: Path,
) -> None:
    limited = ("sh", "-c", 'ulimit -n 64 && exec "$0" "$@"', *MODULE)
    config = configuration("in_thread", workers=2, grace_period=60)
    async with running_command(tmp_path, config=config, command=limited) as server:
        await server.submit("in_thread", "before")  # this client's connection stays open
        url = httpx.URL(server.url)
        with ExitStack() as idle:
            for _ in range(100):
                idle.enter_context(socket.socket()).connect((url.host, url.port))
            await server.wait_for_line("connection_limit_reached")
            await server.submit("in_thread", "meanwhile")
        async with new_client(server.url) as client:
            answer = await client.post("/jobs", json={"type": "in_thread", "payload": "after"})
        server.send(signal.SIGTERM)

        assert answer.status_code == 201
        assert await server.wait_exit() == 0
        assert ledger(tmp_path) == ["after", "before", "meanwhile"]


async def nothing(_payload: object) -> None:
    pass


@pytest.mark.trio_jobs({"nothing": nothing})
@pytest.mark.smoke
async def test_memory_does_not_grow_with_the_number_of_completed_jobs(jobs: Jobs) -> None:
    async def complete(count: int) -> int:
        """Process so many jobs; the number of blocks that Python then holds."""
        for _ in range(count // 100):
            jobs.submit_all([("nothing", None)] * 100)
            await trio.testing.wait_all_tasks_blocked()
        assert jobs.unfinished() == ([], [])
        return sys.getallocatedblocks()

    full = await complete(20_000)  # 10,000 are kept
    later = await complete(40_000)

    assert later - full < 1_000
    assert len(jobs.page(limit=20_000)) == 10_000


# Configuration

BAD_NUMBERS = ["0", "-1", "1.5", "abc", "true", "null", "1000000000", "nan", "inf", ""]
BAD_SECONDS = ["-1", "abc", "true", "null", "1000000000", "nan", "inf", "-inf", "", "1e3x"]


@pytest.mark.parametrize(
    ("option", "variable", "key", "values"),
    [
        ("--workers", "TRIO_JOBS_POOL_WORKERS", "workers", BAD_NUMBERS),
        ("--buffer-size", "TRIO_JOBS_POOL_BUFFER_SIZE", "buffer_size", BAD_NUMBERS),
        (None, "TRIO_JOBS_POOL_GRACE_PERIOD", "grace_period", BAD_SECONDS),
    ],
)
@pytest.mark.smoke
def test_bad_numbers_are_refused_in_one_line_wherever_they_stand(
    option: str | None,
    variable: str,
    key: str,
    values: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    def refusal(*arguments: str) -> str:
        status = run(["--check", *arguments])
        said = capsys.readouterr()
        assert (status, said.out) == (2, "")
        assert said.err.count("\n") == 1
        return said.err

    for value in values:
        if option is not None:
            assert f"{option} must be" in refusal(f"{option}={value}")
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert f"{variable} must be" in refusal()
        for text in (value, f'"{value}"'):
            Path("config.toml").write_text(f"[pool]\n{key} = {text}\n")
            assert "config.toml" in refusal()
            Path("config.toml").unlink()
