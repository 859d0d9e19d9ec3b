"""`Histogram`: how often durations occur, in buckets that grow with them; and its percentiles."""

import math
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence

# The first 16 bits of a double are its sign, its exponent, and 4 bits of its fraction. So the
# doubles that differ in no more than the other 48 bits make a bucket, and each octave, from a power
# of two to the next, has 16 buckets of equal width. The middle of a bucket is within 1/32 of each
# value in it: 3.2 % hold for all percentiles. The idea is that of HdrHistogram (Gil Tene), whose
# Python package costs some ten times as much.
_SHIFT = 48
_ROUND_UP = (1 << _SHIFT) - 1
_ZEROS = bytes(_SHIFT // 8)
_BUCKETS = 16
_EXPONENT_OF_1 = 1023


class Histogram:
    """The numbers of durations, in seconds.

    A bucket has the durations up to its upper bound, and above that of the one before. Each power
    of two is an upper bound, and so is 0.

    Attributes:
        count: How many durations there are.
        seconds: Their sum.
        least: The shortest one; infinity if there is none.
        greatest: The longest one; 0 if there is none.
    """

    __slots__ = ("_buckets", "count", "greatest", "least", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.least = math.inf
        self.greatest = 0.0
        # Not a `Counter`, which sets an item in Python.
        self._buckets: defaultdict[int, int] = defaultdict(int)

    def add(self, durations: Sequence[float]) -> None:
        """Count some durations, at least one; none is negative."""
        durations = sorted(durations)
        number = len(durations)
        self.count += number
        self.seconds += sum(durations)
        self.least = min(self.least, durations[0])
        self.greatest = max(self.greatest, durations[-1])
        # All in one go: a call for each one would double the cost.
        doubles = struct.pack(f"<{number}d", *durations)
        buckets: Sequence[int]
        if _ZEROS in doubles:  # some may be upper bounds, as whole seconds are
            bits = struct.unpack(f"<{number}q", doubles)
            buckets, above = [(each + _ROUND_UP) >> _SHIFT for each in bits], 0
        else:
            # Each is above the lower bound that its first 16 bits are: those are enough.
            buckets, above = struct.unpack("<" + number * "6xH", doubles), 1
        first = 0
        while first < number:  # few are equal: to look each one up would cost more than to sort
            bucket = buckets[first]
            end = bisect_right(buckets, bucket, first)
            self._buckets[bucket + above] += end - first
            first = end

    def merge(self, other: "Histogram") -> None:
        """Count the other one's durations, too."""
        self.count += other.count
        self.seconds += other.seconds
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)
        for bucket, number in other._buckets.items():
            self._buckets[bucket] += number

    def percentiles(self, *shares: float) -> list[float | None]:
        """For each share, in rising order, the duration that this share does not exceed.

        Exact to 3.2 %, and never beyond the shortest or the longest one. None if there is none.
        """
        if not self.count:
            return [None] * len(shares)
        found: list[float | None] = []
        buckets = iter(sorted(self._buckets.items()))
        counted = bucket = 0
        for share in shares:
            wanted = max(math.ceil(share * self.count), 1)
            while counted < wanted:
                bucket, number = next(buckets)
                counted += number
            middle = (_upper_bound(bucket) + _upper_bound(max(bucket - 1, 0))) / 2
            found.append(min(max(middle, self.least), self.greatest))
        return found

    def up_to(self, exponents: Iterable[int]) -> list[int]:
        """How many durations are at most ``2**exponent`` seconds, for exponents in rising order."""
        found: list[int] = []
        buckets = sorted(self._buckets.items())
        counted = first = 0
        for exponent in exponents:
            last = _BUCKETS * (_EXPONENT_OF_1 + exponent)
            while first < len(buckets) and buckets[first][0] <= last:
                counted += buckets[first][1]
                first += 1
            found.append(counted)
        return found


def _upper_bound(bucket: int) -> float:
    [bound] = struct.unpack("d", struct.pack("q", bucket << _SHIFT))
    return float(bound)
