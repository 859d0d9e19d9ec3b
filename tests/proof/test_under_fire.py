"""The real command, stopped at random moments under load; three accounts of its jobs must agree.

The ledger is the handlers' own, outside of the server: what was accepted has completed or is named
in the log as unfinished, nothing ran twice, nothing that was refused ran, and the exit status is
right. A failure prints the seed that chose the moment and the settings.
"""

import math
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.command import MODULE, Command, running_command
from tests.proof.accounts import Ledger, Told, check, named
from tests.proof.share import share_of
from tests.proof.talking import Talker, talking
from tests.test_stopping import FULL_LOG

HANDLERS = Path(__file__).with_name("work.py")
CLIENTS = 6

# How a server is stopped.
Stopping = Callable[[Command, random.Random], Awaitable[None]]


def config(*, grace_period: float, workers: int = 4, buffer_size: int = 20) -> str:
    """Few workers and a small buffer: both are full under this load."""
    return f"""
[pool]
workers = {workers}
buffer_size = {buffer_size}
grace_period = {grace_period}

[http]
graceful_timeout = 1

[handlers]
work = "work:work"
fail = "work:fail"
in_thread = "work:in_thread"

[handlers.in_process]
call = "work:in_process"
run = "process"
"""


async def keep_submitting(url: str, told: Told, name: str, chance: random.Random) -> None:
    """Jobs of all kinds, alone and together, and now and then a client that hangs up."""
    async with talking(url, told) as talker:
        for n in range(10_000):
            token = f"{name}-{n}"
            if not await submit_one(talker, token, chance):
                return  # it has stopped listening


async def submit_one(talker: Talker, token: str, chance: random.Random) -> bool:
    """Submit something; False if there was no answer."""
    kind = chance.random()
    seconds = chance.choice([0, 0.01, 0.05])
    if kind < 0.05:
        await talker.hang_up_on("work", token, seconds, chance.random())
        return True
    if kind < 0.15:
        tokens = [f"{token}-{part}" for part in range(3)]
        return await talker.submit_batch("work", tokens, seconds) != 0
    job_type = "work"
    if kind < 0.4:
        job_type = "fail" if kind < 0.3 else "in_thread"
    elif kind < 0.42:
        job_type = "in_process"
    return await talker.submit(job_type, token, seconds) is not None


@asynccontextmanager
async def under_load(server: Command, seed: int) -> AsyncIterator[Told]:
    """Clients that submit until the server is gone; the block ends when they have."""
    told = Told()
    async with trio.open_nursery() as clients:
        for number in range(CLIENTS):
            chance = random.Random(f"{seed} {number}")  # noqa: S311 - to be repeated
            clients.start_soon(keep_submitting, server.url, told, f"c{number}", chance)
        yield told


async def stopped_under_load(
    folder: Path,
    seed: int,
    stop: Stopping,
    *,
    grace_period: float | None = None,
    command: Sequence[str] = MODULE,
) -> Counter[str]:
    """Start it, load it, stop it at a moment that the seed chooses, and compare the accounts.

    Returns:
        How many of what there were.
    """
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    if grace_period is None:
        grace_period = chance.choice([0, 0.05, 20])
    try:
        async with running_command(
            folder,
            config=config(grace_period=grace_period),
            handlers=HANDLERS.read_text(),
            command=command,
        ) as server:
            async with under_load(server, seed) as told:
                await trio.sleep(chance.uniform(0, 0.6))
                await stop(server, chance)
            status = await server.wait_exit()
            kept = Ledger.read(folder)
            check(told, kept, server.lines, status)
            assert not server.lines_with("hard limit")
            return Counter(
                {
                    "stops": 1,
                    f"status {status}": 1,
                    "accepted": len(told.accepted),
                    "refused": len(told.refused),
                    "unanswered": len(told.unanswered),
                    "named as interrupted": len(named(server.lines, "jobs_interrupted")),
                    "named as not started": len(named(server.lines, "jobs_not_started")),
                }
            )
    except BaseException as error:
        error.add_note(f"seed {seed}, grace period {grace_period}")
        raise


async def terminate(server: Command, _: random.Random) -> None:
    """One signal."""
    server.send(signal.SIGTERM)


