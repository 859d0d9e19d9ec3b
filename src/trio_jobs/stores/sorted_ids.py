"""`SortedIds`: the ids of all jobs in order, cheap because new ids are the greatest."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain

# As many as a dict takes before it grows beyond 128 slots.
_BLOCK = 85
# From so many on, a block into which ids were sorted becomes two.
_FULL = 2 * _BLOCK


class SortedIds:
    """A set of ids that can be walked in order, from any position, in both directions.

    A dict has an order too, but its iteration cannot start in the middle, and walks over the gaps
    that removed keys leave.

    Adding an id greater than all before it, and removing an id, cost a dict entry and a
    bisection, however many were removed before. Any other id is sorted into its block.

    A block is a dict: it keeps the order of its keys, and removes one without moving the others.
    An empty block is removed.
    """

    def __init__(self) -> None:
        self._blocks: list[dict[str, None]] = [{}]
        # A lower bound of each block after the first one: bisection finds the block of an id.
        self._bounds: list[str] = []
        self._greatest = ""  # of all ids that were ever added

    def add(self, job_id: str) -> None:
        """Add an id that is not in the set."""
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
        """Remove an id that is in the set."""
        block, index = self._blocks[0], 0  # the oldest job is dropped most often
        if job_id not in block:
            index = bisect_right(self._bounds, job_id)
            block = self._blocks[index]
        del block[job_id]
        if not block and index < len(self._bounds):  # the last one stays, for new ids
            del self._blocks[index], self._bounds[index]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._blocks)

    def after(self, job_id: str) -> Iterator[str]:
        """The ids that are greater than this one, which need not be in the set.

        The set must not change while the caller reads them.
        """
        index = bisect_right(self._bounds, job_id)
        greater: Iterable[str] = (each for each in self._blocks[index] if each > job_id)
        # By index: `islice` would walk over all the blocks before.
        following = map(self._blocks.__getitem__, range(index + 1, len(self._blocks)))
        return chain(greater, chain.from_iterable(following))

    def before(self, job_id: str) -> Iterator[str]:
        """The ids that are less than this one, which need not be in the set, greatest first.

        The set must not change while the caller reads them.
        """
        index = bisect_right(self._bounds, job_id)
        less: Iterable[str] = (each for each in reversed(self._blocks[index]) if each < job_id)
        preceding = map(self._blocks.__getitem__, range(index - 1, -1, -1))
        return chain(less, chain.from_iterable(map(reversed, preceding)))

    def _insert(self, job_id: str) -> None:
        index = bisect_right(self._bounds, job_id)
        ids = sorted([*self._blocks[index], job_id])
        if len(ids) < _FULL:
            self._blocks[index] = dict.fromkeys(ids)
            return
        halves = ids[:_BLOCK], ids[_BLOCK:]
        self._blocks[index : index + 1] = map(dict.fromkeys, halves)
        self._bounds.insert(index, halves[1][0])
