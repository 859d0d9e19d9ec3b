"""The wall clock of a pool, as aware UTC times."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import trio

utc_now = partial(datetime.now, UTC)

# Seconds, a thousand years. A mock clock may jump beyond the year 9999, where dates end.
_LONGEST = 31_557_600_000.0


def wall_clock() -> Callable[[], datetime]:
    """The system's clock; under Trio's mock clock, a clock that goes with the mock clock from now.

    Otherwise a job for a date would never be due in a test: Trio's clock jumps, the system's clock
    stands still.
    """
    clock = trio.lowlevel.current_clock()
    testing = sys.modules.get("trio.testing")  # the module of the mock clock; an import takes time
    if testing is None or not isinstance(clock, testing.MockClock):
        return utc_now
    start, began = utc_now(), clock.current_time()

    def now() -> datetime:
        elapsed = min(clock.current_time() - began, _LONGEST)
        return start + timedelta(seconds=elapsed)

    return now
