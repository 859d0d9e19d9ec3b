"""Row 6: the cost of each operation, by the number of jobs in the store."""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import trio

from bench.measuring import Spread, ratio
from bench.pool import BenchPool
from bench.row import Result, Row, at_most
from trio_jobs.job import Ending, Outcome
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.memory import MemoryStore

SIZES = (1_000, 10_000, 100_000, 1_000_000)
OPERATIONS = ("submit", "claim", "complete", "get", "page of 100")

# Explanations without a bound: the same jobs once more, from the processor's caches, and the
# hardware's own share in a lookup.
EXPLANATIONS = (
    "get, once more",
    "page of 100, once more",
    "lookup in a plain dict",
    "lookup in a plain dict, once more",
)

# So many operations of one kind are measured together; a page alone.
_BLOCK = 20
_BLOCKS_PER_TURN = 15

# Read before each block. A server's other work displaces the store from the processor's nearer
# caches. Without it a store of 1,000 jobs would stay there, and the row would measure their size.
_OTHER_WORK = bytes(4 * 1_048_576)

_EMAIL = ("email", b"null")
_ENDING = Ending(outcome=Outcome.SUCCEEDED, result=b"null")

# Microseconds for each operation and size, turn by turn.
Costs = dict[str, dict[int, list[float]]]


def measure(*, sizes: Sequence[int] = SIZES, turns: int = 9) -> list[Result]:
    """Measure the row.

    Args:
        sizes: How many completed jobs the stores hold.
        turns: How often each store has its turn.
    """
    return _rows(trio.run(_costs, sizes, turns))


async def _costs(sizes: Sequence[int], turns: int) -> Costs:
    """Fill a store for each size, and measure blocks of operations on each in turn."""
    # A coroutine, since admission reads Trio's clock.
    stores = {size: _Filled(size) for size in sizes}
    values: Costs = {each: {size: [] for size in sizes} for each in (*OPERATIONS, *EXPLANATIONS)}
    for _ in range(turns):
        blocks: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
        for _ in range(_BLOCKS_PER_TURN):
            for size, store in stores.items():
                blocks[size].append(store.block())
        for operation, by_size in values.items():
            for size in sizes:
                by_size[size].append(median(block[operation] for block in blocks[size]))
    return values


def _rows(values: Costs) -> list[Result]:
    """One row for each operation."""
    results: list[Result] = []
    for operation, by_size in values.items():
        small, large = min(by_size), max(by_size)
        results.append(
            Row(
                number=6,
                what=f"{operation} at {large:,} stored jobs",
                against=f"at {small:,}",
                figure=ratio(by_size[large], by_size[small]),
                reach=at_most(2) if operation in OPERATIONS else None,
                sides={f"{size:,} jobs": Spread.of(each) for size, each in by_size.items()},
                sides_unit=" µs",
            )
        )
    return results


class _Filled:
    """A store that holds so many completed jobs, before and after each block."""

    def __init__(self, size: int) -> None:
        bounds = StoreSettings(keep_completed=size)
        self._pool = pool = BenchPool.of(workers=1, buffer_size=_BLOCK, bounds=bounds)
        self._chance = random.Random(size)  # noqa: S311  (which jobs are looked at)
        self._ids: list[str] = []
        for _ in range(size):
            self._ids.append(pool.admission.submit(*_EMAIL).id)
            job_id = pool.receive.receive_nowait()
            pool.pool.workers.claim(job_id)
            pool.pool.workers.complete(job_id, _ENDING)
        self._size = size
        self._dict = dict.fromkeys(self._ids, _ENDING)
        self._known, self._also_known = self._stored_ids(), self._some_ids(0)

    def block(self) -> dict[str, float]:
        """Run a block of each operation, and return the microseconds of one operation."""
        store, moves = self._pool.store, self._pool.pool.workers
        micros = {"submit": _timed(self._pool.admission.submit, [_EMAIL] * _BLOCK)}
        ids = [self._pool.receive.receive_nowait() for _ in range(_BLOCK)]
        micros["claim"] = _timed(moves.claim, [(each,) for each in ids])
        self._ids += ids
        micros["complete"] = _timed(moves.complete, [(each, _ENDING) for each in ids])
        known = [(each,) for each in self._known]
        micros["get"], micros["get, once more"] = _timed_twice(store.find_nowait, known)
        page = partial(_page, store)
        micros["page of 100"], micros["page of 100, once more"] = _timed_twice(page, known[:1])
        lookup = "lookup in a plain dict"
        also_known = [(each,) for each in self._also_known]
        micros[lookup], micros[f"{lookup}, once more"] = _timed_twice(self._dict.get, also_known)
        # For the next turn: a lookup here would bring them into the caches.
        self._known, self._also_known = self._stored_ids(), self._some_ids(0)
        return micros

    def _stored_ids(self) -> list[str]:
        """Ids without those of the oldest jobs, which this turn's completions drop."""
        return self._some_ids(len(self._ids) - self._size + 2 * _BLOCK)

    def _some_ids(self, first: int) -> list[str]:
        """Ids from all over the store, as new texts like those of a request."""
        positions = range(first, first + self._size - 2 * _BLOCK)
        chosen = self._chance.choices(positions, k=_BLOCK)
        return [self._ids[position].encode().decode() for position in chosen]


def _page(store: MemoryStore, after: str) -> None:
    store.page_nowait(after=after, limit=100)


def _timed(call: Callable[..., object], arguments: Sequence[tuple[object, ...]]) -> float:
    _OTHER_WORK.count(0x01)
    return _run(call, arguments)


def _timed_twice(
    call: Callable[..., object], arguments: Sequence[tuple[object, ...]]
) -> tuple[float, float]:
    return _timed(call, arguments), _run(call, arguments)


def _run(call: Callable[..., object], arguments: Sequence[tuple[object, ...]]) -> float:
    began = time.perf_counter()
    for each in arguments:
        call(*each)
    return (time.perf_counter() - began) / len(arguments) * 1e6
