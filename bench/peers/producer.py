"""Submits jobs to a peer, from a process of its own.

Run as ``python -m bench.peers.producer MODULE many COUNT`` or ``… MODULE paced COUNT RATE``.
"""

import asyncio
import importlib
import inspect
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench.peers import tally


async def many(peer: Any, count: int) -> None:  # noqa: ANN401  (a peer's module)
    """All of them, by the peer's best way."""
    await peer.connect()
    await _call(peer.submit, ())  # what the first one sets up does not count
    tally.report({"began": time.monotonic()})
    await _call(peer.submit_many, (count - 1,))


async def paced(peer: Any, count: int, rate: float) -> None:  # noqa: ANN401
    """So many a second, each on time whether the one before has been taken or not."""
    await peer.connect()
    await _call(peer.submit_stamped, (time.monotonic(),))  # one of them, and no matter to the rest
    waits = inspect.iscoroutinefunction(peer.submit_stamped)
    under_way = []
    began = time.monotonic() + 0.1
    for number in range(count - 1):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        submitted = _call(peer.submit_stamped, (time.monotonic(),))
        if waits:
            under_way.append(asyncio.create_task(submitted))
        else:
            await submitted
    await asyncio.gather(*under_way)


async def _call(
    function: Callable[..., Awaitable[None] | None], arguments: tuple[object, ...]
) -> None:
    result = function(*arguments)
    if result is not None:
        await result


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    if sys.argv[2] == "many":
        asyncio.run(many(module, int(sys.argv[3])))
    else:
        asyncio.run(paced(module, int(sys.argv[3]), float(sys.argv[4])))
