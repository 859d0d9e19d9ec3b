"""Everything that the front door's tests try one by one, at the same time, while jobs run.

Attackers of every kind go on until the server is gone, so the stop has all of them connected.
Meanwhile honest clients submit jobs, and the three accounts of these must agree in the end.
"""

import contextlib
import json
import random
import signal
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx
import pytest
import trio

from tests.command import Command, running_command
from tests.proof.accounts import Ledger, Told, check
from tests.proof.share import share_of
from tests.proof.talking import LEFT, request_bytes, talking, task
from tests.server.serving import get, post
from tests.server.test_hostile import HOSTILE, SEVEN_PACKETS

GRACE = 10.0
GRACEFUL = 1.0

CONFIG = f"""
[pool]
workers = 4
buffer_size = 50
grace_period = {GRACE}

[http]
max_body_bytes = 100_000
keep_alive_timeout = 2
stream_idle_timeout = 2
graceful_timeout = {GRACEFUL}

[handlers]
work = "work:work"
fail = "work:fail"
"""

HANDLERS = Path(__file__).with_name("work.py")

BODIES = [
    b"[" * 50_000,
    b'{"a":' * 10_000,
    b'{"type":"\xff"}',
    b'{"type":"work","payload":1e999}',
    b'{"type":"work","payload":"\xed\xa0\x80"}',
    b"\x00" * 1000,
    b'{"type":"work"' + b" " * 90_000 + b"}",
    b'{"type":"work","payload":' + b"9" * 90_000 + b"}",
    b"null",
]


@dataclass(slots=True)
class Siege:
    """A server and those around it.

    Attributes:
        attacks: How many attacks of all kinds have been carried out.
        delays: How long each honest request took, in seconds.
        served_at: When an honest client was served last, by Trio's clock.
        stopping: Whether the server has been asked to.
    """

    server: Command
    told: Told = field(default_factory=Told)
    chance: random.Random = field(default_factory=lambda: random.Random(20261125))  # noqa: S311 - to be repeated
    attacks: int = 0
    delays: list[float] = field(default_factory=list)
    served_at: float = 0.0
    stopping: bool = False

    async def connect(self) -> trio.SocketStream:
        url = httpx.URL(self.server.url)
        return await trio.open_tcp_stream(url.host, url.port or 0)


Attack = Callable[[Siege, trio.SocketStream], Awaitable[None]]


async def send_bytes(siege: Siege, stream: trio.SocketStream) -> None:
    """Something that is no request, or a harmful one."""
    known = [*SEVEN_PACKETS.values(), *(data for data, _ in HOSTILE.values())]
    data = bytearray(siege.chance.choice([*known, siege.chance.randbytes(300)]) or b"x")
    if siege.chance.random() < 0.3:
        data[siege.chance.randrange(len(data))] = siege.chance.randrange(256)
    await stream.send_all(data)
    await stream.send_eof()
    await read_to_the_end(stream)


async def reset(siege: Siege, stream: trio.SocketStream) -> None:
    """Break off somewhere in a request, with a reset."""
    data = post(json.dumps({"type": "none"}).encode() * 20, "/jobs")
    await stream.send_all(data[: siege.chance.randrange(len(data))])
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))


async def say_nothing(_: Siege, stream: trio.SocketStream) -> None:
    await read_to_the_end(stream)


