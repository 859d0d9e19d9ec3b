"""`trio_jobs.client` with the real command: restarts, limits, tokens, forks."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import trio

from tests.command import (
    PATIENCE,
    Command,
    Gate,
    configuration,
    ledger,
    running_command,
    started_command,
)
from trio_jobs.client import (
    AsyncClient,
    JobForgottenError,
    JobUnsuccessfulError,
    RefusedError,
)

Program = Callable[[AsyncClient], Awaitable[None]]

IN_A_FILE = '[store]\npath = "jobs.db"\n'


@asynccontextmanager
async def beside(
    loop: str, program: Program, url: str, *, seconds: float = PATIENCE
) -> AsyncIterator[trio.Event]:
    """A client's program on a loop of this kind while the block is open, and to its end.

    Args:
        loop: The kind.
        program: The program.
        url: The server's.
        seconds: How long it may take.

    Yields:
        Is set at its end.
    """

    async def run() -> None:
        with anyio.fail_after(seconds):
            async with AsyncClient(url, token="secret") as client:  # noqa: S106
                await program(client)

    async def run_here() -> None:
        if loop == "trio":
            await run()
        else:
            await trio.to_thread.run_sync(asyncio.run, run())
        ended.set()

    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_here)
        yield ended


async def run(loop: str, program: Program, url: str) -> None:
    """A client's program, to its end."""
    async with beside(loop, program, url):
        pass


on_both_loops = pytest.mark.parametrize("loop", ["trio", "asyncio"])


@asynccontextmanager
async def restarted(folder: Path, command: Command, config: str) -> AsyncIterator[Command]:
    """Another command at the address of one that has ended."""
    address = command.url.removeprefix("http://")
    async with running_command(folder, "--bind", address, config=config, environment={}) as second:
        yield second


@on_both_loops
async def test_all_methods_need_no_other_role_than_submit(tmp_path: Path, loop: str) -> None:
    (tmp_path / "tokens").write_text("submit secret shop\n")
    (tmp_path / "tokens").chmod(0o600)
    config = configuration("quick", "fail", "shielded").replace(
        "[http]", '[http]\ntoken_file = "tokens"'
    )

    async def program(client: AsyncClient) -> None:
        assert await client.run("quick", {"n": 1}, result=dict[str, int]) == {"n": 1}
        job = await client.submit("quick", 2, key="order-2")
        assert (await client.submit("quick", 2, key="order-2")).id == job.id
        assert job.submitted_by is None  # an answer to a submission is short
        assert (await client.wait(job)).submitted_by == "shop"
        with pytest.raises(RefusedError, match=r"^422: the key 'order-2' was used"):
            await client.submit("quick", 3, key="order-2")
        with pytest.raises(RefusedError, match="400: "):
            await client.submit("unknown")
        with pytest.raises(JobUnsuccessfulError, match=r"failed: ValueError: no luck$"):
            await client.run("fail", "no luck")

        later = await client.submit("quick", delay=3600)
        assert later.run_at is not None
        assert (await client.cancel(later, wait=True)).outcome == "cancelled"
        with pytest.raises(RefusedError, match="409: "):
            await client.cancel(job)
        with pytest.raises(JobForgottenError):
            await client.get("01a210e0-0000-7000-8000-000000000001")

        jobs = await client.submit_many(("quick", n) for n in range(100))
        async with client.as_completed(jobs) as arrivals:
            assert sorted([each.result async for each in arrivals]) == [*range(100)]

    async with running_command(tmp_path, config=config) as server:
        await run(loop, program, server.url)
        async with AsyncClient(server.url, token="wrong") as stranger:  # noqa: S106
            with pytest.raises(RefusedError, match="401: "):
                await stranger.submit("quick")


@on_both_loops
async def test_full_buffer_is_waited_for(tmp_path: Path, loop: str) -> None:
    config = configuration("short", workers=1, buffer_size=1)

    async def program(client: AsyncClient) -> None:
        async with anyio.create_task_group() as tasks:
            for n in range(4):
                tasks.start_soon(client.run, "short", n)

    async with running_command(tmp_path, config=config) as server:
        await run(loop, program, server.url)

    assert ledger(tmp_path) == ["0", "1", "2", "3"]


@on_both_loops
async def test_server_lets_few_clients_wait_and_each_gets_its_result(
    tmp_path: Path, loop: str
) -> None:
    config = configuration("short", workers=20, buffer_size=200).replace(
        "[http]", "[http]\nmax_waiters = 2"
    )

    async def program(client: AsyncClient) -> None:
        jobs = await client.submit_many(("short", n) for n in range(200))
        async with client.as_completed(jobs) as arrivals:
            assert len([job async for job in arrivals]) == 200

    async with running_command(tmp_path, config=config) as server:
        await run(loop, program, server.url)


# Says when a client waits for a job.
TELLING = """
from trio_jobs.pool.waiters import CompletionWaiters

subscribe = CompletionWaiters.subscribe

def tell(self, job_id):
    os.write(2, b"a client waits\\n")
    return subscribe(self, job_id)

CompletionWaiters.subscribe = tell
"""


