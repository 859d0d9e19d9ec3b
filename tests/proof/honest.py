"""The honest clients of a siege: what they ask is answered, and rightly, until the stop.

Some stay connected, some come anew each time and get in in their turn, some wait for their jobs.
"""

from functools import partial

import trio

from tests.proof.siege import SHOWN, Siege
from tests.proof.talking import Talker, talking

# Seconds: after so long without use a connection is not used again, as the server, which closes
# those that are idle for three, may be doing that.
FRESH = 1.0


def start_honest_clients(siege: Siege, nursery: trio.Nursery) -> set[str]:
    """Start clients of each sort, which end when the server has; their names."""
    residents = [f"resident{n}" for n in range(3)]
    newcomers = [f"newcomer{n}" for n in range(2)]
    waiters = [f"waiter{n}" for n in range(8)]
    for name in residents:
        nursery.start_soon(partial(submit_again_and_again, siege, name, stays=True))
    for name in newcomers:
        nursery.start_soon(partial(submit_again_and_again, siege, name, stays=False))
    for name in waiters:
        nursery.start_soon(wait_again_and_again, siege, name)
    return {*residents, *newcomers, *waiters}


async def submit_again_and_again(siege: Siege, name: str, *, stays: bool) -> None:
    """Submit jobs and look at them, over one connection or always a new one."""
    async with talking(siege.server.url, siege.told, tls=siege.tls, fresh=FRESH) as talker:
        for n in range(100_000):
            began = trio.current_time()
            if not await submit_and_look(siege, talker, name, f"{name}-{n}"):
                return
            (siege.delays if stays else siege.turns).append(trio.current_time() - began)
            if not stays:
                talker.close()
            await trio.sleep(siege.chance.uniform(0.02, 0.1))


async def submit_and_look(siege: Siege, talker: Talker, name: str, token: str) -> bool:
    """Submit a job and look at it; False once the server is gone."""
    job_type = siege.chance.choice(["work", "work", "fail"])
    answer = await talker.submit(job_type, token, 0.05, SHOWN)
    if answer is not None and answer.status == 201:
        siege.serve(name)
        path = f"/jobs/{answer.json()['id']}"
        answer = await talker.ask("GET", path, headers=SHOWN)
        if answer is not None:
            siege.expect(answer, 200)
    elif answer is not None:
        siege.expect(answer, 429)
    assert answer is not None or siege.stopping, f"{token} was not answered"
    return answer is not None


async def wait_again_and_again(siege: Siege, name: str) -> None:
    """Submit jobs and wait for each until it has completed, also through the stop."""
    async with talking(siege.server.url, siege.told, tls=siege.tls, fresh=FRESH) as talker:
        for n in range(100_000):
            token = f"{name}-{n}"
            siege.waiting.add(token)
            answer = await talker.submit("work", token, 1.0, SHOWN | {"Prefer": "wait=60"})
            if answer is None:
                assert siege.stopping, f"{token} was not answered"
                return
            siege.waiting.discard(token)
            siege.expect(answer, 201, 429)
            if answer.status == 201:
                assert answer.json()["status"] == "completed", answer
                siege.serve(name)
            await trio.sleep(siege.chance.uniform(0.02, 0.1))
