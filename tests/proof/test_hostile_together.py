"""Everything that the HTTP server's tests try one by one, at the same time, while jobs run.

Attackers of every kind go on until the server is gone, so the stop has all of them connected; it
has fewer descriptors than there are clients. Meanwhile honest clients submit jobs and wait for
them, and the three accounts of these must agree in the end.
"""

import contextlib
import re
import resource
import signal
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import pytest
import trio

from tests.command import MODULE, PATIENCE, Command, running_command
from tests.proof.accounts import Ledger, check
from tests.proof.attacks import WAYS_OF_ASKING, WAYS_WITHOUT_TLS
from tests.proof.honest import start_honest_clients
from tests.proof.share import one_of, share_of
from tests.proof.siege import TOKEN, Kind, Siege
from tests.proof.slow_attacks import WAYS_OF_BEING_SLOW
from tests.proof.talking import LEFT
from tests.proof.tls_attacks import WAYS_OF_TLS
from tests.server.test_hostile import SECRET
from tests.server.test_tls import CERTIFICATE, KEY

GRACE = 10.0
GRACEFUL = 1.0
# What a busy machine may take to notice the process's end.
SLACK = 30.0

CONFIG = f"""
[pool]
workers = 16
buffer_size = 50
grace_period = {GRACE}

[http]
token = "{TOKEN}"
max_body_bytes = 100_000
keep_alive_timeout = 3
header_timeout = 3
body_timeout = 2
send_timeout = 2
stream_idle_timeout = 2
graceful_timeout = {GRACEFUL}
"""

WITH_TLS = f"""
certfile = "{CERTIFICATE}"
keyfile = "{KEY}"
"""

FUNCTIONS = """
[handlers]
work = "work:work"
fail = "work:fail"
hoard = "work:hoard"
"""

HANDLERS = Path(__file__).with_name("work.py")

# The server may have so many open. A quarter is not for connections: that leaves some 160, which is
# enough for the attackers and not for a crowd.
DESCRIPTORS = 256
COMMAND = ("sh", "-c", f'ulimit -n {DESCRIPTORS} && exec "$0" "$@"', *MODULE)

ADDRESSES = {"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0,127.0.0.2:0"}

# Seconds: an attack that takes longer is given up, and does not count.
LONGEST = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to come.

    Attributes:
        seconds: How long it lasts at the least.
        patience: How many seconds more it may take until every attack has been carried out.
    """

    tls: bool
    seconds: float
    crowd: int
    patience: float

    @property
    def kinds(self) -> list[Kind]:
        """Every kind of attack that there is on such a server."""
        others = WAYS_OF_TLS if self.tls else WAYS_WITHOUT_TLS
        return [*WAYS_OF_ASKING, *WAYS_OF_BEING_SLOW, *others]

    @property
    def is_long(self) -> bool:
        """Whether these are the two minutes."""
        return self.seconds >= 120

    def wanted(self, kind: Kind) -> int:
        """How many there must be: one, and in the two minutes some, and each of its ways."""
        return max(10, kind.ways) if self.is_long else 1


async def attack(siege: Siege, kind: Kind) -> None:
    """Again and again, until the server is gone."""
    listening = True
    while listening:
        with trio.move_on_after(LONGEST):
            listening = await attack_once(siege, kind)
        await trio.sleep(siege.chance.uniform(0.1, 1) * kind.pause)


async def attack_once(siege: Siege, kind: Kind) -> bool:
    """Once, whatever becomes of it; False if the server is gone."""
    try:
        client = await siege.connect(bare=kind.bare)
    except OSError:
        if not siege.stopping:
            raise
        return False
    except trio.BrokenResourceError:
        return True
    try:
        await kind.attack(siege, client)
        siege.count(kind.name)
    except* LEFT:
        pass
    finally:
        client.close()
    return True


@contextlib.contextmanager
def room_for(clients: int) -> Iterator[None]:
    """This process may open so many connections in this block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients + 300
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.asynccontextmanager
async def server_under_siege(folder: Path, plan: Plan) -> AsyncIterator[Siege]:
    """A server with few descriptors at two addresses, and nobody around it yet."""
    async with running_command(
        folder,
        config=CONFIG + (WITH_TLS if plan.tls else "") + FUNCTIONS,
        handlers=HANDLERS.read_text(),
        environment=ADDRESSES,
        command=COMMAND,
    ) as server:
        running = await server.wait_for_lines(2, "Running on http")
        yield Siege(
            server,
            urls=[httpx.URL(line.split()[-1]) for line in running],
            tls=ssl.create_default_context(cafile=CERTIFICATE) if plan.tls else None,
            crowd=plan.crowd,
            lacking=Counter({kind.name: plan.wanted(kind) for kind in plan.kinds}),
        )


