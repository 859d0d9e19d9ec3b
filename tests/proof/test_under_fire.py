"""The real command, stopped at random moments under load; three accounts of its jobs must agree.

The ledger is the handlers' own, outside of the server: what was accepted has completed or is named
in the log as unfinished, nothing ran twice, nothing that was refused ran, and the exit status is
right. A failure prints the seed that chose the moment and the settings.
"""

import math
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trio
from _pytest.mark import ParameterSet

from tests.command import MODULE, PATIENCE, Command, running_command
from tests.proof.accounts import Ledger, Told, check, check_without_log, named
from tests.proof.share import share_of
from tests.proof.talking import Talker, connect, talking

HANDLERS = Path(__file__).with_name("work.py")
CLIENTS = 6

GRACEFUL = 1.0
# Seconds in which everything that was accepted is done, also on a busy machine.
ENOUGH = 20.0
# What a busy machine may take to start the stop, and to notice the process's end.
SLACK = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to stop a server.

    Attributes:
        name: For the report.
        stop: What is done to it.
        grace_periods: Seconds; the seeds take them in turn.
        insists: Whether ``stop`` ends the grace period.
        patch: What changes the server before it starts.
        has_log: Whether its log can be read.
    """

    name: str
    stop: Callable[[Command, random.Random], Awaitable[None]]
    grace_periods: Sequence[float] = (0, 0.05, ENOUGH)
    insists: bool = False
    patch: str = ""
    has_log: bool = True


def config(*, grace_period: float, workers: int = 4, buffer_size: int = 20) -> str:
    """Few workers and a small buffer: both are full under this load."""
    return f"""
[pool]
workers = {workers}
buffer_size = {buffer_size}
grace_period = {grace_period}

[http]
graceful_timeout = {GRACEFUL}

[handlers]
work = "work:work"
fail = "work:fail"
in_thread = "work:in_thread"
hoard = "work:hoard"