async def drip(siege: Siege, stream: trio.SocketStream) -> None:
    """Headers, a body or chunks, a byte now and then."""
    start, drops = siege.chance.choice(
        [
            (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n" * 1000),
            (post(bytes(1000), "/jobs")[:-999], bytes(998)),
            (get("/jobs", "Transfer-Encoding: chunked", method="POST"), b"1\r\n \r\n" * 1000),
        ]
    )
    await stream.send_all(start)
    for n in range(len(drops)):
        await stream.send_all(drops[n : n + 1])
        await trio.sleep(0.05)


async def never_read(_: Siege, stream: trio.SocketStream) -> None:
    """Ask and ask, and read none of the answers."""
    await stream.send_all(get("/jobs") * 200)
    await stream.send_all(get("/openapi.json") * 5000)
    await trio.sleep(10)


async def send_too_much(siege: Siege, stream: trio.SocketStream) -> None:
    """A body far over the limit, its length declared or not."""
    if siege.chance.random() < 0.5:
        await stream.send_all(get("/jobs", "Content-Length: 5000000", method="POST"))
        chunk = bytes(65_536)
    else:
        await stream.send_all(get("/jobs", "Transfer-Encoding: chunked", method="POST"))
        chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    for _ in range(70):
        await stream.send_all(chunk)


async def send_bad_json(siege: Siege, stream: trio.SocketStream) -> None:
    path = siege.chance.choice(["/jobs", "/jobs/batch", "/jobs/stream"])
    await stream.send_all(post(siege.chance.choice(BODIES), path))
    await stream.send_eof()
    await read_to_the_end(stream)


async def stall_a_stream(siege: Siege, stream: trio.SocketStream) -> None:
    """Some jobs, half a line, and nothing more."""
    token = f"stalled-{siege.attacks}"
    siege.told.unanswered.add(token)
    line = json.dumps(task("work", token, 0.01)).encode() + b"\n"
    await stream.send_all(get("/jobs/stream", "Transfer-Encoding: chunked", method="POST"))
    await stream.send_all(b"%x\r\n%b\r\n" % (len(line) + 5, line + line[:5]))
    await read_to_the_end(stream)


async def wait_and_leave(siege: Siege, stream: trio.SocketStream) -> None:
    """Submit, ask to wait, and hang up."""
    token = f"left-{siege.attacks}"
    siege.told.unanswered.add(token)
    body = json.dumps(task("work", token, 0.02)).encode()
    await stream.send_all(request_bytes("POST", "/jobs", body, {"Prefer": "wait=60"}))
    await trio.sleep(siege.chance.uniform(0, 0.03))


async def read_to_the_end(stream: trio.SocketStream) -> None:
    while await stream.receive_some(65_536):
        pass


# How many attackers of each kind there are.
ATTACKERS: dict[Attack, int] = {
    send_bytes: 6,
    reset: 2,
    say_nothing: 60,
    drip: 20,
    never_read: 5,
    send_too_much: 2,
    send_bad_json: 3,
    stall_a_stream: 5,
    wait_and_leave: 3,
}


async def attack(siege: Siege, kind: Attack) -> None:
    """Again and again, until the server is gone."""
    while True:
        try:
            stream = await siege.connect()
        except OSError:
            return
        siege.attacks += 1
        async with stream:
            with trio.move_on_after(8):
                with contextlib.suppress(*LEFT):
                    await kind(siege, stream)
        await trio.sleep(siege.chance.uniform(0.02, 0.2))


async def be_honest(siege: Siege, name: str) -> None:
    """Submit jobs and look at them, until the server is gone."""
    async with talking(siege.server.url, siege.told) as talker:
        for n in range(100_000):
            began = trio.current_time()
            job_type = siege.chance.choice(["work", "work", "fail"])
            answer = await talker.submit(job_type, f"{name}-{n}", 0.05)
            if answer is None:
                assert siege.stopping, f"{name}-{n} was not answered"
                return
            assert answer.status in (201, 429, 503), answer.body
            siege.served_at = trio.current_time()
            if answer.status == 201:
                job = await talker.ask("GET", f"/jobs/{answer.json()['id']}")
                assert job is None or job.status == 200
                siege.delays.append(trio.current_time() - began)
            await trio.sleep(siege.chance.uniform(0.02, 0.1))


async def besieged(folder: Path, *, seconds: float) -> str:
    """What this was like, in a line, once everything has been checked."""
    async with running_command(folder, config=CONFIG, handlers=HANDLERS.read_text()) as server:
        siege = Siege(server)
        async with trio.open_nursery() as clients:
            for kind, number in ATTACKERS.items():
                for _ in range(number):
                    clients.start_soon(attack, siege, kind)
            for number in range(3):
                clients.start_soon(be_honest, siege, f"honest{number}")
            await trio.sleep(seconds)
            assert siege.served_at > trio.current_time() - max(seconds / 4, 1)
            siege.stopping = True
            server.send(signal.SIGTERM)
            began = time.monotonic()
            status = await server.wait_exit()
            took = time.monotonic() - began
            clients.cancel_scope.cancel()

        check(siege.told, Ledger.read(folder), server.lines, status)
        assert status == 0
        assert took < GRACE + GRACEFUL + 1
        assert siege.told.accepted
        assert median(siege.delays) < 1
        assert not server.lines_with("Traceback", "trio_jobs.server")
        failures = server.lines_with("connection_failed") + server.lines_with("request_failed")
        assert not failures, failures
        return (
            f"{siege.attacks} attacks in {seconds:g} s by {sum(ATTACKERS.values())} attackers;"
            f" {len(siege.told.accepted)} jobs accepted from honest clients, two requests took"
            f" {1000 * median(siege.delays):.0f} ms in the median and"
            f" {1000 * max(siege.delays):.0f} ms at the most; the stop took {took:.1f} s"
        )


async def test_attackers_of_every_kind_at_once_cost_nobody_else_a_job(tmp_path: Path) -> None:
    await besieged(tmp_path, seconds=2)


@pytest.mark.soak
async def test_two_minutes_of_attacks_of_every_kind(tmp_path: Path, report: Path) -> None:
    line = await besieged(tmp_path, seconds=max(share_of(120), 2))
    (report / "hostile.txt").write_text(line + "\n")
