"""`trio-jobs run` and `map` at a server that runs nothing, over a database that others share."""

import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from tests.command import Command, ledger, running_command, started_command
from tests.postgres.databases import Database
from trio_jobs.client import AsyncClient, Client

CONFIG = """
[pool]
workers = 2
[store]
url = "{url}"
timeout = 30
lease = 3
[handlers.quick]
call = "work:quick"
paused = {paused}
"""

# Each run of a record is a line.
HANDLERS = """
import os

async def quick(payload):
    ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{payload}\\n".encode())
    os.close(ledger)
    return payload
"""

COUNT = 600


@asynccontextmanager
async def site(folder: Path, database: Database) -> AsyncIterator[tuple[Command, list[Command]]]:
    """A server that runs nothing, since its only type is paused there, and two that do."""
    async with AsyncExitStack() as stack:
        front, *others = [
            await stack.enter_async_context(
                running_command(
                    folder,
                    config=CONFIG.format(url=database.url, paused=paused),
                    handlers=HANDLERS,
                    environment={"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"},
                )
            )
            for paused in ("true", "false", "false")
        ]
        yield front, others


async def stop(server: Command) -> None:
    """Stop a server; what it has not begun is left to the others."""
    server.send(signal.SIGTERM)
    assert await server.wait_exit() == 0, server.log


def assert_each_ran(folder: Path, *, at_least_once: bool = False) -> None:
    runs = Counter(map(int, ledger(folder)))
    assert runs.keys() == set(range(1, COUNT + 1))
    if not at_least_once:
        assert set(runs.values()) == {1}


async def test_run_has_each_record_once_while_a_server_stops_and_another_starts(
    tmp_path: Path, database: Database
) -> None:
    (tmp_path / "records").write_text("".join(f"{n}\n" for n in range(1, COUNT + 1)))
    async with site(tmp_path, database) as (front, (one, _)):
        variables = {"TRIO_JOBS_URL": str(front.client.base_url)}
        words = ("run", "records", "--type=quick", "--out=out")
        async with started_command(tmp_path, *words, environment=variables) as run:
            await stop(one)
            assert await run.wait_exit() == 0, run.log

    lines = [json.loads(each) for each in (tmp_path / "out").read_bytes().splitlines()]
    assert {each["line"]: each["result"] for each in lines} == {
        number: number for number in range(1, COUNT + 1)
    }
    assert_each_ran(tmp_path)


async def test_map_has_each_result_once_from_clients_of_both_kinds(
    tmp_path: Path, database: Database
) -> None:
    async with site(tmp_path, database) as (front, _):
        url = str(front.client.base_url)

        def map_blocking() -> list[object]:
            with Client(url) as client:
                return [each.value() for each in client.map("quick", range(1, COUNT // 2 + 1))]

        values: list[object] = []

        async def map_() -> None:
            async with (
                AsyncClient(url) as client,
                client.map("quick", range(COUNT // 2 + 1, COUNT + 1)) as results,
            ):
                values.extend([each.value() async for each in results])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(map_)
            values += await trio.to_thread.run_sync(map_blocking)

    assert sorted(values) == list(range(1, COUNT + 1))  # type: ignore[type-var]  # integers
    assert_each_ran(tmp_path)


async def test_map_has_each_result_once_when_a_server_is_killed(
    tmp_path: Path, database: Database
) -> None:
    async with site(tmp_path, database) as (front, (one, _)):
        lines: Counter[int] = Counter()
        async with (
            AsyncClient(str(front.client.base_url)) as client,
            client.map("quick", range(1, COUNT + 1)) as results,
        ):
            async for result in results:
                lines[result.line] += 1
                assert result.outcome == "succeeded"
                if lines.total() == COUNT // 4:
                    one.send(signal.SIGKILL)

    assert lines == Counter(range(1, COUNT + 1))
    assert_each_ran(tmp_path, at_least_once=True)