[handlers.in_process]
call = "work:in_process"
run = "process"
"""


async def keep_submitting(
    url: str, told: Told, name: str, chance: random.Random, submitted: trio.Event
) -> None:
    """Jobs of all kinds, alone and together, and now and then a client that hangs up.

    ``submitted`` is set once something is in.
    """
    async with talking(url, told) as talker:
        for n in range(10_000):
            token = f"{name}-{n}"
            if not await submit_one(talker, token, chance):
                return  # it has stopped listening
            if told.accepted:
                submitted.set()


async def submit_one(talker: Talker, token: str, chance: random.Random) -> bool:
    """Submit something; False if there was no answer."""
    kind = chance.random()
    seconds = chance.choice([0, 0.01, 0.05])
    if kind < 0.05:
        # In half of the cases the whole of it is sent, and the job is in, if there is room. It is
        # a slow one, so that it is still running when the server is stopped.
        await talker.hang_up_on("work", token, 0.5, min(2 * chance.random(), 1))
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
async def under_load(
    server: Command, seed: int, told: Told, *, at_once: bool
) -> AsyncIterator[None]:
    """Clients that submit until the server is gone; the block ends when they have.

    It is entered when the first of them has submitted something, or at once.
    """
    submitted = trio.Event()
    if at_once:
        submitted.set()
    async with trio.open_nursery() as clients:
        for number in range(CLIENTS):
            chance = random.Random(f"{seed} {number}")  # noqa: S311 - to be repeated
            clients.start_soon(keep_submitting, server.url, told, f"c{number}", chance, submitted)
        with trio.fail_after(PATIENCE):
            await submitted.wait()
        yield


async def stopped_under_load(folder: Path, seed: int, way: Way) -> Counter[str]:
    """Start it, load it, stop it at a moment that the seed chooses, and compare the accounts.

    Where the grace period is too short, or ended, every other seed has a job that is sure to be cut
    off; without that the grace period of `ENOUGH` is enough for everything.

    Returns:
        How many of what there were.
    """
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    grace_period = way.grace_periods[seed % len(way.grace_periods)]
    is_enough = grace_period == ENOUGH and not way.insists
    has_long_job = not is_enough and seed % 2 == 1
    try:
        async with running_command(
            folder,
            config=config(grace_period=grace_period),
            handlers=HANDLERS.read_text(),
            patch=way.patch,
        ) as server:
            told = Told()
            if has_long_job:
                await run_too_long_a_job(server.url, told)
            async with under_load(server, seed, told, at_once=seed % 10 == 9):
                await trio.sleep(chance.uniform(0, 0.6))
                stopped_at = time.monotonic()
                await way.stop(server, chance)
            status = await server.wait_exit()
            took = time.monotonic() - stopped_at
            kept = Ledger.read(folder)
            if way.has_log:
                check(told, kept, server.lines, status)
                assert not server.lines_with("hard limit")
            else:
                check_without_log(told, kept, status)
            assert took < (0 if way.insists else grace_period) + GRACEFUL + 1 + SLACK
            assert told.statuses.keys() <= {201, 429, 503}
            # Else a server that does not drain at all would pass, or one that drains in any case.
            if is_enough or has_long_job:
                assert status == has_long_job
            return counted(told, kept, server, status)
    except BaseException as error:
        error.add_note(f"seed {seed}, grace period {grace_period}")
        raise


async def run_too_long_a_job(url: str, told: Told) -> None:
    """One that no short grace period is enough for; it runs when this returns."""
    async with talking(url, told) as talker:
        await talker.submit("work", "long", 3600)
        status = "pending"
        while status != "processing":
            answer = await talker.ask("GET", f"/jobs/{told.accepted['long']}")
            assert answer is not None
            status = answer.json()["status"]


def counted(told: Told, ledger: Ledger, server: Command, status: int) -> Counter[str]:
    """How many of what there were."""
    return Counter(
        {
            "stops": 1,
            "stops with accepted jobs": bool(told.accepted),
            f"status {status}": 1,
            "accepted": len(told.accepted),
            "refused": len(told.refused),
            "unanswered": len(told.unanswered),
            "ended": len(ledger.ended),
            "cut off": len(ledger.cut_off),
            "cut off and unanswered": len(ledger.cut_off & told.unanswered),
            "named as interrupted": len(named(server.lines, "jobs_interrupted")),
            "named as not started": len(named(server.lines, "jobs_not_started")),
        }
    )


async def terminate(server: Command, _: random.Random) -> None:
    """One signal."""
    server.send(signal.SIGTERM)


async def terminate_twice(server: Command, chance: random.Random) -> None:
    """And a second one during the drain, if it has not ended by then."""
    server.send(signal.SIGTERM)
    # One that comes less than 0.2 s after the server has noticed the first does not count.
    await server.wait_for_line("draining")
    await trio.sleep(chance.uniform(0.21, 0.5))
    server.send(signal.SIGTERM)


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


SIGTERM = Way(name="SIGTERM", stop=terminate)
SECOND_SIGNAL = Way(
    name="a second signal", stop=terminate_twice, grace_periods=(ENOUGH,), insists=True
)
OTHER_WAYS = [
    SECOND_SIGNAL,
    Way(name="SIGINT to the group", stop=interrupt_group),
    Way(name="frozen", stop=freeze),
]


def share_of_seeds(start: int, end: int) -> range:
    """The share that is to be run."""
    return range(start, start + math.ceil(share_of(end - start)))


def in_the_soak(way: Way, seeds: Sequence[int]) -> ParameterSet:
    return pytest.param(way, seeds, marks=pytest.mark.soak, id=f"{way.name}, often")


@pytest.mark.parametrize(
    ("way", "seeds"),
    [
        pytest.param(SIGTERM, range(3), id="SIGTERM"),
        pytest.param(SECOND_SIGNAL, [1], id="a second one"),
        in_the_soak(SIGTERM, share_of_seeds(100, 300)),
        *(in_the_soak(way, share_of_seeds(0, 20)) for way in OTHER_WAYS),
    ],
)
async def test_signals_at_random_moments_lose_nothing(
    tmp_path: Path, report: Path, way: Way, seeds: Sequence[int]
) -> None:
    counts = await stopped_again_and_again(tmp_path, way, seeds)

    write(report, way, counts)
    if counts["stops"] > 50:
        assert min(counts["cut off and unanswered"], counts["refused"], counts["unanswered"]) > 0


async def stopped_again_and_again(folder: Path, way: Way, seeds: Sequence[int]) -> Counter[str]:
    """One stop for each seed; what there was."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        counts += await stopped_under_load(folder / str(seed), seed, way)
    check_that_there_was_something(counts, way)
    return counts


