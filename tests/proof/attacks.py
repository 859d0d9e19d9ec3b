"""The kinds of attack that are about what is sent: bytes, requests, bodies, who sends them.

What `tests/server/` and its neighbours try one by one, with a token, so that it gets past the
door. Each kind is a function of the siege and a connection of its own, and returns once it has got
as far as it meant to; cut off before, it raises.
"""

import itertools
import json
import struct

import trio

from tests.api.test_hostile_json import REFUSED
from tests.proof.siege import (
    Kind,
    Siege,
    ask,
    job,
    let_in,
    outcome,
    tell,
)
from tests.proof.talking import LEFT
from tests.server.serving import Client, post
from tests.server.test_access_control import FOREIGN_HOSTS, OTHER_SITES, WRONG_TOKENS
from tests.server.test_hostile import HOSTILE, SEVEN_PACKETS, TELLING

# What the application may answer to a request that is one.
_ANSWERS = {200, 204, 303, 400, 404, 405}

# Bytes that nobody should send, and what may be answered to them.
PACKETS = [
    *((let_in(data), _ANSWERS | {505}) for data in SEVEN_PACKETS.values()),
    *((let_in(data), _ANSWERS if right & {0, 200} else right) for data, right in HOSTILE.values()),
    *((let_in(data), {400, 501}) for data in TELLING.values()),
]

BODIES = [
    *REFUSED.values(),
    b"[" * 50_000,
    b'{"a":' * 10_000,
    b'{"type":"work","payload":1e999}',
    b'{"type":"work","payload":"\xed\xa0\x80"}',
    b"\x00" * 1000,
    b'{"type":"work"' + b" " * 90_000 + b"}",
    b'{"type":"work","payload":' + b"9" * 90_000 + b"}",
    b"null",
]
BAD_JSON = list(itertools.product(["/jobs", "/jobs/batch", "/jobs/stream"], BODIES))

_NOBODY = "/jobs/01a210e0-0000-7000-8000-000000000001"

# Each route, and some that there are not; and the answer to a body that is far too long. Only who
# reads it refuses it: for all the others, too, it ends soon.
ROUTES = [
    ("POST", "/jobs", 413),
    ("POST", "/jobs/batch", 413),
    ("POST", "/jobs/stream", 413),
    ("POST", f"{_NOBODY}/cancel", 404),
    ("DELETE", _NOBODY, 404),
    ("GET", _NOBODY, 404),
    ("GET", "/jobs", 200),
    ("GET", "/health", 200),
    ("GET", "/health/ready", 200),
    ("GET", "/openapi.json", 200),
    ("HEAD", "/jobs", 200),
    ("OPTIONS", "*", 204),
    ("PUT", "/jobs", 405),
    ("BREW", "/jobs", 405),
    ("POST", "/none", 404),
]
_CHUNK = bytes(65_536)
_TOO_MUCH = 200_000_000
FRAMINGS = [
    (f"Content-Length: {_TOO_MUCH}", _CHUNK),
    ("Transfer-Encoding: chunked", b"10000\r\n" + _CHUNK + b"\r\n"),
]
TOO_LONG = list(itertools.product(ROUTES, FRAMINGS))

METHODS = ["get", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "CONNECT", "X" * 10_000]

# Beginnings of requests: everything up to a few bytes more each time.
_CUT = tell(json.dumps({"type": "none"}).encode() * 20)
STAGES = [_CUT[:length] for length in range(0, len(_CUT) + 1, 9)]


async def send_bytes(siege: Siege, client: Client) -> None:
    """Something that is no request, or a harmful one."""
    data, right = siege.in_turn("bytes", PACKETS)
    status = await _outcome_of_all(client, data)
    # What never comes to an end is a 408, and what is refused early may be nothing.
    assert status in right | {0, 408} or siege.stopping, (status, right, data[:100])


async def send_noise(siege: Siege, client: Client) -> None:
    """Something that is nothing, or nearly one of the others."""
    data, _ = siege.in_turn("nearly", PACKETS)
    mutated = bytearray(siege.chance.choice([data, siege.chance.randbytes(300)]) or b"x")
    for _ in range(siege.chance.randrange(1, 6)):
        mutated[siege.chance.randrange(len(mutated))] = siege.chance.randrange(256)
    status = await _outcome_of_all(client, mutated)
    assert status != 500, bytes(mutated)


async def reset(siege: Siege, client: Client) -> None:
    """Break off somewhere in a request, with a reset."""
    await client.send(siege.in_turn("stages", STAGES) or b"P")
    client.transport.setsockopt(
        trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0)
    )


async def leave_an_answer(_: Siege, client: Client) -> None:
    """Ask for much, read a little of it, and go."""
    await client.send(ask("/openapi.json") * 20)
    if not await client.stream.receive_some(1000):
        raise EOFError("no answer")


async def half_close(siege: Siege, client: Client) -> None:
    """Say that nothing more will come, and mean it."""
    token = siege.token("half")
    await client.send(tell(job(token)))
    await client.stream.send_eof()
    await siege.learn(client, token, 201, 429)


async def pipeline(siege: Siege, client: Client) -> None:
    """Ask and ask before reading; the answers come in order."""
    await client.send((ask("/health") + ask("/none")) * 25)
    for _ in range(25):
        siege.expect(await client.receive_answer(), 200)
        siege.expect(await client.receive_answer(), 404)


async def use_odd_methods(siege: Siege, client: Client) -> None:
    """Methods that the path does not have, or nobody knows."""
    method = siege.in_turn("methods", METHODS)
    right = {"get": 200, "OPTIONS": 204, "CONNECT": 501}.get(method, 405)
    siege.expect(await client.request(ask("/jobs", method=method)), right)


