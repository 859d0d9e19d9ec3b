"""Requests that come at the very moment of a time limit: answered, or never acted on.

Over and over, with real time and real sockets. Each client comes a little later than the last one
that was answered, a little earlier than the last one that was not, so most come within some
milliseconds of the limit. Both sides of it must have been hit, or nothing is shown.
"""

import logging
import random
import signal
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, inf
from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.command import running_command
from tests.proof.accounts import Ledger, Told, check
from tests.proof.share import share_of
from tests.proof.talking import LEFT, body_bytes, connect, request_bytes, take_down, task
from tests.server.blocked import open_client
from tests.server.serving import Client, Receive, Scope, Send, answer, get, http_only, post, served
from tests.server.test_tls import CERTIFICATE, KEY
from tests.support import load_certificate

# Seconds: the shortest that the settings allow, so that there can be many.
LIMIT = 0.1
# On a machine on which a handshake takes longer than that, nobody comes in time: then this one.
LONGER = 0.5
# Seconds that the next client comes later or earlier, around the edge.
STEP = 0.002
CLIENTS = 20
# Of those that read few at a time, and with more time: a busy machine takes long to read so much.
READERS = 5
SEND_LIMIT = 0.3
# With fewer, one side of the limit would often be hit by nobody at first: then there are more.
FEWEST, FEWEST_READ, FEWEST_STOPS = 100, 30, 20
MORE = 10  # times as many

CONFIG = f"""
[pool]
workers = {2 * CLIENTS}
buffer_size = {10 * CLIENTS}

[http]
keep_alive_timeout = {LIMIT}
header_timeout = {LIMIT}
body_timeout = {LIMIT}

[handlers]
work = "work:work"
block = "work:block"
"""
WITH_TLS = f"""
[http]
certfile = "{CERTIFICATE}"
keyfile = "{KEY}"
"""

HANDLERS = (
    Path(__file__).with_name("work.py").read_text()
    + '''

async def block(task: Task) -> None:
    """Block the event loop."""
    _note("begin", task)
    time.sleep(task["seconds"])
    _note("end", task)
'''
)

# What is sent before the limit has begun to run, of a request and before it; what is left is sent
# as it ends.
Cut = Callable[[bytes], int]
LIMITS: dict[str, Cut] = {
    "idle": lambda _: 0,
    "head": lambda data: data.index(b"Host"),
    "body": lambda data: len(data) - 10,
}


class Edge:
    """Looks for the moment at which a limit is over; a busy machine shifts it.

    Attributes:
        delay: How long the next client waits.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self.delay = limit
        self._step = STEP
        self._later: bool | None = None

    def note(self, *, in_time: bool) -> None:
        """Take note of whether the last one came in time."""
        # Ever longer steps as long as they lead to the same side, short ones around the edge.
        self._step = min(1.5 * self._step, LIMIT / 4) if in_time is self._later else STEP
        self._later = in_time
        step = random.uniform(0, self._step)  # noqa: S311 - no secret
        self.delay = max(self.delay + (step if in_time else -step), 0)


@dataclass(slots=True)
class Sweep:
    """Clients that come at a limit, and what became of them."""

    url: httpx.URL
    cut: Cut
    tls: ssl.SSLContext | None
    left: int
    enough: Callable[[Counter[str]], bool]  # else there are more
    told: Told = field(default_factory=Told)
    counts: Counter[str] = field(default_factory=Counter)
    number: int = 0
    limit: float = LIMIT

    async def run(self) -> None:
        """One client after the other, until there have been enough."""
        edge = Edge(self.limit)
        most = MORE * self.left
        while self.left > 0 or (self.left > -most and not self.enough(self.counts)):
            self.left -= 1
            status = await self.submit("work", 0, edge.delay)
            self.counts[status] += 1
            edge.note(in_time=status == "201")

    async def block(self) -> None:
        """Have a job block the loop, now and then, until there have been enough clients."""
        while self.left > 0:
            await self.submit("block", 1.5 * LIMIT, 0)
            await trio.sleep(LIMIT)

    def next_token(self) -> str:
        """A token that no job has."""
        self.number += 1
        return f"t{self.number}"

    async def submit(self, job_type: str, seconds: float, delay: float) -> str:
        """Submit a job whose last bytes come so late; the answer's status, or "closed"."""
        token = self.next_token()
        data = request_bytes("POST", "/jobs", body_bytes(task(job_type, token, seconds)))
        cut = self.cut(data)
        self.told.unanswered.add(token)
        client: Client | None = None
        try:
            client = await connect(self.url, self.tls)
            assert (await client.request(get("/health"))).status == 200
            if cut:
                await client.send(data[:cut])
            await trio.sleep(delay)
            reply = await client.request(data[cut:])
        except LEFT:
            return "closed"
        finally:
            if client is not None:
                client.close()
        take_down(self.told, token, reply)
        assert reply.status in (201, 408)
        return str(reply.status)


