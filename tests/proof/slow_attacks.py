"""The kinds of attack that take up time and room: silence, drops, deafness, crowds.

Like `tests.proof.attacks`; but slowness is what they are about, so these sleep.
"""

import itertools

import trio

from tests.proof.siege import Kind, Siege, ask, job, let_in, outcome, read_to_the_end, tell
from tests.server.serving import Client
from tests.server.test_slow_clients import SLOW

# Each kind of slowness, as the first request of a connection and as the second.
DRIPS = list(itertools.product([b"", ask("/health")], SLOW.values()))

# Through how many of these a crowd comes in.
DOORS = 25

# How a client that expects "100 Continue" goes on.
EXPECTING = ["late", "never", "far too much"]


async def say_nothing(_: Siege, client: Client) -> None:
    """Under TLS, not even a greeting."""
    await read_to_the_end(client)


async def fall_silent(siege: Siege, client: Client) -> None:
    """Use the connection once, and keep it."""
    siege.expect(await client.request(ask("/health")), 200)
    await read_to_the_end(client)


async def drip(siege: Siege, client: Client) -> None:
    """Headers, a body or chunks, a byte now and then, or none any more."""
    first, (start, drops) = siege.in_turn("drips", DRIPS)
    if first:
        siege.expect(await client.request(first), 200)
    await client.send(let_in(start))
    status = 0

    async def send_drops() -> None:
        for n in range(len(drops)):
            await client.send(drops[n : n + 1])
            await trio.sleep(0.03)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_drops)
        status = await outcome(client)
        nursery.cancel_scope.cancel()
    assert status in {0, 408} or siege.stopping, (status, start[:100])
    if status == 0:
        raise EOFError("no answer")


async def never_read(_: Siege, client: Client) -> None:
    """Ask and ask, and read none of the answers, until the server has had enough."""
    asked = ask("/jobs") * 200 + ask("/openapi.json") * 2000
    try:
        while True:
            await client.send(asked)
    except trio.BrokenResourceError:
        pass


async def read_slowly(siege: Siege, client: Client) -> None:
    """Read long answers, a bit now and then: slow, and in order."""
    count = 20
    await client.send(ask("/openapi.json") * count)
    for _ in range(count):
        siege.expect(await client.receive_answer(), 200)
        await trio.sleep(0.05)


async def stall_a_stream(siege: Siege, client: Client) -> None:
    """Some jobs, half a line, and nothing more."""
    line = job(siege.token("stalled")) + b"\n"
    await client.send(ask("/jobs/stream", "Transfer-Encoding: chunked", method="POST"))
    answer = await client.request(b"%x\r\n%b\r\n" % (len(line) + 5, line + line[:5]))
    siege.expect(answer, 408)
    assert answer.json()["accepted"] <= 1


async def expect_to_continue(siege: Siege, client: Client) -> None:
    """Wait to be told to send the body; then let the server wait for it."""
    way = siege.in_turn("expecting", EXPECTING)
    token = siege.token("expecting")
    body = job(token) if way != "far too much" else bytes(300_000)
    data = tell(body, "/jobs", "Expect: 100-continue")
    await client.send(data.removesuffix(body))
    if way == "far too much":
        siege.expect(await client.receive_answer(), 413)
        return
    siege.expect(await client.receive_answer(), 100)
    if way == "late":
        await trio.sleep(0.3)
        await client.send(body)
        await siege.learn(client, token, 201, 429, 408)
    else:
        await client.send(body[:5])
        await siege.learn(client, token, 408)


async def come_in_a_crowd(siege: Siege, _: Client) -> None:
    """More idle clients at once than the server takes, for a while; then all of them go."""
    async with trio.open_nursery() as crowd:
        # So many connects in one step would hold up everybody in this process.
        async with trio.open_nursery() as doors:
            for _number in range(DOORS):
                doors.start_soon(let_through, siege, crowd)
        await trio.sleep(2)
        crowd.cancel_scope.cancel()


async def let_through(siege: Siege, crowd: trio.Nursery) -> None:
    """A part of the crowd, one after the other."""
    for _ in range(siege.crowd // DOORS):
        await crowd.start(stand_about, siege)


async def stand_about(
    siege: Siege, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Connect, and stay as long as the server likes it."""
    client = await siege.connect(bare=True)
    try:
        task_status.started()
        await read_to_the_end(client)
    finally:
        client.close()


WAYS_OF_BEING_SLOW = [
    Kind(attack=say_nothing, attackers=20, bare=True),
    Kind(attack=fall_silent, attackers=20),
    Kind(attack=drip, attackers=28, ways=len(DRIPS)),
    Kind(attack=never_read, attackers=5),
    Kind(attack=read_slowly, attackers=2),
    Kind(attack=stall_a_stream, attackers=5),
    Kind(attack=expect_to_continue, attackers=3, ways=len(EXPECTING)),
    Kind(attack=come_in_a_crowd, attackers=1, bare=True, pause=5),
]