async def send_too_much(siege: Siege, client: Client) -> None:
    """A body far over the limit, its length declared or not, on every route."""
    (method, path, right), (framing, piece) = siege.in_turn("too long", TOO_LONG)
    sent = 0

    async def pour() -> None:
        nonlocal sent
        try:
            await client.send(ask(path, framing, method=method))
            while sent < _TOO_MUCH:
                await client.send(piece)
                sent += len(piece)
        except LEFT:
            pass  # it has been cut off

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        status = await outcome(client, head_only=method == "HEAD")
    assert sent < _TOO_MUCH / 2, "a body without end was read"
    assert status in {right, 0} or (siege.stopping and status == 503), (method, path, status)


async def send_bad_json(siege: Siege, client: Client) -> None:
    """What should be JSON, or a job, and is neither."""
    path, body = siege.in_turn("json", BAD_JSON)
    answer = await client.request(tell(body, path))
    # A stream of no lines is in order.
    empty = path.endswith("stream") and not body.strip()
    siege.expect(answer, *((201,) if empty else (400, 413)))
    assert answer.json().get("accepted", 0) == 0, answer


async def send_tiny_chunks(siege: Siege, client: Client) -> None:
    """A job, a byte a chunk, and many of them."""
    token = siege.token("tiny")
    body = job(token) + b" " * 3000
    head = ask("/jobs", "Transfer-Encoding: chunked", method="POST")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    await client.send(head + chunks + b"0\r\n\r\n")
    await siege.learn(client, token, 201, 429, 408)  # the last: others have their turns


async def come_from_elsewhere(siege: Siege, client: Client) -> None:
    """A page of another site that has found the machine, and knows the token."""
    token = siege.token("elsewhere")
    request: bytes = siege.in_turn(
        "elsewhere",
        [
            *(
                tell(job(token)).replace(b"Host: localhost", f"Host: {host}".encode())
                for host in FOREIGN_HOSTS
            ),
            *(tell(job(token), "/jobs", f"Sec-Fetch-Site: {site}") for site in OTHER_SITES),
            tell(job(token), "/jobs", "Origin: https://evil.example"),
            tell(job(token), "/jobs", "Origin: null"),
        ],
    )
    await client.send(request)
    await siege.learn(client, token, 403)


async def come_without_the_token(siege: Siege, client: Client) -> None:
    """None, or one that is not quite it."""
    token = siege.token("stranger")
    wrong = siege.in_turn("tokens", ["", *(f"Authorization: {text}" for text in WRONG_TOKENS)])
    lines = [wrong] if wrong else []
    await client.send(post(job(token), "/jobs", *lines))
    await siege.learn(client, token, 401)


async def leave_a_stream(siege: Siege, client: Client) -> None:
    """More jobs than there is room for, and gone before all of them are in."""
    tokens = [siege.token("streamed") for _ in range(80)]
    lines = b"".join(job(token) + b"\n" for token in tokens)
    await client.send(ask("/jobs/stream", "Transfer-Encoding: chunked", method="POST"))
    await client.send(b"%x\r\n%b\r\n" % (len(lines), lines))
    await trio.sleep(siege.chance.uniform(0, 0.1))


async def wait_and_leave(siege: Siege, client: Client) -> None:
    """Submit, ask to wait, and hang up."""
    await client.send(tell(job(siege.token("left"), 0.02), "/jobs", "Prefer: wait=60"))
    await trio.sleep(siege.chance.uniform(0, 0.03))


async def hoard_descriptors(siege: Siege, client: Client) -> None:
    """A job, from somebody who is let in, that leaves the server none."""
    token = siege.token("hoard")
    await client.send(tell(job(token, 0.3, "hoard"), "/jobs", "Prefer: wait=60"))
    answer = await siege.learn(client, token, 201, 429)
    if answer.status != 201:
        raise EOFError("the buffer was full")
    assert answer.json()["result"] > 0


async def _outcome_of_all(client: Client, data: bytes | bytearray) -> int:
    """The status of what is answered to these bytes, if they are all; 0 for nothing."""
    try:
        await client.send(bytes(data))
        if isinstance(client.stream, trio.SocketStream):  # TLS cannot say it
            await client.stream.send_eof()
    except trio.BrokenResourceError:
        pass  # refused before all of it was sent
    return await outcome(client)


WAYS_OF_ASKING = [
    Kind(attack=send_bytes, attackers=6, ways=len(PACKETS)),
    Kind(attack=send_noise, attackers=2),
    Kind(attack=reset, attackers=2, ways=len(STAGES)),
    Kind(attack=leave_an_answer, attackers=2),
    Kind(attack=pipeline, attackers=2),
    Kind(attack=use_odd_methods, attackers=1, ways=len(METHODS)),
    Kind(attack=send_too_much, attackers=2, ways=len(TOO_LONG)),
    Kind(attack=send_bad_json, attackers=4, ways=len(BAD_JSON)),
    Kind(attack=send_tiny_chunks, attackers=1),
    Kind(attack=come_from_elsewhere, attackers=2, ways=len(FOREIGN_HOSTS) + len(OTHER_SITES) + 2),
    Kind(attack=come_without_the_token, attackers=2, ways=len(WRONG_TOKENS) + 1),
    Kind(attack=leave_a_stream, attackers=1),
    Kind(attack=wait_and_leave, attackers=3),
    Kind(attack=hoard_descriptors, attackers=1, pause=3),
]

# TLS has no way of closing one side only.
WAYS_WITHOUT_TLS = [Kind(attack=half_close, attackers=2)]
