"""`VirtualLoop`: an event loop of asyncio whose time is the mock clock of a run of Trio's.

The loop never waits for a time itself. Before it waits, it tells Trio its next deadline, and a task
of Trio's wakes it then. So the mock clock jumps to asyncio's deadlines as it does to Trio's.
"""

import asyncio
import asyncio.subprocess
import math
import selectors
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import Context
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import pytest
import trio
import trio.testing

from trio_jobs.testing.thread_sleep import sleeping_by

_P = ParamSpec("_P")
_T = TypeVar("_T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in another thread than Trio's.

    The loop is at work from a call of `call_soon_threadsafe` until it has run the callback, and
    waits again. It is also at work while one of its tasks waits for a thread, in
    `loop.run_in_executor` or `asyncio.to_thread`, or for a program, in `wait` or `communicate` of
    `asyncio.subprocess.Process`. A wait for a socket is no work.

    Args:
        clock: The clock of Trio's run.
        token: The token of Trio's run.
        ended: Called in Trio's thread, with the loop, once it is closed and the thread that has
            made it has ended. Until then a closed loop is at work: its thread may have something
            to tell Trio.

    Raises:
        trio.RunFinishedError: Trio's run has ended.
    """

    def __init__(
        self,
        clock: trio.testing.MockClock,
        token: trio.lowlevel.TrioToken,
        ended: Callable[["VirtualLoop"], object],
    ) -> None:
        self._clock = clock
        self._token = token
        self._ended = ended
        self._thread = threading.current_thread()
        # The loop is idle only after it has run all calls from other threads: else the clock could
        # jump between the start of a task and its first step.
        self._calls = 0
        self._calls_lock = threading.Lock()
        self._calls_run = 0  # only the loop's thread uses this
        self._calls_run_when_idle = -1  # the same when the loop last became idle; for Trio's thread
        # The tasks' waits for threads and programs. Only the loop's thread changes this set.
        self._waits: set[object] = set()
        # Those whose thread sleeps by Trio's clock. Only Trio's thread changes this set.
        self._sleeping: set[object] = set()
        self._alarm = trio.CancelScope()
        super().__init__(_IdleSelector(self._tell_idle))
        token.run_sync_soon(trio.lowlevel.spawn_system_task, self._ring)

    def is_at_work(self) -> bool:
        """Whether the loop is at work; called in Trio's thread."""
        return (
            self._calls_run_when_idle != self._calls
            or bool(self._waits - self._sleeping)
            or self.is_closed()
        )

    def time(self) -> float:
        """The clock's time."""
        return self._clock.current_time()

    @property
    def _clock_resolution(self) -> float:
        # asyncio runs what is due before `time() + _clock_resolution`. While the loop is at work,
        # the time stands still: without a difference it would never run what is due now.
        return 4 * math.ulp(self.time())

    @_clock_resolution.setter
    def _clock_resolution(self, _: float) -> None:
        """Ignore the resolution of the system's clock, which asyncio sets."""

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.Handle:
        """Count the call, for any thread."""
        with self._calls_lock:
            self._calls += 1
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        # Not within the callback: a callback that is cancelled never runs.
        super().call_soon_threadsafe(self._count_run)
        return handle

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Executor | None,
        func: Callable[..., _T],
        *args: Any,  # noqa: ANN401
    ) -> asyncio.Future[_T]:
        """Count the wait for the function; `time.sleep` is virtual in its thread."""
        wait = object()
        if not isinstance(executor, ProcessPoolExecutor):  # which has no threads
            func = partial(sleeping_by, partial(self._sleep_in_thread, wait), func)
        future = super().run_in_executor(executor, func, *args)
        self._waits.add(wait)
        # Also once its task is cancelled: nobody waits for the thread then.
        future.add_done_callback(lambda _: self._waits.remove(wait))
        return future

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which a task waits for a program."""
        wait = object()
        self._waits.add(wait)
        try:
            yield
        finally:
            self._waits.remove(wait)

    def close(self) -> None:
        """Close the loop as always."""
        super().close()
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._end_alarm)

    def _count_run(self) -> None:
        self._calls_run += 1

    def _tell_idle(self, timeout: float | None) -> None:
        deadline = math.inf if timeout is None else self.time() + timeout
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._note_idle, self._calls_run, deadline)

    def _sleep_in_thread(self, wait: object, seconds: float) -> None:
        trio.from_thread.run(self._sleep, wait, seconds, trio_token=self._token)

    # The following run in Trio's thread.

    def _note_idle(self, calls_run: int, deadline: float) -> None:
        self._calls_run_when_idle = calls_run
        self._alarm.deadline = deadline

    async def _ring(self) -> None:
        while not self.is_closed():
            with self._alarm:
                await trio.sleep_forever()
            self._alarm = trio.CancelScope()
            with suppress(RuntimeError):  # the loop is closed
                self.call_soon_threadsafe(int)  # wakes the loop
        limiter = trio.CapacityLimiter(1)
        await trio.to_thread.run_sync(self._thread.join, abandon_on_cancel=True, limiter=limiter)
        self._ended(self)

    def _end_alarm(self) -> None:
        self._alarm.cancel()

    async def _sleep(self, wait: object, seconds: float) -> None:
        self._sleeping.add(wait)
        try:
            await trio.sleep(seconds)
        finally:
            self._sleeping.remove(wait)


class _IdleSelector(selectors.DefaultSelector):
    """Calls a function with the timeout before it waits, and then waits without a timeout."""

    def __init__(self, before_wait: Callable[[float | None], object]) -> None:
        super().__init__()
        self._before_wait = before_wait

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Select as always, but in virtual time."""
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        self._before_wait(timeout)
        return super().select(None)


def patch_programs(patch: pytest.MonkeyPatch) -> None:
    """Let each `VirtualLoop` know of waits for programs."""
    for name in ("wait", "communicate"):
        function = getattr(asyncio.subprocess.Process, name)
        patch.setattr(asyncio.subprocess.Process, name, _waiting(function))


def _waiting(
    function: Callable[Concatenate[asyncio.subprocess.Process, _P], Awaitable[_T]],
) -> Callable[..., Awaitable[_T]]:
    @wraps(function)
    async def wait(process: asyncio.subprocess.Process, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            return await function(process, *args, **kwargs)
        with loop.waiting():
            return await function(process, *args, **kwargs)

    return wait
