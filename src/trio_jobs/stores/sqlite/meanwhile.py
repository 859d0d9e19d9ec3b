"""`Meanwhile`: what waits for a commit of the file, or for the end of one, and what does not."""

from collections.abc import Callable, Iterable
from typing import Final

# To wait pays from so many submissions on, and up to so many records. With fewer, a wake-up of the
# loop costs as much as is gained; with more, the loop and the thread are both busy anyway.
_GROUP: Final = 8
MANY: Final = 256


class Meanwhile:
    """Calls functions when that does not hold up the next commit.

    The thread that writes shares the interpreter with the event loop, and gives it up only while
    SQLite writes and syncs, at the end of a commit. So when a group of jobs has landed, the loop
    first answers their clients and takes their next requests; the jobs begin while the disk is busy
    with these. They do not wait for that commit if no request comes, if many records do, or if it
    fails. Their ends wait until it has landed, and share the next commit with further requests.

    The loop makes all calls; the thread only asks whether there is one to make.

    Args:
        call_all: Calls functions, in their order.
        may_wait: Whether a function may wait at all.
    """

    def __init__(
        self, call_all: Callable[[Iterable[Callable[[], None]]], None], *, may_wait: bool
    ) -> None:
        self._call_all = call_all
        self._may_wait = may_wait
        self._waiting: list[Callable[[], None]] = []
        self._is_group = False  # whether a group lands now

    def __call__(self, call: Callable[[], None]) -> None:
        """Call a function, now or later; only a ``landed`` may ask for it."""
        if self._is_group and self._may_wait:
            self._waiting.append(call)
        else:
            call()

    def __bool__(self) -> bool:
        """Whether there is a call to make."""
        return bool(self._waiting)

    def land(self, *, submissions: int, records: int) -> None:
        """Note that a commit has landed, before each ``landed`` of it is called."""
        self._is_group = submissions >= _GROUP and records <= MANY
        if not self._is_group:
            self.make_calls()  # jobs begin in the order of their landings

    def make_calls(self) -> None:
        """Make the calls that have waited."""
        calls, self._waiting = self._waiting, []
        self._call_all(calls)


def is_worth_waiting(*, under_way: int, next_ones: int) -> bool:
    """Whether the next records are to wait until those of a commit under way have landed."""
    return _GROUP <= under_way <= MANY and next_ones <= MANY
