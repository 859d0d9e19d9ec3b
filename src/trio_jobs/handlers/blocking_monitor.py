"""`BlockingMonitor`: warns of async handlers that compute or block in the event loop.

It also keeps the longest step of any task, for metrics.

Between two waits for I/O Trio runs one step of each task that is ready. The monitor times each
step in which a handler has run, and adds up the steps of each job between two waits. So handlers
are not charged with the time of HTTP and admission. The code of a payload's class runs while a
job is submitted, and is charged to the handler that takes such payloads.

A step also takes long if the whole process stands still (SIGSTOP, a swapping machine). The monitor
cannot report a step that never ends; the hard limit of a stop does.
"""

import logging
import math
from collections.abc import Mapping

import trio

from trio_jobs.current_job import current_job_id
from trio_jobs.elapsed import elapsed_clock
from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.handler import Run
from trio_jobs.handlers.running_job import RunningJob
from trio_jobs.settings import LoggingSettings

log = logging.getLogger(__name__)

# Seconds for which a handler is not reported again.
_MINUTE = 60.0

# How many jobs one report names at most.
_NAMED = 5

# Steps shorter than this part of the limit are ignored: they are too many to add up.
_COUNTED = 0.001
# Seconds. No shorter steps need to be seen to find the longest one.
_LONGEST_COUNTED = 0.0005

_ADVICE = (
    "an async handler must not compute or call what blocks: make it a plain function, which runs"
    ' in a thread, with run = "process" if it computes'
)

_PAYLOAD_ADVICE = (
    "a payload is made in the event loop when it is submitted: the code of its class must not"
    " compute or call what blocks; do that in the function"
)


class BlockingMonitor(trio.abc.Instrument):
    """Warns of handlers that block the event loop, once per handler and minute.

    Make it in the event loop: it reads Trio's clock.

    Args:
        executor: Runs the jobs.
        settings: ``slow_step`` is the time that a handler may take between two waits for I/O; 0
            for no warnings.
    """

    def __init__(self, executor: JobExecutor, settings: LoggingSettings) -> None:
        self._executor = executor
        self._limit = settings.slow_step or math.inf
        self._counted = min(self._limit * _COUNTED, _LONGEST_COUNTED)
        self._longest = 0.0
        self._now = elapsed_clock()
        self._began = self._now()
        self._last_ended = executor.last_ended  # at the end of the last step
        self._taken: dict[RunningJob, float] = {}  # since the last wait for I/O
        self._reported: dict[str, float] = {}  # when, by the handler's name

    def take_longest_step(self) -> float:
        """The seconds of the longest step of any task since the last call; 0 for a short one.

        A step is short if it takes less than a thousandth of the limit, or 0.5 ms.
        """
        longest, self._longest = self._longest, 0.0
        return longest

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's signature
        """Begin the first step."""
        self._began = self._now()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """End a step, and begin the next one."""
        now = self._now()
        if now - self._began >= self._counted:
            self._charge(task, now - self._began)
        self._last_ended = self._executor.last_ended
        self._began = now

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's signature
        """Report the steps since the last wait for I/O."""
        if self._taken:
            self._report()
            self._taken.clear()
        for handler, seconds in self._executor.registry.take_check_seconds().items():
            if seconds >= self._limit and self._is_time_for(f"{handler}, its payloads"):
                _warn({"payload_of": handler}, seconds, _PAYLOAD_ADVICE)

    def _charge(self, task: trio.lowlevel.Task, seconds: float) -> None:
        """Charge a step to the last job that ran in it.

        A worker runs several short jobs in one step. A job that takes long is the last of its step.
        """
        self._longest = max(self._longest, seconds)
        job_id = task.context.get(current_job_id)
        running = None if job_id is None else self._executor.running.get(job_id)
        if running is None and self._executor.last_ended is not self._last_ended:
            running = self._executor.last_ended
        if running and running.handler is not None and running.handler.run is Run.TRIO:
            self._taken[running] = self._taken.get(running, 0.0) + seconds

    def _report(self) -> None:
        """Report each job that took longer than the limit, and the others if they did in sum."""
        others = []
        for running, seconds in sorted(self._taken.items(), key=lambda each: -each[1]):
            handler, job = _name(running), running.job
            if seconds < self._limit:
                others.append(f"{handler} {job.id}")
            elif self._is_time_for(handler):
                _warn({"handler": handler, "job_id": job.id, "job_type": job.type}, seconds)
        together = sum(seconds for seconds in self._taken.values() if seconds < self._limit)
        if together >= self._limit and self._is_time_for(""):
            _warn({"jobs": len(others), "handlers": ", ".join(others[:_NAMED])}, together)

    def _is_time_for(self, handler: str) -> bool:
        now = self._now()
        if now - self._reported.get(handler, -math.inf) < _MINUTE:
            return False
        self._reported[handler] = now
        return True


def _name(running: RunningJob) -> str:
    return "" if running.handler is None else running.handler.name


def _warn(fields: Mapping[str, object], seconds: float, advice: str = _ADVICE) -> None:
    more = {"seconds": round(seconds, 3), "advice": advice}
    log.warning("event_loop_blocked", extra={**fields, **more})