async def besieged(folder: Path, plan: Plan) -> str:
    """What this was like, in a few lines, once everything has been checked."""
    with room_for(plan.crowd):
        async with server_under_siege(folder, plan) as siege:
            # Honest clients go on until they notice that the server is gone.
            async with trio.open_nursery() as honest, trio.open_nursery() as hostile:
                started = trio.current_time()
                names = start_honest_clients(siege, honest)
                for kind in plan.kinds:
                    for _ in range(kind.attackers):
                        hostile.start_soon(attack, siege, kind)
                await trio.sleep(plan.seconds)
                await wait_until_ready(siege, names, plan)
                held = siege.waiting & Ledger.read(folder).began.keys()
                lasted = trio.current_time() - started
                siege.stopping = True
                siege.server.send(signal.SIGTERM)
                began = time.monotonic()
                status = await siege.server.wait_exit()
                took = time.monotonic() - began
                hostile.cancel_scope.cancel()

            check(siege.told, Ledger.read(folder), siege.server.lines, status)
            check_the_stop(status, took)
            check_the_log(siege.server)
            assert not held & siege.waiting, "who waited when the stop came was not answered"
            assert median(siege.delays) < 1
            return report_of(siege, plan, lasted) + (
                f"{len(held)} clients waited through the stop, which took {took:.1f} s\n"
            )


async def wait_until_ready(siege: Siege, names: set[str], plan: Plan) -> None:
    """Wait until no attack lacks any more, and then until each honest client is served again."""
    with trio.move_on_after(plan.patience):
        await siege.complete.wait()
    assert not siege.lacking, f"attacks that have not been carried out: {siege.lacking}"
    if plan.is_long:
        # Both have had their effect: there was no room, and there were no descriptors. On a busy
        # machine a crowd may come so slowly that the first of it have to go before the last come.
        await siege.server.wait_for_line("connection_limit_reached")
        await siege.server.wait_for_line("cannot_accept")
    siege.ignored |= names
    with trio.move_on_after(PATIENCE):
        await siege.all_served.wait()
    assert not siege.ignored, f"honest clients that are not served any more: {siege.ignored}"


def check_the_stop(status: int, took: float) -> None:
    """It is clean, and within its bound."""
    assert status == 0
    assert took < GRACE + GRACEFUL + 1 + SLACK


def check_the_log(server: Command) -> None:
    """It tells of trouble with clients, and of none of its own."""
    event = ""
    for line in server.lines:
        if re.match(r"\d{4}-", line):
            event = line
        assert "Traceback" not in line or " handler_raised " in event, event
    failures = server.lines_with("connection_failed") + server.lines_with("request_failed")
    assert not failures, failures
    assert not server.lines_with(TOKEN)
    assert not server.lines_with(SECRET)


def report_of(siege: Siege, plan: Plan, lasted: float) -> str:
    """What there was until the stop."""
    attackers = sum(kind.attackers for kind in plan.kinds)
    counts = ", ".join(f"{siege.carried_out[kind.name]} {kind.name}" for kind in plan.kinds)
    return (
        f"{'TLS' if siege.tls else 'plain'}: {siege.carried_out.total()} attacks in"
        f" {lasted:.0f} s by {attackers} attackers and crowds of {siege.crowd}, with {DESCRIPTORS}"
        f" descriptors; {len(siege.told.accepted)} jobs accepted;"
        f" two requests took {1000 * median(siege.delays):.0f} ms in the median and"
        f" {1000 * max(siege.delays):.0f} ms at the most, {1000 * median(siege.turns):.0f} ms and"
        f" {1000 * max(siege.turns):.0f} ms on a new connection\n"
        f"of each kind: {counts.replace('_', ' ')}\n"
    )


@pytest.mark.parametrize(
    ("tls", "seconds", "crowd", "patience"),
    [
        *(
            pytest.param(tls, 2, 300, PATIENCE, id=f"{'TLS' if tls else 'plain'}, once")
            for tls in one_of("attackers", [False, True])
        ),
        *(
            pytest.param(
                tls,
                max(share_of(120), 2),
                max(round(share_of(1000)), 300),
                600,
                marks=pytest.mark.soak,
                id=f"{'TLS' if tls else 'plain'}, for two minutes",
            )
            for tls in (False, True)
        ),
    ],
)
async def test_attackers_of_every_kind_at_once_cost_nobody_else_a_job(
    tmp_path: Path, report: Path, seconds: float, crowd: int, patience: float, *, tls: bool
) -> None:
    plan = Plan(tls=tls, seconds=seconds, crowd=crowd, patience=patience)
    lines = await besieged(tmp_path, plan)

    with (report / "hostile.txt").open("a") as file:
        file.write(lines)
