"""`elapsed_clock`: a clock that is read for each job, to see how much time passes."""

import time
from collections.abc import Callable

import trio


def elapsed_clock() -> Callable[[], float]:
    """Seconds from any moment on, as Trio's clock counts them: only differences say something.

    Trio's own clock is `time.perf_counter` and an offset. Without the offset, and the method that
    adds it, a reading takes a third of the instructions.
    """
    clock = trio.lowlevel.current_clock()
    return time.perf_counter if type(clock).__name__ == "SystemClock" else clock.current_time
