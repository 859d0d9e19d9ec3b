"""SIGTERM and SIGINT: the three levels of a stop, and the hard limit behind them.

A stop begins in the signal handler, not in a task: a task cannot run while something blocks the
event loop. Between signals nothing here runs.
"""

import atexit
import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType

import trio

from trio_jobs.stop.hard_limit import HARD_LIMIT_STATUS, Block, HardLimit
from trio_jobs.stop.in_the_way import tasks_in_the_way, threads_in_the_way

__all__ = ["HARD_LIMIT_STATUS", "Stop"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Wrappers (a shell, a terminal's process group with npm or make in between) forward a signal
# that the process gets anyway; a person needs longer to insist.
REPEAT_WINDOW_SECONDS = 0.2

# What a clean stop may take beyond the two times that are configured.
MARGIN_SECONDS = 1.0


def _ignore_signals() -> None:
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _plain(line: str, below: str, fields: Mapping[str, object]) -> bytes:
    line = " ".join([line, *(f"{name}={value}" for name, value in fields.items())])
    text = "\n  ".join([line, *below.splitlines()])
    return f"{text}\n".encode(errors="backslashreplace")


class Stop:
    """Counts the signals that ask this process to stop, and sees to it that it does.

    The first asks for a drain, the second insists (no grace any longer), the third ends the
    process at once, with status 70. One that comes less than 0.2 s after the last that counted
    does not count.

    Attributes:
        at: ``time.monotonic()`` of the first signal, even when the event loop was blocked then or
            not running yet; None before. The grace period starts here.
        unfinished: Names the jobs that stand in the way, an event and its fields for each line of
            the hard limit's report. Called in another thread than the event loop's, or in a signal
            handler: it may read, but not wait.
    """

    def __init__(
        self,
        *,
        grace_period: float,
        graceful_timeout: float,
        margin: float = MARGIN_SECONDS,
        render: Callable[[str, str, Mapping[str, object]], bytes] = _plain,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Durations in seconds.

        ``render`` turns a line, what stands below it, and its fields into what is written to the
        log.
        """
        self.at: float | None = None
        self.unfinished: Callable[[], Iterable[tuple[str, Mapping[str, object]]]] = tuple
        self._grace_period = grace_period
        self._closing_time = graceful_timeout + margin
        self._clock = clock
        self._count = 0
        self._last = float("-inf")
        self._requested = trio.Event()
        self._insisted = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._root: trio.lowlevel.Task | None = None
        self._hard_limit = HardLimit(in_the_way=self._in_the_way, render=render)

    def install(self) -> None:
        """Take over SIGTERM and SIGINT, for the rest of the process's life.

        In the main thread, and first of all: a signal before this ends the process. With a
        SIGINT handler that is not Python's own, Trio raises no KeyboardInterrupt. A Stop that is
        not installed works too (``request``), but never ends the process.
        """
        self._hard_limit.start()
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._handle_signal)
        # The interpreter's last act takes Python's handlers away. A signal that is repeated then
        # would kill a process that has stopped in order. Registered first, this runs last.
        atexit.register(_ignore_signals)

    def connect(self) -> None:
        """Let signals wake the tasks of this Trio run, and those that came before it count."""
        self._root = trio.lowlevel.current_root_task()
        # The token before the look at the count: a signal in between then comes twice, not never.
        self._token = trio.lowlevel.current_trio_token()
        self._wake()

    async def requested(self) -> None:
        """Wait for the first signal.

        Checkpoints:
            Always.
        """
        await self._requested.wait()

    async def insisted(self) -> None:
        """Wait for the second signal.

        Checkpoints:
            Always.
        """
        await self._insisted.wait()

    def request(self) -> None:
        """Do what a signal does. Safe in the main thread, and in a signal handler."""
        now = self._clock()
        if now - self._last < REPEAT_WINDOW_SECONDS:
            return
        # No call between the look and these lines: a second signal's handler, which may run
        # inside this one, comes before the look or after them.
        self._last = now
        self._count += 1
        if self._count == 1:
            self.at = now
            self._hard_limit.arm(since=now, seconds=self._grace_period + self._closing_time)
        elif self._count == 2:
            self._hard_limit.arm(since=now, seconds=self._closing_time)
        else:
            self._hard_limit.end_process(
                f"third signal: the process ends with status {HARD_LIMIT_STATUS}",
                _guarded(self._jobs_in_the_way),
            )
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._wake)

    def arm_after_crash(self, *, draining: bool = False) -> None:
        """Arm the hard limit without a signal, because something of ours has failed.

        Args:
            draining: Whether the pool still gets its grace period (HTTP failed), or has been
                cancelled (a worker failed).
        """
        seconds = self._closing_time + (self._grace_period if draining else 0)
        self._hard_limit.arm(since=self._clock(), seconds=seconds)

    def _handle_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self.request()

    def _wake(self) -> None:
        if self._count >= 1:
            self._requested.set()
        if self._count >= 2:
            self._insisted.set()

    def _in_the_way(self) -> Iterator[Block]:
        yield from _guarded(self._jobs_in_the_way)
        root = self._root
        if root is not None:
            yield from _guarded(lambda: _without_fields(tasks_in_the_way(root)))
        yield from _guarded(lambda: _without_fields(threads_in_the_way()))

    def _jobs_in_the_way(self) -> Iterator[Block]:
        for event, fields in self.unfinished():
            yield event, "", fields


def _without_fields(blocks: Iterable[tuple[str, str]]) -> Iterator[Block]:
    for line, below in blocks:
        yield line, below, {}


def _guarded(blocks: Callable[[], Iterable[Block]]) -> Iterator[Block]:
    """What ``blocks`` yields; a failure becomes a line, for the next part of a report to come."""
    try:
        yield from blocks()
    except Exception as error:  # noqa: BLE001 - read while other threads change it
        yield f"and more that could not be read: {type(error).__name__}", "", {}
