"""`Stop`: the three levels of a stop that signals ask for, and the hard limit behind them.

A stop begins in the signal handler, not in a task: a task cannot run while something blocks the
event loop. Between signals nothing here runs.
"""

import atexit
import contextlib
import signal
import time
from collections.abc import Callable, Mapping

import trio

from trio_jobs.settings import HttpSettings, PoolSettings
from trio_jobs.shutdown.diagnostics import JobReport, NoJobs, all_blocks, job_blocks, plain
from trio_jobs.shutdown.hard_limit import HARD_LIMIT_STATUS, HardLimit
from trio_jobs.shutdown.signals import ENDING, RELOADING, STOPPING, Signals
from trio_jobs.takeovers import Takeovers

# A wrapper (a shell, npm or make in a terminal's process group) forwards a signal that the process
# has got already: a signal within this time is such a copy. A person takes longer to repeat one.
REPEAT_WINDOW_SECONDS = 0.2

# What a clean stop may take beyond `pool.grace_period` and `http.graceful_timeout`.
MARGIN_SECONDS = 1.0

# From the hard limit to the kernel's timer behind it (1.5 s), with a reserve.
_LAST_CLOCK_SECONDS = 3.0


def _ignore_signals() -> None:
    for signum in (*STOPPING, RELOADING, *ENDING):
        signal.signal(signum, signal.SIG_IGN)


