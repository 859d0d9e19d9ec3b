"""Row 8: what a pending job takes in memory. Run as a child, so that nothing else grows."""

import sys

import trio

from bench.children import python_module
from bench.measuring import Spread, resident_bytes
from bench.pool import BenchPool
from bench.row import Reach, Result, Row


def measure(*, jobs: int = 200_000, turns: int = 3) -> list[Result]:
    """The row.

    Args:
        jobs: How many pending jobs the growth is taken over.
        turns: How many processes are measured.
    """
    values = []
    for _ in range(turns):
        with python_module("bench.memory", str(jobs)) as child:
            values.append(int(child.wait_for(r"^grown by (\d+)")[1]) / jobs)
    return [
        Row(
            number=8,
            what="memory per pending job with a 100-byte payload",
            against=f"growth of the process over {jobs:,} of them",
            figure=Spread.of(values),
            reach=Reach(bound=700, at_most=True, unit=" bytes"),
            unit=" bytes",
        )
    ]


async def _fill(jobs: int) -> int:
    pool = BenchPool.of(workers=10, buffer_size=jobs + 1)
    pool.admission.submit("email", b"null")
    before = resident_bytes()
    for number in range(jobs):
        pool.admission.submit("email", b'"%098d"' % number)
    return resident_bytes() - before


if __name__ == "__main__":
    print(f"grown by {trio.run(_fill, int(sys.argv[1]))}")
