"""`StoreClock`: the database's clock as this process knows it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

# How much an old measurement may be wrong for each nanosecond of its age: clocks run at different
# speeds, a machine's by less than this.
_DRIFT: Final = 0.000_2

# Nanoseconds. A clock that goes forward by more within one step was set.
_STEP: Final = 100_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class StoreClock:
    """The database's clock, measured at times; before the first measurement the wall clock.

    All servers write times and make ids by it, so a machine whose clock is wrong does not put its
    jobs in front of the others'. It is good enough for that, and decides nothing else.

    Args:
        monotonic: A clock that never goes back, in nanoseconds. The time between two measurements
            is its time, so it does not matter when somebody sets the wall clock.
        wall: The wall clock, in nanoseconds since 1970.
    """

    def __init__(
        self,
        monotonic: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._measured_at = 0
        self._uncertainty: int | None = None  # None: never measured

    def monotonic(self) -> int:
        """The monotonic clock, in nanoseconds, for `measured`."""
        return self._monotonic()

    def measured(self, microseconds: int, *, sent: int) -> bool:
        """Note what the database's clock has said, in the answer that has just come.

        An answer that was long on its way says little: if an earlier one was faster, and does not
        contradict it, the earlier one counts.

        Args:
            microseconds: The database's time, since 1970.
            sent: When the question was sent, by `monotonic`.

        Returns:
            Whether that clock was certainly set forward since the last measurement that counted.
        """
        now = self._monotonic()
        uncertainty = (now - sent) // 2
        offset = microseconds * 1_000 - (sent + uncertainty)
        is_set_forward = False
        if self._uncertainty is not None:
            known = self._uncertainty + int((now - self._measured_at) * _DRIFT)
            if known < uncertainty and abs(offset - self._offset) <= known + uncertainty:
                return False
            is_set_forward = offset - self._offset > known + uncertainty + _STEP
        self._offset, self._uncertainty, self._measured_at = offset, uncertainty, now
        return is_set_forward

    def nanoseconds(self) -> int:
        """The database's time now, in nanoseconds since 1970."""
        return self._monotonic() + self._offset

    def now(self) -> datetime:
        """The database's time now, as an aware UTC time."""
        return _EPOCH + timedelta(microseconds=self.nanoseconds() // 1_000)