async def swept(
    folder: Path, limit: str, tries: int, *, tls: bool, blocked: bool, seconds: float = LIMIT
) -> Counter[str]:
    """So many clients at a limit of the real command: the accounts of their jobs must agree.

    Args:
        folder: For the command.
        limit: Which.
        tries: How many clients.
        tls: Over TLS.
        blocked: Jobs block the event loop meanwhile, for longer than the limit.
        seconds: The limit.
    """
    config = CONFIG.replace("[http]\n", WITH_TLS) if tls else CONFIG
    config = config.replace(f"_timeout = {LIMIT}", f"_timeout = {seconds}")
    context = ssl.create_default_context(cafile=CERTIFICATE) if tls else None
    # A busy machine needs more steps to the edge. While jobs block the loop, no edge is looked for.
    enough = some_in_time if blocked else both_sides
    async with running_command(folder, config=config, handlers=HANDLERS) as server:
        sweep = Sweep(httpx.URL(server.url), LIMITS[limit], context, tries, enough, limit=seconds)
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(sweep.run)
            if blocked:
                await sweep.block()
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0
    ledger = Ledger.read(folder)
    assert not ledger.began.keys() & sweep.told.unanswered, "a job ran without an answer"
    check(sweep.told, ledger, server.lines, 0)
    assert not server.lines_with("client_too_slow")
    assert len(server.lines_with("request_refused")) <= sweep.counts.total()
    return sweep.counts


def both_sides(counts: Counter[str], in_time: str = "201") -> bool:
    """Whether some came before the limit and some after it, and not one by accident."""
    return min(counts[in_time], counts.total() - counts[in_time]) >= counts.total() / 20


def some_in_time(counts: Counter[str]) -> bool:
    """Whether anybody came before the limit."""
    return counts["201"] > 0


def tries(fewest: int, most: int) -> pytest.MarkDecorator:
    """A few, and the share of many that the soak takes."""
    many = pytest.param(max(fewest, ceil(share_of(most))), marks=pytest.mark.soak)
    return pytest.mark.parametrize("tries", [fewest, many], ids=["few", "many"])


@tries(FEWEST, 5_000)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_no_job_runs_unanswered_around_a_limit(
    tmp_path: Path, report: Path, limit: str, tries: int, *, tls: bool
) -> None:
    counts: Counter[str] = Counter()
    for seconds in (LIMIT, LONGER):
        folder = tmp_path / str(seconds)
        counts = await swept(folder, limit, tries, tls=tls, blocked=False, seconds=seconds)
        if both_sides(counts):
            break

    assert both_sides(counts), counts
    write(report, f"{limit}, {'TLS' if tls else 'plain'}", counts)


@tries(FEWEST, 2_000)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=pytest.mark.soak)])
async def test_no_job_runs_unanswered_while_others_block_the_loop(
    tmp_path: Path, report: Path, limit: str, tries: int, *, tls: bool
) -> None:
    counts = await swept(tmp_path, limit, tries, tls=tls, blocked=True)

    assert some_in_time(counts)
    write(report, f"{limit}, {'TLS' if tls else 'plain'}, blocked", counts)


