"""`time.sleep` in virtual time, in the threads that tasks wait for."""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import trio
import trio._threads

_T = TypeVar("_T")


class _OfThread(threading.local):
    """Attributes of the running thread.

    Attributes:
        sleep: What `time.sleep` does in this thread; None outside of `sleeping_by`.
    """

    sleep: Callable[[float], object] | None = None


_of_thread = _OfThread()


def patch_sleep(patch: pytest.MonkeyPatch) -> None:
    """Let `time.sleep` wait by Trio's clock in threads that Trio's tasks wait for.

    In a call of `sleeping_by`, the function that it was given replaces `time.sleep`. In every other
    thread `time.sleep` waits by real time. As in reality, no cancellation interrupts it.
    """
    patch.setattr(time, "sleep", functools.partial(_sleep, time.sleep))


def sleeping_by(sleep: Callable[[float], object], function: Callable[..., _T], *args: Any) -> _T:  # noqa: ANN401
    """Call ``function``. Until it returns, `time.sleep` calls ``sleep`` in this thread."""
    _of_thread.sleep = sleep
    try:
        return function(*args)
    finally:
        del _of_thread.sleep


def _sleep(sleep: Callable[[float], object], seconds: float, /) -> None:
    of_trio = trio._threads.PARENT_TASK_DATA
    if trio.lowlevel.in_trio_run():
        sleep(seconds)
    elif _of_thread.sleep is not None:
        _of_thread.sleep(seconds)
    elif not hasattr(of_trio, "token"):
        sleep(seconds)
    elif of_trio.abandon_on_cancel:
        trio.from_thread.run(trio.sleep, seconds)
    else:
        # Trio makes this call in the task that waits for the thread. Without the shield, a
        # cancellation of that task would interrupt the sleep.
        trio.from_thread.run(_shielded_sleep, seconds)


async def _shielded_sleep(seconds: float) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)
