"""Job ids: UUIDv7 texts, each one greater than the one before."""

import random
import secrets
import time
from collections.abc import Callable

# RFC 9562, section 6.2, method 1: 42 bits after the timestamp are a counter.
# It starts at random with its top bit clear, so 2**41 ids fit into a
# millisecond before the timestamp has to run ahead of the clock.
_COUNTER_BITS = 42
_SEED_BITS = _COUNTER_BITS - 1
_TAIL_BITS = 32


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


class Uuid7:
    """A source of UUIDv7 texts (RFC 9562, section 5.7) that never goes back.

    Calling it makes the next id. Ids of one source sort in the order in which
    they were made, also within a millisecond and when the clock is set back.
    ``uuid.uuid7`` of Python 3.14 does the same; this runs on every Python
    alike and costs a quarter of it. Ids are unique, not secret.

    Args:
        milliseconds: The wall clock, in milliseconds since 1970.
    """

    def __init__(self, milliseconds: Callable[[], int] = _milliseconds) -> None:
        self._milliseconds = milliseconds
        self._bits = random.Random(secrets.randbits(256)).getrandbits  # noqa: S311  (not secret)
        self._timestamp = -1
        self._counter = 0

    def __call__(self) -> str:
        """Make the next id."""
        now = self._milliseconds()
        self._counter += 1
        if now > self._timestamp or self._counter >> _COUNTER_BITS:
            self._timestamp = max(now, self._timestamp + 1)
            self._counter = self._bits(_SEED_BITS)
        counter = self._counter
        text = "%032x" % (
            self._timestamp << 80
            | 0x7 << 76  # version
            | counter >> 30 << 64
            | 0b10 << 62  # variant
            | (counter & 0x3FFF_FFFF) << _TAIL_BITS
            | self._bits(_TAIL_BITS)
        )
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