def write(report: Path, way: Way, counts: Counter[str]) -> None:
    """Keep what there was."""
    with (report / "under_fire.txt").open("a") as lines:
        what = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        lines.write(f"{way.name}: {what}\n")


def check_that_there_was_something(counts: Counter[str], way: Way) -> None:
    """Else the accounts agree because there is nothing in them."""
    assert counts["stops with accepted jobs"] >= 0.8 * counts["stops"]
    if counts["stops"] < 3:
        return  # too small a share to have some of everything
    # The jobs where the grace period is enough; and the long ones.
    assert counts["ended"] > 0 or way.insists
    assert counts["status 1"] > 0
    assert counts["status 0"] > 0 or way.insists
    assert counts["cut off"] > 0
    if way.has_log:
        assert counts["named as interrupted"] >= counts["cut off"]


# A log that cannot be written


async def without_a_reader(server: Command, chance: random.Random) -> None:
    """The log's reader goes away first."""
    await server.close_log()
    await trio.sleep(chance.uniform(0, 0.5))
    server.send(signal.SIGTERM)


async def losing_its_reader(server: Command, chance: random.Random) -> None:
    """The log's reader goes away during the stop."""
    server.send(signal.SIGTERM)
    await trio.sleep(chance.uniform(0, 0.1))
    await server.close_log()


# Standard error is a full disk from the start on; only the address is told.
FULL_LOG = """
import trio_jobs.http_service

told = os.dup(2)
os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
serve = trio_jobs.http_service.serve

async def serve_and_tell(*arguments, task_status, **settings):
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(lambda task_status: serve(
            *arguments, task_status=task_status, **settings))
        os.write(told, f"Running on {urls[0]}\\n".encode())
        task_status.started(urls)

trio_jobs.http_service.serve = serve_and_tell
"""

NO_LOG = [
    Way(name="no reader", stop=without_a_reader, has_log=False),
    Way(name="no reader any more", stop=losing_its_reader, has_log=False),
    Way(
        name="full disk",
        stop=terminate,
        patch=FULL_LOG,
        has_log=False,
    ),
]


@pytest.mark.parametrize("way", NO_LOG, ids=lambda way: way.name)
@pytest.mark.parametrize(
    "seeds", [[1], pytest.param(share_of_seeds(0, 30), marks=pytest.mark.soak)], ids=["one", "many"]
)
async def test_without_a_log_the_exit_status_tells(
    tmp_path: Path, report: Path, way: Way, seeds: Sequence[int]
) -> None:
    """Jobs that are cut off can be named nowhere; none runs twice, and the stop ends in time."""
    counts = await stopped_again_and_again(tmp_path, way, seeds)

    write(report, way, counts)
    assert counts["cut off"] > 0 or 1 not in seeds


# Descriptors


async def take_turns(url: str, told: Told, name: str, count: int) -> None:
    """Submit over a new connection each time, as there are fewer than clients."""
    async with talking(url, told) as talker:
        for n in range(count):
            await talker.submit("work", f"{name}-{n}", 0.001)
            talker.close()


async def test_hundred_clients_and_64_descriptors_lose_nothing(tmp_path: Path) -> None:
    """At first there are none at all, because a job takes those that are left."""
    limited = ("sh", "-c", 'ulimit -n 64 && exec "$0" "$@"', *MODULE)
    async with running_command(
        tmp_path,
        config=config(grace_period=20, buffer_size=1000),
        handlers=HANDLERS.read_text(),
        command=limited,
    ) as server:
        told = Told()
        told.accepted["hoard"] = await server.submit("hoard", {"token": "hoard", "seconds": 1.0})
        async with trio.open_nursery() as clients:
            for number in range(100):
                clients.start_soon(take_turns, server.url, told, f"c{number}", 3)
        # The clients are too quick now and then to be that many at once.
        url = httpx.URL(server.url)
        with ExitStack() as idle:
            for _ in range(64):
                idle.enter_context(closing(await connect(url)))
            await server.wait_for_line("connection_limit_reached")
        recovered = await server.client.get("/health")
        hoarded = await server.job(told.accepted["hoard"])
        server.send(signal.SIGTERM)

        assert recovered.status_code == 200
        assert hoarded["result"] > 10
        status = await server.wait_exit()
        check(told, Ledger.read(tmp_path), server.lines, status)
        assert told.statuses == {201: 300}
        assert server.lines_with("cannot_accept")
