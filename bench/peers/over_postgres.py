"""Measures a queue over PostgreSQL, in a process of its own that submits jobs and runs them.

Run as ``python -m bench.peers.over_postgres MODULE URL one|bulk COUNT CLIENTS AT_A_TIME``; it
prints how many jobs a second are submitted and recorded as completed.
"""

import asyncio
import importlib
import sys
import time
from typing import Any

BULK = 1_000


async def measure(queue: Any, way: str, count: int, clients: int) -> float:  # noqa: ANN401
    """The jobs a second, from the first submission to the last end.

    Args:
        queue: The peer's; its worker runs.
        way: ``one``: each client submits one job after the other; ``bulk``: a thousand each time.
        count: How many jobs.
        clients: How many tasks submit.
    """
    await queue.submit()  # the first one sets up what it needs, and does not count
    await _wait_for_end(queue)
    began = time.perf_counter()
    calls = iter(range(count if way == "one" else count // BULK))

    async def client() -> None:
        for _ in calls:
            await (queue.submit() if way == "one" else queue.submit_all(BULK))

    await asyncio.gather(*(client() for _ in range(clients)))
    await _wait_for_end(queue)
    return count / (time.perf_counter() - began)


async def _wait_for_end(queue: Any) -> None:  # noqa: ANN401  (a peer's)
    while await queue.has_unfinished():  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.01)


async def main() -> None:
    """Do what the command line says."""
    module, url, way, count, clients, at_a_time = sys.argv[1:]
    async with importlib.import_module(module).running(url, int(at_a_time)) as queue:
        rate = await measure(queue, way, int(count), int(clients))
        print(f"rate {rate:.3f}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
