"""`map` with the real command: restarts and kills in the middle, a loop that is left, cancels."""

import signal
from collections import Counter
from pathlib import Path

import anyio
import pytest
import trio

from tests.command import PATIENCE, Command, Gate, configuration, ledger, running_command
from tests.proof.share import share_of
from tests.system.test_client_over_the_command import (
    IN_A_FILE,
    beside,
    on_both_loops,
    restarted,
    run,
)
from trio_jobs.client import AsyncClient, Client
from trio_jobs.client.pipe_lines import Line

MANY = max(int(share_of(20_000)), 1_000)

# As `tests.work.quick`, without a line in the log for each of so many jobs.
HANDLERS = """
import os

async def quick(payload):
    ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{payload}\\n".encode())
    os.close(ledger)
    return payload
"""


class Mapping:
    """A map of so many records, which says when a quarter of its results is there."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.outcomes: Counter[str] = Counter()
        self.lines: Counter[int] = Counter()
        self.begun = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    async def run(self, client: AsyncClient) -> None:
        """The program of an event loop."""
        async with client.map("quick", range(self.count)) as results:
            async for result in results:
                self._note(result.line, result.outcome)

    def run_blocking(self, url: str) -> None:
        """The program of a thread."""
        with Client(url) as client:
            for result in client.map("quick", range(self.count)):
                self._note(result.line, result.outcome)

    def assert_each_record_has_one_result(self) -> None:
        assert self.lines == Counter(range(1, self.count + 1))

    def _note(self, line: int, outcome: str) -> None:
        self.lines[line] += 1
        self.outcomes[outcome] += 1
        if self.lines.total() == self.count // 4:
            self._token.run_sync_soon(self.begun.set)


async def stop(server: Command, signum: signal.Signals) -> None:
    """End a server by a signal."""
    server.send(signum)
    assert await server.wait_exit() == (0 if signum == signal.SIGTERM else -signum)


@pytest.mark.parametrize(
    ("loop", "count"),
    [("trio", 4000), ("asyncio", 4000), pytest.param("trio", MANY, marks=pytest.mark.soak)],
)
async def test_restart_with_a_file_in_the_middle_runs_each_record_once(
    tmp_path: Path, loop: str, count: int
) -> None:
    mapping = Mapping(count)
    config = configuration("quick", workers=20) + f"\n{IN_A_FILE}"
    async with (
        running_command(tmp_path, config=config, handlers=HANDLERS) as first,
        beside(loop, mapping.run, first.url, seconds=10 * PATIENCE) as ended,
    ):
        await mapping.begun.wait()
        await stop(first, signal.SIGTERM)
        address = first.url.removeprefix("http://")
        async with running_command(
            tmp_path, "--bind", address, config=config, handlers=HANDLERS, environment={}
        ):
            await ended.wait()

    mapping.assert_each_record_has_one_result()
    assert mapping.outcomes == {"succeeded": count}
    assert Counter(ledger(tmp_path)) == Counter(map(str, range(count)))


async def test_kill_with_a_file_leaves_each_record_one_result(tmp_path: Path) -> None:
    mapping = Mapping(1000)
    config = configuration("quick", workers=20) + f"\n{IN_A_FILE}"
    async with (
        running_command(tmp_path, config=config) as first,
        beside("trio", mapping.run, first.url) as ended,
    ):
        await mapping.begun.wait()
        await stop(first, signal.SIGKILL)
        async with restarted(tmp_path, first, config):
            await ended.wait()

    mapping.assert_each_record_has_one_result()
    # The jobs that ran are repeated, or end as interrupted.
    assert mapping.outcomes["succeeded"] >= 1000 - 20


@pytest.mark.parametrize(("signum", "most"), [(signal.SIGTERM, 1), (signal.SIGKILL, 2)])
async def test_restart_in_memory_runs_again_only_what_was_not_answered(
    tmp_path: Path, signum: signal.Signals, most: int
) -> None:
    # A stop answers each line that the server has taken.
    mapping = Mapping(1000)
    config = configuration("quick", workers=20)
    ended = trio.Event()

    async def run_here(url: str) -> None:
        await trio.to_thread.run_sync(mapping.run_blocking, url)
        ended.set()

    async with running_command(tmp_path, config=config) as first, trio.open_nursery() as nursery:
        nursery.start_soon(run_here, first.url)
        await mapping.begun.wait()
        await stop(first, signum)
        async with restarted(tmp_path, first, config):
            await ended.wait()

    mapping.assert_each_record_has_one_result()
    assert mapping.outcomes == {"succeeded": 1000}
    runs = Counter(ledger(tmp_path))
    assert runs.keys() == {*map(str, range(1000))}
    assert max(runs.values()) <= most


@on_both_loops
async def test_jobs_of_a_loop_that_is_left_go_on(tmp_path: Path, loop: str) -> None:
    async def program(client: AsyncClient) -> None:
        jobs = [("quick", 0), *[("at_the_gate", number) for number in range(1, 7)]]
        async with client.stream(jobs) as results:
            async for result in results:
                assert result.line == 1
                break

    with Gate(tmp_path) as gate:
        config = configuration("quick", "at_the_gate", workers=10)
        async with running_command(tmp_path, config=config) as server:
            await run(loop, program, server.url)
            gate.open()
            jobs = (await server.client.get("/jobs?type=at_the_gate")).json()
            for job in jobs:
                await server.client.get(f"/jobs/{job['id']}", headers={"Prefer": "wait=30"})

    assert ledger(tmp_path) == [str(number) for number in range(7)]


async def test_cancel_ends_what_runs_and_what_waits_in_the_server(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()

    async def program(client: AsyncClient) -> None:
        slices = client.slices(in_flight=40)
        lines = (
            Line(number, b'{"type": "at_the_gate", "payload": %d}' % number, f"key-{number}")
            for number in range(1, 1000)
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slices.run, lines)
            await server.wait_for_lines(2, "at_the_gate")
            slices.cancel()
            while answers := await slices.take():
                outcomes.update(answer.result.outcome for answer in answers)
                slices.release(len(answers))

    with Gate(tmp_path):
        config = configuration("at_the_gate", workers=2)
        async with (
            running_command(tmp_path, config=config) as server,
            beside("trio", program, server.url),
        ):
            pass

    assert set(outcomes) == {"cancelled"}
    assert 2 <= outcomes.total() <= 40
    assert ledger(tmp_path) == []
