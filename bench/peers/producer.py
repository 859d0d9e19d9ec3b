"""Submits jobs to a peer, from a process of its own.

Run as ``python -m bench.peers.producer MODULE many COUNT``, ``… MODULE paced COUNT RATE`` or
``… MODULE threads COUNT THREADS``.
"""

import asyncio
import importlib
import inspect
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from bench.peers import tally

# Each submission on its way takes a connection, so no more than these are on their way at once.
_AT_ONCE = 100

# So many threads submit at once where a row is about many clients.
THREADS = 16


async def many(peer: Any, count: int) -> None:  # noqa: ANN401  (a peer's module)
    """Submit all of them as fast as the peer takes them."""
    await _call(peer.submit)  # the first one sets up the client and does not count
    tally.report({"began": time.monotonic()})
    for start in range(0, count - 1, _AT_ONCE):
        calls = (_call(peer.submit) for _ in range(start, min(start + _AT_ONCE, count - 1)))
        await asyncio.gather(*calls)


async def paced(peer: Any, count: int, rate: float) -> None:  # noqa: ANN401
    """Submit so many a second, each on time even while earlier ones are on their way."""
    await _call(peer.submit_stamped, time.monotonic())
    under_way = []
    began = time.monotonic() + 0.1
    for number in range(count - 1):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        under_way.append(asyncio.ensure_future(_call(peer.submit_stamped, time.monotonic())))
    await asyncio.gather(*under_way)


def in_threads(peer: Any, count: int, threads: int) -> None:  # noqa: ANN401
    """Submit all of them from so many threads, and print how long it takes."""
    with ThreadPoolExecutor(threads) as pool:
        # Each thread opens its connection first.
        together = Barrier(threads)
        list(pool.map(lambda _: (together.wait(), peer.submit()), range(threads)))
        began = time.monotonic()
        list(pool.map(lambda _: peer.submit(), range(count)))
        print(f"submitted in {time.monotonic() - began:.6f} s")


async def _call(submit: Any, *arguments: object) -> None:  # noqa: ANN401
    result = submit(*arguments)
    if inspect.isawaitable(result):
        await result


async def main() -> None:
    """Do what the command line says."""
    peer = importlib.import_module(sys.argv[1])
    if hasattr(peer, "connect"):
        await peer.connect()
    if sys.argv[2] == "many":
        await many(peer, int(sys.argv[3]))
    elif sys.argv[2] == "threads":
        in_threads(peer, int(sys.argv[3]), int(sys.argv[4]))
    else:
        await paced(peer, int(sys.argv[3]), float(sys.argv[4]))


if __name__ == "__main__":
    asyncio.run(main())