async def stopped(clients: int, *, tls: bool) -> Counter[str]:
    """An HTTP server that stops while clients send their next request; what became of those."""
    counts: Counter[str] = Counter()
    acted_on: set[bytes] = set()
    answered: set[bytes] = set()

    @http_only
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        acted_on.add(body)
        await answer(send, body)

    context = load_certificate(CERTIFICATE, KEY) if tls else None

    async def ask_late(client: Client, name: bytes, late: int) -> None:
        for _ in range(late):
            await trio.lowlevel.checkpoint()
        try:
            reply = await client.request(post(name))
        except LEFT:
            counts["closed"] += 1
        else:
            counts["answered"] += 1
            assert reply.body == name
            answered.add(name)

    async with (
        served(app, tls=context, graceful_timeout=20) as server,
        trio.open_nursery() as nursery,
    ):
        known = [await open_client(server, tls=tls) for _ in range(clients)]
        for client in known[::2]:
            await client.request(get())  # the others' next request is their first
        await wait_all_tasks_blocked()
        acted_on.clear()
        for number, client in enumerate(known):
            nursery.start_soon(ask_late, client, b"%d" % number, random.randrange(8))  # noqa: S311
        for _ in range(random.randrange(4)):  # noqa: S311 - no secret
            await trio.lowlevel.checkpoint()
        server.closing.set()
    assert acted_on == answered
    return counts


@tries(FEWEST_STOPS, 500)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_nothing_is_acted_on_unanswered_as_the_stop_ends_idle_connections(
    report: Path, tries: int, *, tls: bool
) -> None:
    counts: Counter[str] = Counter()
    for number in range(MORE * tries):
        if number >= tries and both_sides(counts, "answered"):
            break
        counts += await stopped(10, tls=tls)

    assert both_sides(counts, "answered"), counts
    write(report, f"stop, {'TLS' if tls else 'plain'}", counts)


async def read_late(folder: Path, tries: int, caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """Clients that begin to read their answers as the time for it ends."""
    caplog.set_level(logging.INFO)
    counts: Counter[str] = Counter()
    most = MORE * tries

    @http_only
    async def flood(_scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, bytes(5_000_000))

    async def run() -> None:
        edge = Edge(SEND_LIMIT)
        while (done := counts.total()) < tries or (done < most and not both_sides(counts, "whole")):
            client = Client(await trio.open_unix_socket(path))
            await client.send(get())
            await trio.sleep(edge.delay)
            whole = len(await client.receive_rest()) > 5_000_000
            client.close()
            counts["whole" if whole else "cut off"] += 1
            edge.note(in_time=whole)

    # Over TCP the kernel has the same limit, and a connection may break by that.
    path = str(folder / "socket")
    # An answer ends its connection, so that a client can read to the end.
    async with (
        served(
            flood,
            f"unix:{path}",
            send_timeout=SEND_LIMIT,
            max_requests_per_connection=1,
            patience=inf,
        ),
        trio.open_nursery() as nursery,
    ):
        for _ in range(READERS):
            nursery.start_soon(run)
    blamed = [record for record in caplog.records if record.message == "client_too_slow"]
    assert len(blamed) == counts["cut off"]
    assert both_sides(counts, "whole"), counts
    return counts


@tries(FEWEST_READ, 2_000)
async def test_a_client_that_reads_as_its_time_ends_is_served_or_told_of(
    tmp_path: Path, report: Path, caplog: pytest.LogCaptureFixture, tries: int
) -> None:
    write(report, "send", await read_late(tmp_path, tries, caplog))


def write(report: Path, limit: str, counts: Counter[str]) -> None:
    """Keep what there was."""
    with (report / "limits.txt").open("a") as lines:
        what = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        lines.write(f"{limit}: {counts.total()} requests, {what}\n")
