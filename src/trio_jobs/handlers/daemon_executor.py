"""`DaemonExecutor`: asyncio's default executor, on threads that do not hold up the exit.

Python waits at its exit for the threads of its own executor: one ``asyncio.to_thread(time.sleep,
60)`` would hold up a stop until the hard limit.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import trio

# As many as Python's own executor has on a machine of 28 processors or more.
_LIMIT = 32


class DaemonExecutor(ThreadPoolExecutor):
    """Runs functions in Trio's cached threads, at most 32 at the same time.

    asyncio takes no other executor than a `ThreadPoolExecutor`. This subclass starts none of that
    class's threads.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._busy = 0
        self._waiting: deque[Callable[[], None]] = deque()
        # For both attributes: the loop's thread submits while other threads end their work.
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        """Run a function as soon as fewer than 32 run.

        Raises:
            RuntimeError: No thread can be started.
        """
        future: Future[Any] = Future()
        work = partial(_work, future, partial(fn, *args, **kwargs))
        with self._lock:
            if self._busy >= _LIMIT:
                self._waiting.append(work)
                return future
            self._busy += 1
        try:
            trio.lowlevel.start_thread_soon(partial(self._work, work), _ignore, "asyncio executor")
        except RuntimeError:  # no thread can be started
            with self._lock:
                self._busy -= 1
            raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: threads at work are left behind, as threads of handlers are."""

    def _work(self, work: Callable[[], None] | None) -> None:
        while work is not None:
            work()
            with self._lock:
                work = self._waiting.popleft() if self._waiting else None
                if work is None:
                    self._busy -= 1


def _ignore(_: object) -> None:
    pass


def _work(future: Future[Any], function: Callable[[], object]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: ASYNC103, BLE001 - the caller gets it
        future.set_exception(error)
    else:
        future.set_result(result)  # noqa: ASYNC104 - this runs outside of Trio
