"""The ids of all jobs, in order: blocks of them, cheap because ids only ever arrive ascending."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain

# As many as a dict takes before it grows beyond 128 slots.
_BLOCK = 85


class SortedIds:
    """A set of ids that can be walked in order, from anywhere.

    An id greater than all before it is added at the end, and an id is removed,
    for the price of a dict entry and a bisection, whatever was removed before.
    Another id is sorted into its block.

    A block is a dict, for its keys: it keeps their order, and forgets one
    without moving the others. A block that has become empty goes.
    """

    def __init__(self) -> None:
        self._blocks: list[dict[str, None]] = [{}]
        # What the blocks begin with, but for the first: an id's block is found by bisection.
        self._bounds: list[str] = []
        self._greatest = ""  # of all that were ever added

    def add(self, job_id: str) -> None:
        """Add an id that is not in it."""
        last = self._blocks[-1]
        if job_id <= self._greatest:
            self._insert(job_id)
            return
        if len(last) >= _BLOCK:
            last = {}
            self._blocks.append(last)
            self._bounds.append(job_id)
        last[job_id] = None
        self._greatest = job_id

    def remove(self, job_id: str) -> None:
        """Remove an id that is in it."""
        index = bisect_right(self._bounds, job_id)
        block = self._blocks[index]
        del block[job_id]
        if not block and index < len(self._bounds):  # the last one stays, for what is to come
            del self._blocks[index], self._bounds[index]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._blocks)

    def after(self, job_id: str) -> Iterator[str]:
        """Those that are greater than this id, which need not be in it."""
        index = bisect_right(self._bounds, job_id)
        greater: Iterable[str] = (each for each in self._blocks[index] if each > job_id)
        # By index: `islice` would walk over all the blocks before.
        following = map(self._blocks.__getitem__, range(index + 1, len(self._blocks)))
        return chain(greater, chain.from_iterable(following))

    def _insert(self, job_id: str) -> None:
        index = bisect_right(self._bounds, job_id)
        self._blocks[index] = dict.fromkeys(sorted([*self._blocks[index], job_id]))
