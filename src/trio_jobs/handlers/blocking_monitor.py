"""A warning about handlers that block the event loop: async ones that compute or call what blocks.

Between two waits for I/O Trio runs one step of each task that is ready. The steps of handlers are
timed, and what they take together in such a stretch is put down to them: not what HTTP and
admission take of it, however many requests there are. The code of a payload's class, which runs
as a job is submitted, is put down to the handler that takes such payloads.

What it cannot know: a step is also long while the whole process stands still (SIGSTOP, a swapping
machine); and a step that never ends is for the hard limit to report.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import trio

from trio_jobs.job import current_job_id

log = logging.getLogger(__name__)

# Seconds for which a handler is not reported again.
_MINUTE = 60.0

# How many jobs a report names, at the most.
_NAMED = 5

# Steps that are shorter than this part of the limit are not counted: so many, of so many jobs,
# are no handler's fault. And each step would cost more.
_COUNTED = 0.001

_ADVICE = (
    "an async handler must not compute or call what blocks: make it a plain function, which runs"
    ' in a thread, with run = "process" if it computes'
)

_PAYLOAD_ADVICE = (
    "a payload is made in the event loop when it is submitted: the code of its class must not"
    " compute or call what blocks; do that in the function"
)


class Suspect(NamedTuple):
    """A job that may have blocked the event loop; its handler's name; when it began."""

    handler: str
    job_id: str
    job_type: str
    started: float


class Activity(Protocol):
    """Knows which jobs run in the event loop; `JobExecutor` does."""

    def running_here(self) -> Sequence[Suspect]:
        """The jobs whose handlers are running in the event loop."""

    def ended_here(self) -> Sequence[Suspect]:
        """Those that have ended since `forget_ended`, in order."""

    def forget_ended(self) -> None:
        """Forget the jobs that have ended."""

    def take_check_seconds(self) -> Mapping[str, float]:
        """Seconds that payloads' own code has taken as jobs were submitted, by the handler's name.

        Since this was called last.
        """


class BlockingMonitor(trio.abc.Instrument):
    """Warns of handlers that block the event loop, once per handler and minute.

    To be made in the event loop: its times are Trio's.

    Args:
        activity: Knows which jobs run.
        limit: Seconds in one stretch from which on they are too long.
    """

    def __init__(self, activity: Activity, *, limit: float) -> None:
        self._activity = activity
        self._forget_ended = activity.forget_ended  # looked up once: each step ends with it
        self._limit = limit
        self._counted = limit * _COUNTED
        self._now = trio.lowlevel.current_clock().current_time
        self._began = self._now()
        self._taken: dict[str, tuple[Suspect, float]] = {}  # in this stretch, by the job's id
        self._checks: dict[str, float] = {}  # of payloads, in this stretch, by the handler's name
        self._reported: dict[str, float] = {}  # when, by the handler's name

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  (Trio's signature)
        """Begin a stretch, and its first step."""
        self._began = self._now()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """End a step, and begin the next one."""
        now = self._now()
        if now - self._began >= self._counted:
            self._put_down(task, now)
        self._forget_ended()
        self._began = now

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002  (Trio's signature)
        """End the stretch."""
        if self._taken:
            self._report(list(self._taken.values()))
            self._taken.clear()
        if self._checks:
            self._report_checks()
            self._checks.clear()

    def _put_down(self, task: trio.lowlevel.Task, now: float) -> None:
        """Put a step down to the jobs whose handlers have run in it, one after the other."""
        ran = list(self._activity.ended_here())
        # In the middle of a job, be it its own task or a child's, the context tells which.
        job_id = task.context.get(current_job_id)
        ran += [each for each in self._activity.running_here() if each.job_id == job_id]
        began = [*(max(each.started, self._began) for each in ran), now]
        for job, (start, end) in zip(ran, pairwise(began), strict=True):
            _, before = self._taken.get(job.job_id, (job, 0.0))
            self._taken[job.job_id] = job, before + end - start
        for handler, seconds in self._activity.take_check_seconds().items():
            self._checks[handler] = self._checks.get(handler, 0.0) + seconds

    def _report(self, taken: list[tuple[Suspect, float]]) -> None:
        taken.sort(key=lambda each: -each[1])
        while taken and taken[0][1] >= self._limit:
            job, seconds = taken.pop(0)
            if self._is_time_for(job.handler):
                fields = {"handler": job.handler, "job_id": job.job_id, "job_type": job.job_type}
                _warn(fields, seconds)
        together = sum(seconds for _, seconds in taken)
        if together >= self._limit and self._is_time_for(""):
            named = ", ".join(f"{job.handler} {job.job_id}" for job, _ in taken[:_NAMED])
            _warn({"jobs": len(taken), "handlers": named}, together)

    def _report_checks(self) -> None:
        for handler, seconds in self._checks.items():
            if seconds >= self._limit and self._is_time_for(f"{handler}, its payloads"):
                _warn({"payload_of": handler}, seconds, _PAYLOAD_ADVICE)

    def _is_time_for(self, handler: str) -> bool:
        now = self._now()
        if now - self._reported.get(handler, -math.inf) < _MINUTE:
            return False
        self._reported[handler] = now
        return True


def _warn(fields: Mapping[str, object], seconds: float, advice: str = _ADVICE) -> None:
    more = {"seconds": round(seconds, 3), "advice": advice}
    log.warning("event_loop_blocked", extra={**fields, **more})
