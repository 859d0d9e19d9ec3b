"""A warning about handlers that block the event loop: async ones that compute or call what blocks.

Between two waits for I/O Trio runs one step of each task that is ready. How
long such a stretch took costs two looks at the clock; which task took so long
it does not tell. So there are two stages. A stretch that was too long is
reported with every job whose handler ran in the event loop meanwhile: with one,
that is the one. With several, single steps are timed for the next minute, and
what is slow then is reported by itself.

What it cannot know: a stretch is also long while the whole process stands
still (SIGSTOP, a swapping machine); and a loop that never comes back is for the
hard limit to report.
"""

import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

import trio

from trio_jobs.job import current_job_id

log = logging.getLogger(__name__)

# Seconds for which a handler is not reported again, and single steps are timed.
_MINUTE = 60.0

# How many jobs a report names, at the most.
_NAMED = 5

_ADVICE = (
    "an async handler must not compute or call what blocks: make it a plain function, which runs"
    ' in a thread, with run = "process" if it computes'
)


class Suspect(NamedTuple):
    """A job that may have blocked the event loop, and its handler's name."""

    handler: str
    job_id: str
    job_type: str


class Activity(Protocol):
    """Knows which jobs run in the event loop; `Processor` does."""

    def running_here(self) -> Sequence[Suspect]:
        """The jobs whose handlers are running in the event loop."""

    def ended_here(self) -> Sequence[Suspect]:
        """Those that have ended since `forget_ended`."""

    def forget_ended(self) -> None:
        """Forget the jobs that have ended."""


class SlowSteps(trio.abc.Instrument):
    """Warns of handlers that block the event loop, once per handler and minute.

    Args:
        activity: Knows which jobs run.
        limit: Seconds from which on a step is too long.
        clock: Seconds that pass also while the event loop is blocked.
    """

    def __init__(
        self, activity: Activity, *, limit: float, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._activity = activity
        self._limit = limit
        self._clock = clock
        self._reports = _Reports()
        self._closer_look: _CloserLook | None = None
        self._began = clock()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  (Trio's signature)
        """Begin a stretch."""
        self._activity.forget_ended()
        self._began = self._clock()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002  (Trio's signature)
        """End it."""
        now = self._clock()
        if self._closer_look is not None:
            if now >= self._closer_look.until:
                trio.lowlevel.remove_instrument(self._closer_look)
                self._closer_look = None
        elif now - self._began >= self._limit:
            suspects = [*self._activity.ended_here(), *self._activity.running_here()]
            self._reports.report(suspects, seconds=now - self._began, now=now)
            if len(suspects) > 1:
                self._closer_look = _CloserLook(
                    self._activity, self._reports, limit=self._limit, clock=self._clock
                )
                trio.lowlevel.add_instrument(self._closer_look)


class _CloserLook(trio.abc.Instrument):
    """Times every single step, for a minute."""

    def __init__(
        self,
        activity: Activity,
        reports: "_Reports",
        *,
        limit: float,
        clock: Callable[[], float],
    ) -> None:
        self._activity = activity
        self._reports = reports
        self._limit = limit
        self._clock = clock
        self._job_id: str | None = None
        self._began = clock()
        self.until = self._began + _MINUTE

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._activity.forget_ended()
        self._job_id = task.context.get(current_job_id)
        self._began = self._clock()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        now = self._clock()
        if now - self._began < self._limit:
            return
        # The step was of a job's task, or children's, if it was so when it
        # began or is so now; or the whole job took place in it.
        job_id = self._job_id or task.context.get(current_job_id)
        suspects = list(self._activity.ended_here())
        if job_id is not None:
            suspects += self._activity.running_here()
            suspects = [suspect for suspect in suspects if suspect.job_id == job_id]
        self._reports.report(suspects, seconds=now - self._began, now=now)


class _Reports:
    """Writes the warnings, each handler's at most once a minute."""

    def __init__(self) -> None:
        self._written: dict[str, float] = {}  # when, by the handler's name

    def report(self, suspects: Sequence[Suspect], *, seconds: float, now: float) -> None:
        """Report a handler, or that it was one of several."""
        fields: dict[str, object] = {"seconds": round(seconds, 3), "advice": _ADVICE}
        match suspects:
            case []:
                pass
            case [Suspect(handler=handler) as suspect]:
                if now - self._written.get(handler, -_MINUTE) >= _MINUTE:
                    self._written[handler] = now
                    log.warning("event_loop_blocked", extra=suspect._asdict() | fields)
            case _:
                named = [f"{suspect.handler} {suspect.job_id}" for suspect in suspects[:_NAMED]]
                more = {"jobs": len(suspects), "one_of": ", ".join(named)}
                log.warning("event_loop_blocked", extra=more | fields)
