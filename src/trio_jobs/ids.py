"""Job ids: UUIDv7 texts, each one greater than the one before."""

import random
import secrets
import time
from collections.abc import Callable

# RFC 9562, section 6.2, method 1: 28 of the bits after the timestamp are a
# counter. It starts at random with its top bit clear, so 2**27 ids fit into a
# millisecond before the timestamp has to run ahead of the clock. The 14 bits
# between are random, anew for each millisecond, and the 32 after it for each id.
_COUNTER_BITS = 28
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
        self._head = ""  # what the ids of a millisecond begin with
        self._counter = 0

    def __call__(self) -> str:
        """Make the next id."""
        now = self._milliseconds()
        self._counter = counter = self._counter + 1
        if now > self._timestamp or counter >> _COUNTER_BITS:
            self._start_millisecond(max(now, self._timestamp + 1))
            counter = self._counter
        tail = self._bits(_TAIL_BITS)
        # Half the cost of an f-string with as many fields.
        return "%s%03x-%04x%08x" % (self._head, counter >> 16, counter & 0xFFFF, tail)  # noqa: UP031

    def _start_millisecond(self, timestamp: int) -> None:
        version, variant = 0x7000 | self._bits(12), 0x8 | self._bits(2)
        self._timestamp = timestamp
        self._head = f"{timestamp >> 16:08x}-{timestamp & 0xFFFF:04x}-{version:04x}-{variant:x}"
        self._counter = self._bits(_SEED_BITS)
