"""`TimedLoop`: asyncio's loop, which reports what blocks it."""

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

_Ts = TypeVarTuple("_Ts")


class TimedLoop(asyncio.SelectorEventLoop):
    """Times each step of each task.

    Args:
        limit: Seconds that a step may take.
        report: Called after a longer step, in the step's context variables, with its seconds.
    """

    def __init__(self, *, limit: float, report: Callable[[float], object]) -> None:
        super().__init__()
        self._limit = limit
        self._report = report

    def call_soon(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Schedule a call; asyncio's tasks schedule their steps by this."""
        return super().call_soon(self._call, callback, args, context=context)

    def _call(self, callback: Callable[[*_Ts], object], args: tuple[*_Ts]) -> None:
        began = time.perf_counter()
        try:
            callback(*args)
        finally:
            seconds = time.perf_counter() - began
            if seconds >= self._limit:
                self._report(seconds)