@on_both_loops
async def test_stop_gives_each_waiting_client_its_result(tmp_path: Path, loop: str) -> None:
    results: list[str | None] = []

    async def program(client: AsyncClient) -> None:
        jobs = await client.submit_many(("at_the_gate", n) for n in range(20))
        async with client.as_completed(jobs) as arrivals:
            results.extend([job.outcome async for job in arrivals])

    config = configuration("at_the_gate", graceful_timeout=10, workers=20)
    with Gate(tmp_path) as gate:
        async with (
            running_command(tmp_path, config=config, patch=TELLING) as server,
            beside(loop, program, server.url),
        ):
            await server.wait_for_lines(20, "a client waits")
            server.send(signal.SIGTERM)
            await server.wait_for_line("draining")
            gate.open()
            assert await server.wait_exit() == 0

    assert results == ["succeeded"] * 20


@on_both_loops
async def test_killed_server_in_memory_has_forgotten_the_job(tmp_path: Path, loop: str) -> None:
    async def program(client: AsyncClient) -> None:
        with pytest.raises(JobForgottenError):
            await client.run("at_the_gate", 1)
        await client.run("quick", 2)

    config = configuration("at_the_gate", "quick")
    with Gate(tmp_path):
        async with (
            running_command(tmp_path, config=config) as first,
            beside(loop, program, first.url) as ended,
        ):
            await first.wait_for_line("at_the_gate")
            first.send(signal.SIGKILL)
            await first.wait_exit()
            async with restarted(tmp_path, first, config):
                await ended.wait()

    assert ledger(tmp_path) == ["2"]


@on_both_loops
async def test_killed_server_with_a_file_gives_each_result(tmp_path: Path, loop: str) -> None:
    outcomes: list[str | None] = []

    async def program(client: AsyncClient) -> None:
        jobs = await client.submit_many(("at_the_gate", n) for n in range(50))
        async with client.as_completed(jobs) as arrivals:
            outcomes.extend([job.outcome async for job in arrivals])

    config = configuration("at_the_gate", workers=1) + f"\n{IN_A_FILE}"
    with Gate(tmp_path) as gate:
        async with (
            running_command(tmp_path, config=config) as first,
            beside(loop, program, first.url) as ended,
        ):
            await first.wait_for_line("at_the_gate")
            first.send(signal.SIGKILL)
            await first.wait_exit()
            gate.open()
            async with restarted(tmp_path, first, config):
                await ended.wait()

    # The one that ran is repeated, or ends as interrupted.
    assert len(outcomes) == 50
    assert outcomes.count("succeeded") >= 49
    assert len(ledger(tmp_path)) == outcomes.count("succeeded")


@on_both_loops
async def test_submissions_meet_restarts_and_double_nothing(tmp_path: Path, loop: str) -> None:
    submitted = trio.Event()
    token = trio.lowlevel.current_trio_token()

    async def program(client: AsyncClient) -> None:
        for n in range(300):
            await client.submit("quick", n)
            if n == 100:
                token.run_sync_soon(submitted.set)
        jobs = await client.submit_many([("quick", "last")])
        await client.wait(jobs[0])

    config = configuration("quick", workers=1) + f"\n{IN_A_FILE}"
    async with (
        running_command(tmp_path, config=config) as first,
        beside(loop, program, first.url) as ended,
    ):
        await submitted.wait()
        first.send(signal.SIGKILL)
        await first.wait_exit()
        async with restarted(tmp_path, first, config) as second:
            await ended.wait()
            counts = (await second.client.get("/jobs/counts")).json()

    assert counts["total"] == 301
    assert {*ledger(tmp_path)} == {*map(str, range(300)), "last"}


FORKING = """
import os, sys
from trio_jobs.client import Client

with Client(sys.argv[1]) as client:
    print(client.run("quick", "parent"), flush=True)
    open_loop = client.as_completed([client.submit("quick")])
    if os.fork() == 0:
        try:
            next(open_loop)
            print(client.run("quick", "child"), flush=True)
        finally:
            client.close()
            os._exit(0)
    os.wait()
    print(client.run("quick", "parent again"), next(open_loop).outcome)
"""


async def test_forked_process_has_connections_of_its_own(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=configuration("quick")) as server:
        command = [sys.executable, "-c", FORKING, server.url]
        finished = await trio.run_process(command, capture_stdout=True)

    assert finished.stdout.decode().splitlines() == ["parent", "child", "parent again succeeded"]


WAITING = """
import sys
from trio_jobs.client import Client

Client(sys.argv[1]).run("at_the_gate")
"""


async def test_ctrl_c_ends_a_program_that_waits(tmp_path: Path) -> None:
    with Gate(tmp_path):
        async with running_command(tmp_path, config=configuration("at_the_gate")) as server:
            command = (sys.executable, "-c", WAITING, server.url)
            async with started_command(tmp_path / "client", command=command) as program:
                await server.wait_for_line("at_the_gate")
                program.send_to_group(signal.SIGINT)

                assert await program.wait_exit() == -signal.SIGINT
                assert program.lines[-1] == "KeyboardInterrupt"