class Stop:
    """Counts the signals that ask this process to stop, and ends it if that takes too long.

    The first signal asks for a drain, the second ends the grace period, the third ends the process
    at once with status 70, as any SIGQUIT does. A signal that comes less than 0.2 s after the last
    one that counted does not count.

    Attributes:
        at: ``time.monotonic()`` of the first signal, even if the event loop was blocked or not
            running then; None before. The grace period starts at this time.
        report: See `connect`.
    """

    def __init__(
        self,
        pool: PoolSettings,
        http: HttpSettings,
        *,
        margin: float = MARGIN_SECONDS,
        render: Callable[[str, str, Mapping[str, object]], bytes] = plain,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``margin``: seconds. ``render`` turns a block of a report into bytes for the log."""
        self.at: float | None = None
        self.report: JobReport = NoJobs()
        self._drain: Callable[[], object] = lambda: None
        self._cancel: Callable[[], object] = lambda: None
        self._grace_period = pool.grace_period
        self._graceful_timeout = http.graceful_timeout
        self._closing_time = http.graceful_timeout + margin
        self._clock = clock
        self._count = 0
        self._last = float("-inf")
        self._token: trio.lowlevel.TrioToken | None = None
        self._root: trio.lowlevel.Task | None = None
        self._signals: Signals | None = None
        self._other: Callable[[int], object] = lambda _: None
        self._hard_limit = HardLimit(
            diagnose=lambda: all_blocks(self.report, self._root),
            last=lambda: job_blocks(self.report.unnamed),
            render=render,
        )

    def install(
        self, signals: Signals | None = None, *, other: Callable[[int], object] = lambda _: None
    ) -> None:
        """Act on the signals, for the rest of the process's life. In the main thread.

        With a SIGINT handler that is not Python's own, Trio raises no KeyboardInterrupt. Without
        `install`, `request` drains and cancels as well, but never ends the process.

        Args:
            signals: Taken already; the signals that they have noted since count. By default the
                signals are taken now.
            other: Given each signal that asks for no end. Called in a signal handler, or in
                another thread.
        """
        self._hard_limit.start()
        if signals is None:
            signals = Signals()
            signals.take()
        self._signals, self._other = signals, other
        # The interpreter's last act removes Python's handlers. A repeated signal would then kill a
        # process that has stopped in order. Registered first, this callback runs last.
        atexit.register(_ignore_signals)
        # `is_armed` after each signal: another thread may have armed the limit, and only the main
        # thread can give SIGALRM its default action.
        signals.connect(self._handle_signal, handled=self._hard_limit.is_armed)

    def hold_against(self, takeovers: Takeovers) -> None:
        """Have ``takeovers`` put back what `install` has set and user code has replaced."""
        if self._signals is None:
            return
        takeovers.add_group(taken=self._signals.taken, put_back=self._signals.put_back)
        for what, intact, put_back in (
            ("signal_mask", self._signals.is_unblocked, self._signals.unblock),
            ("wakeup_fd", self._signals.has_wakeup, self._signals.has_wakeup),
            ("alarm", self._hard_limit.is_armed, self._hard_limit.set_alarm),
        ):
            takeovers.add(what, intact=intact, put_back=put_back, costly=True)

    def move_log(self, fd: int) -> None:
        """See `HardLimit.move_log`. After `install`."""
        self._hard_limit.move_log(fd)

    def give_up(self) -> None:
        """Undo `install`, in a forked child."""
        if self._signals is not None:
            self._signals.give_up()
        self._hard_limit.give_up()
        atexit.unregister(_ignore_signals)

    def connect(
        self,
        *,
        drain: Callable[[], object],
        cancel: Callable[[], object],
        report: JobReport,
    ) -> None:
        """Let the signals steer this Trio run. Signals that came before count.

        Args:
            drain: Called in the event loop after the first signal, perhaps again later.
            cancel: Called there after the second signal, perhaps again later.
            report: Names the unfinished jobs if the process ends at once.
        """
        self._drain, self._cancel, self.report = drain, cancel, report
        self._root = trio.lowlevel.current_root_task()
        # Set before `_wake` reads the count: a signal in between then wakes the loop twice. In the
        # other order it would be lost.
        self._token = trio.lowlevel.current_trio_token()
        if self._signals is not None:
            self._signals.hold_wakeup(self._wake_loop)
        self._wake()

    def grace_left(self) -> float:
        """Seconds left of the grace period: all of it before the first signal, negative at last."""
        return self._grace_period - (0 if self.at is None else self._clock() - self.at)

    def seconds_left(self) -> float:
        """Seconds until the process has ended in any case, by the hard limit; with a reserve."""
        return self.grace_left() + self._closing_time + _LAST_CLOCK_SECONDS

    async def wait_grace_over(self, cancelled: trio.Event) -> None:
        """Wait until clients that still read their answers must be cut off.

        That is ``graceful_timeout`` after the end of the grace period.

        Args:
            cancelled: Set when the grace period ends early; ends the wait at once.
        """
        left = self.grace_left() + self._graceful_timeout
        # Not `move_on_after`, which refuses a negative time: a late stop has none left.
        with trio.move_on_at(trio.current_time() + left):
            await cancelled.wait()

    def request(self, *, at: float | None = None) -> None:
        """Do what SIGTERM does. Safe in the main thread, and in a signal handler.

        Args:
            at: The time of the request, by the clock; by default now.
        """
        now = self._clock() if at is None else at
        if now - self._last < REPEAT_WINDOW_SECONDS:
            return
        # No call between the check and these lines, so no other signal handler runs between them.
        self._last = now
        self._count += 1
        if self._count == 1:
            self.at = now
            self._arm(since=now, seconds=self._grace_period + self._closing_time)
        elif self._count == 2:
            self._arm(since=now, seconds=self._closing_time)
        else:
            self._end_process("third signal")
        self._wake_loop()

    def arm_after_crash(self, *, draining: bool = False) -> None:
        """Arm the hard limit without a signal: a part of the server has failed.

        Args:
            draining: Whether the pool still gets its grace period (HTTP has failed), or has been
                cancelled (a worker has failed).
        """
        seconds = self._closing_time + (self._grace_period if draining else 0)
        self._arm(since=self._clock(), seconds=seconds)

    def _handle_signal(self, signum: int, at: float) -> None:
        if self._signals is not None and signum in self._signals.stopping:
            self.request(at=at)
        elif signum in ENDING:
            self._end_process(signal.Signals(signum).name)
        else:
            self._other(signum)

    def _arm(self, *, since: float, seconds: float) -> None:
        if self._signals is not None:
            self._signals.let_go(signal.SIGALRM)  # the limit's timer uses it
        self._hard_limit.arm(since=since, seconds=seconds)

    def _end_process(self, why: str) -> None:
        self._hard_limit.end_process(
            f"{why}: the process ends with status {HARD_LIMIT_STATUS}",
            job_blocks(self.report.lines),
        )

    def _wake_loop(self) -> None:
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._wake)

    def _wake(self) -> None:
        if self._count >= 1:
            self._drain()
        if self._count >= 2:
            self._cancel()
