"""`trio-jobs run` on a server: each record runs once, whoever dies, and what the user is told."""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.command import (
    PATIENCE,
    Command,
    Finished,
    Gate,
    each_line_is_answered_at_once,
    environment,
    ledger,
    ready_python,
    started_command,
)
from tests.ready_python import ForkedProcess

CONFIG = """
[pool]
workers = 4
[handlers]
at_the_gate = "work:at_the_gate"
quick = "work:quick"
fail = "work:fail"
"""

OUT = "--out=out"


class Folder:
    """Where a server and a run are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bind = {"TRIO_JOBS_HTTP_BIND": f"unix:{path}/server.sock"}
        self.variables = {"TRIO_JOBS_URL": self.bind["TRIO_JOBS_HTTP_BIND"]}

    def write(self, count: int) -> None:
        text = "".join(f"{number}\n" for number in range(1, count + 1))
        (self.path / "records").write_text(text)

    def lines(self, name: str = "out") -> list[dict[str, Any]]:
        return [json.loads(each) for each in (self.path / name).read_bytes().splitlines()]

    def numbers(self) -> list[int]:
        return sorted(each["line"] for each in self.lines())

    @asynccontextmanager
    async def server(self, config: str = CONFIG) -> AsyncIterator[Command]:
        async with started_command(self.path, config=config, environment=self.bind) as server:
            await server.wait_for_line("Running on")
            yield server

    def started(self, *arguments: str, patch: str = "") -> Any:  # noqa: ANN401
        words = ("run", "records", *arguments)
        return started_command(self.path, *words, environment=self.variables, patch=patch)

    async def run(self, *arguments: str) -> Finished:
        async with self.started(*arguments) as run:
            status = await run.wait_exit()
            return Finished(status=status, output="", lines=run.lines)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def test_each_record_gets_its_line(folder: Folder) -> None:
    folder.write(1_000)
    async with folder.server():
        finished = await folder.run("--type=quick", OUT)

    assert finished.status == 0
    assert finished.lines[-1].startswith(" 1,000/1,000  ")
    assert {each["line"]: each["result"] for each in folder.lines()} == {
        number: number for number in range(1, 1_001)
    }
    assert not (folder.path / "out.run").exists()


async def test_first_ctrl_c_waits_and_a_later_run_does_the_rest(folder: Folder) -> None:
    folder.write(1_000)
    with Gate(folder.path) as gate:
        async with folder.server() as server:
            async with folder.started("--type=at_the_gate", OUT, "--in-flight=20") as run:
                await server.wait_for_lines(4, "at_the_gate")
                run.send(signal.SIGINT)
                await run.wait_for_line("stopping: waiting for")
                gate.open()
                assert await run.wait_exit() == 130
            done = folder.numbers()
            finished = await folder.run("--type=at_the_gate", OUT, "--resume")

    assert 4 <= len(done) <= 20
    assert finished.status == 0
    assert folder.numbers() == list(range(1, 1_001))
    assert set(Counter(ledger(folder.path)).values()) == {1}


async def test_second_ctrl_c_cancels_on_the_server_and_a_later_run_does_it_again(
    folder: Folder,
) -> None:
    folder.write(100)
    with Gate(folder.path) as gate:
        async with folder.server() as server:
            async with folder.started("--type=at_the_gate", OUT, "--in-flight=20") as run:
                await server.wait_for_lines(4, "at_the_gate")
                run.send(signal.SIGINT)
                await run.wait_for_line("stopping: waiting for")
                await trio.sleep(0.25)  # a quicker one would be taken for a copy
                run.send(signal.SIGINT)
                status = await run.wait_exit()
            await server.wait_for_lines(4, "job_cancelled")
            cancelled = folder.lines()
            gate.open()
            finished = await folder.run("--type=at_the_gate", OUT, "--resume")

    assert (status, cancelled) == (130, [])
    assert finished.status == 0
    assert folder.numbers() == list(range(1, 101))
    assert set(Counter(ledger(folder.path)).values()) == {1}


@pytest.mark.parametrize("chunk", [(), ("--chunk=7",)])
async def test_killed_run_goes_on_and_each_record_runs_once(
    folder: Folder, chunk: tuple[str, ...]
) -> None:
    folder.write(200)
    with Gate(folder.path) as gate:
        async with folder.server() as server:
            options = ("--type=at_the_gate", OUT, "--in-flight=20", *chunk)
            async with folder.started(*options) as run:
                await server.wait_for_lines(4, "at_the_gate")
                run.send(signal.SIGKILL)
                await run.wait_exit()
            gate.open()
            finished = await folder.run(*options, "--resume")

    # `at_the_gate` returns no list.
    assert finished.status == (3 if chunk else 0)
    assert folder.numbers() == list(range(1, 201))
    assert set(Counter(ledger(folder.path)).values()) == {1}
    assert bool(chunk) or any(each.get("replayed") for each in folder.lines())


async def test_run_goes_on_over_a_restart_of_a_server_with_a_file(folder: Folder) -> None:
    folder.write(300)
    config = f'{CONFIG}[store]\npath = "jobs.db"\n'
    often = "import trio_jobs.commands.run.screen as screen; screen._PLAIN_SECONDS = 0.05"
    with Gate(folder.path) as gate:
        run_options = ("--type=at_the_gate", OUT, "--in-flight=20")
        async with folder.started(*run_options, patch=often) as run:
            await run.wait_for_line("server gone for")  # there is none yet
            async with folder.server(config) as server:
                await server.wait_for_lines(4, "at_the_gate")
                server.send(signal.SIGKILL)
                await server.wait_exit()
                await run.wait_for_lines(len(run.lines_with("server gone")) + 1, "server gone")
            gate.open()
            async with folder.server(config):
                assert await run.wait_exit() == 0

    assert folder.numbers() == list(range(1, 301))
    assert set(Counter(ledger(folder.path)).values()) == {1}


async def test_server_that_stays_away_ends_the_run_with_status_1(folder: Folder) -> None:
    folder.write(10)

    finished = await folder.run("--type=quick", OUT, "--retry-for=0.2")

    assert finished.status == 1
    assert any("is gone: gave up after 0.2 s" in line for line in finished.lines)
    assert finished.lines[-1] == (
        " 0/10 in out; go on with: trio-jobs run records --type quick --out out --retry-for 0.2"
        " --resume"
    )


async def test_server_that_refuses_ends_the_run_with_status_2(folder: Folder) -> None:
    folder.write(10)
    async with folder.server(f'{CONFIG}[http]\ntoken = "sesame"\n'):
        finished = await folder.run("--type=quick", OUT)

    assert finished.status == 2
    assert "refuses: 401" in finished.lines[-2]


async def test_unknown_type_is_a_line_and_not_the_end(folder: Folder) -> None:
    lines = [
        {"type": "none"},
        {"type": "quick", "payload": 2},
        "x",
        {"type": "fail", "payload": "y"},
    ]
    (folder.path / "records").write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    async with folder.server():
        finished = await folder.run(OUT, "--failed=failed")

    assert finished.status == 3
    assert {each["line"]: each["outcome"] for each in folder.lines()} == {
        1: "refused", 2: "succeeded", 3: "refused", 4: "failed"
    }  # fmt: skip
    failures = {each["line"]: each for each in folder.lines("failed")}
    assert failures[1]["type"] == "none"
    assert "payload" not in failures[3]
    assert (failures[4]["type"], failures[4]["payload"]) == ("fail", "y")


async def test_lines_of_a_pipe_are_answered_as_they_come(folder: Folder) -> None:
    async with folder.server():
        process = ForkedProcess(
            ready_python().fork(
                ["run", "-", "--type=quick", "--quiet"],
                cwd=folder.path,
                env=environment(folder.variables),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        with trio.fail_after(PATIENCE):
            async with process:
                assert process.stdin is not None
                await each_line_is_answered_at_once(process)
                await process.stdin.aclose()
                assert await process.wait() == 0
