"""`Histogram`: how often durations occur, in buckets that grow with them; and its percentiles."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

# Each octave, from a power of two to the next, has 16 buckets of equal width. So the middle of a
# bucket is within 1/32 of each value in it: 3.2 % hold for all percentiles. The idea is that of
# HdrHistogram (Gil Tene), whose Python package costs some ten times as much.
_BUCKETS = 16

# Seconds. A duration of 0, which no bucket has, is counted as this one.
_LEAST = 2.0**-20


class Histogram:
    """The numbers of durations, in seconds.

    Bucket ``16 * e + k``, for k from 17 to 32, has the durations above ``2**e * (k - 1) / 32`` and
    up to ``2**e * k / 32``. So each power of two is the upper bound of a bucket.

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
        self._buckets: Counter[int] = Counter()

    def add(self, durations: Sequence[float]) -> None:
        """Count some durations, at least one; none is negative."""
        self.count += len(durations)
        self.seconds += sum(durations)
        self.least = min(self.least, *durations)
        self.greatest = max(self.greatest, *durations)
        self._buckets.update(map(_bucket, durations))

    def merge(self, other: "Histogram") -> None:
        """Count the other one's durations, too."""
        self.count += other.count
        self.seconds += other.seconds
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)
        self._buckets.update(other._buckets)

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
            middle = (_upper_bound(bucket) + _upper_bound(bucket - 1)) / 2
            found.append(min(max(middle, self.least), self.greatest))
        return found

    def up_to(self, exponents: Iterable[int]) -> list[int]:
        """How many durations are at most ``2**exponent`` seconds, for exponents in rising order."""
        found: list[int] = []
        buckets = sorted(self._buckets.items())
        counted = first = 0
        for exponent in exponents:
            last = _BUCKETS * exponent + 2 * _BUCKETS
            while first < len(buckets) and buckets[first][0] <= last:
                counted += buckets[first][1]
                first += 1
            found.append(counted)
        return found


def _bucket(duration: float) -> int:
    mantissa, exponent = math.frexp(duration or _LEAST)
    return _BUCKETS * exponent + math.ceil(2 * _BUCKETS * mantissa)


def _upper_bound(bucket: int) -> float:
    exponent, k = divmod(bucket - _BUCKETS - 1, _BUCKETS)
    return math.ldexp((k + _BUCKETS + 1) / (2 * _BUCKETS), exponent)
