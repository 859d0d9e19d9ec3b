"""Runs empty jobs of a database until a signal comes: ``python -m bench.shared_server URL``."""

import sys

import trio

from bench.workload import empty
from trio_jobs import open_jobs


async def main(url: str) -> None:
    """Say when it is ready."""
    async with open_jobs({"empty": empty}, url=url, workers=10, buffer_size=1_000):
        print("ready", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
