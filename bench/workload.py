"""The submissions of the benchmark, and handlers that do next to nothing with them."""

import json
from typing import cast

import trio

# 60 bytes of JSON.
PAYLOAD = {"to": "user@example.com", "subject": "Hello", "number": 12}
SUBMISSION = json.dumps({"type": "email", "payload": PAYLOAD}).encode()


async def empty(_: object) -> None:
    """Do nothing, so that the server's own cost is left."""


async def forever(_: object) -> None:
    """Never end."""
    await trio.sleep_forever()


async def pause(seconds: float) -> None:
    """Take so long, and do nothing."""
    await trio.sleep(seconds)


def tiny(_: object) -> int:
    """Compute for some 0.16 ms."""
    return sum(number * number for number in range(4_500))


async def count(_: object) -> None:
    """Count this job, as the peers' jobs do."""
    # Here: the variables that the tally reads are set for rows 11 to 13 alone.
    from bench.peers import tally

    tally.count()


async def stamp(sent: object) -> None:
    """Note how long this job took from its submission to its start."""
    from bench.peers import tally

    tally.arrived(cast("float", sent))