async def terminate_twice(server: Command, chance: random.Random) -> None:
    """And a second one during the drain."""
    server.send(signal.SIGTERM)
    await trio.sleep(chance.uniform(0.21, 0.5))
    server.send(signal.SIGTERM)  # unless it has ended


async def interrupt_group(server: Command, chance: random.Random) -> None:
    """What a terminal does at Ctrl-C, and some wrappers twice."""
    server.send_to_group(signal.SIGINT)
    if chance.random() < 0.5:
        server.send_to_group(signal.SIGINT)


async def freeze(server: Command, chance: random.Random) -> None:
    """A debugger, or a laptop's lid: stopped, asked to end, continued."""
    server.send(signal.SIGSTOP)
    await trio.sleep(chance.uniform(0, 0.3))
    server.send(signal.SIGTERM)
    await trio.sleep(chance.uniform(0, 0.3))
    server.send(signal.SIGCONT)


@pytest.mark.parametrize("seed", range(3))
async def test_sigterm_at_a_random_moment_loses_nothing(tmp_path: Path, seed: int) -> None:
    await stopped_under_load(tmp_path, seed, terminate)


@pytest.mark.soak
async def test_two_hundred_sigterms_at_random_moments_lose_nothing(
    tmp_path: Path, report: Path
) -> None:
    await stopped_again_and_again(tmp_path, report, "SIGTERM", terminate, range(100, 300))


@pytest.mark.soak
@pytest.mark.parametrize("stop", [terminate_twice, interrupt_group, freeze])
async def test_other_ways_of_stopping_it_lose_nothing(
    tmp_path: Path, report: Path, stop: Stopping
) -> None:
    await stopped_again_and_again(tmp_path, report, stop.__name__, stop, range(20))


async def stopped_again_and_again(
    folder: Path,
    report: Path,
    name: str,
    stop: Stopping,
    seeds: range,
    *,
    grace_period: float | None = None,
    command: Sequence[str] = MODULE,
) -> None:
    """One stop for each seed; what there was is kept in the report."""
    counts: Counter[str] = Counter()
    for seed in seeds[: math.ceil(share_of(len(seeds)))]:
        counts += await stopped_under_load(
            folder / str(seed), seed, stop, grace_period=grace_period, command=command
        )
    with (report / "under_fire.txt").open("a") as lines:
        what = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        lines.write(f"{name}: {what}\n")


# Without a log there are no names: the grace period lets everything complete.


async def without_a_reader(server: Command, chance: random.Random) -> None:
    """The log's reader goes away first."""
    await server.close_log()
    await trio.sleep(chance.uniform(0, 0.5))
    server.send(signal.SIGTERM)


@pytest.mark.soak
async def test_log_without_a_reader_loses_no_job(tmp_path: Path, report: Path) -> None:
    await stopped_again_and_again(
        tmp_path, report, "no reader", without_a_reader, range(10), grace_period=20
    )


@pytest.mark.soak
async def test_full_disk_for_the_log_loses_no_job(tmp_path: Path, report: Path) -> None:
    await stopped_again_and_again(
        tmp_path,
        report,
        "full disk",
        terminate,
        range(10),
        grace_period=20,
        command=(sys.executable, "-c", FULL_LOG),
    )


# Descriptors


async def take_turns(url: str, told: Told, name: str, count: int) -> None:
    """Submit over a new connection each time, as there are fewer than clients."""
    async with talking(url, told) as talker:
        for n in range(count):
            await talker.submit("work", f"{name}-{n}", 0.001)
            talker.close()


async def test_hundred_clients_and_64_descriptors_lose_nothing(tmp_path: Path) -> None:
    limited = ("sh", "-c", 'ulimit -n 64 && exec "$0" "$@"', *MODULE)
    async with running_command(
        tmp_path,
        config=config(grace_period=20, buffer_size=1000),
        handlers=HANDLERS.read_text(),
        command=limited,
    ) as server:
        told = Told()
        async with trio.open_nursery() as clients:
            for number in range(100):
                clients.start_soon(take_turns, server.url, told, f"c{number}", 3)
        recovered = await server.client.get("/health")
        server.send(signal.SIGTERM)

        assert recovered.status_code == 200
        status = await server.wait_exit()
        check(told, Ledger.read(tmp_path), server.lines, status)
        assert len(told.accepted) == 300
        assert server.lines_with("connection_limit_reached")
