"""`ThreadRunner`: runs plain functions in threads."""

import logging
import math
from collections.abc import Mapping

import trio

from trio_jobs.error_text import Failure
from trio_jobs.handlers.handler import Handler, Run, run_plain
from trio_jobs.handlers.made_context import make_context
from trio_jobs.handlers.running_job import RunningJob
from trio_jobs.handlers.start_shortage import ShortageError, StartShortage

log = logging.getLogger(__name__)


class ThreadRunner:
    """Runs each job in a thread of its own.

    A thread cannot be interrupted, so a cancel or the time limit only decides the outcome: the
    worker waits for the thread, and N workers never run more than N jobs. Only the end of the pool
    leaves the thread behind, because nothing may outlast the grace period.

    Args:
        workers: How many jobs run at the same time: the size of a limiter of the runner's own. User
            code could use up Trio's default limiter.
        shortage: Holds the jobs for which no thread can be started.
        states: What the lifespans have opened, by place.
    """

    def __init__(self, workers: int, shortage: StartShortage, states: Mapping[Run, object]) -> None:
        self._limiter = trio.CapacityLimiter(workers)
        self._shortage = shortage
        self._states = states
        self._now = trio.lowlevel.current_clock().current_time

    def limit(self, workers: int) -> None:
        """Let so many jobs run at the same time; those that run go on."""
        self._limiter.total_tokens = workers

    async def run(
        self, handler: Handler, running: RunningJob, *, max_result_bytes: int
    ) -> bytes | Failure:
        """Run a job.

        Args:
            handler: The handler.
            running: The job.
            max_result_bytes: The largest result, as JSON.

        Returns:
            The result as JSON, or the description of the function's exception.

        Cancellation:
            Leaves the thread behind (``thread_still_running`` in the log).
        """
        job = running.job
        abandoned = False

        def run_and_time() -> tuple[bytes | Failure, float]:
            context = None
            if handler.takes_context:
                state = self._states.get(Run.THREAD)
                context = make_context(
                    running,
                    now=self._now,
                    state=state,
                    is_cancelled=is_cancelled,
                )
            answer = run_plain(handler, job.payload, context, max_result_bytes=max_result_bytes)
            return answer, self._now()

        def is_cancelled() -> bool:
            return abandoned or running.is_decided(self._now())

        while True:
            running.start_clock(handler.timeout, interruptible=False)
            try:
                answer, ended = await trio.to_thread.run_sync(
                    run_and_time,
                    thread_name=f"job {job.id}",
                    abandon_on_cancel=True,
                    limiter=self._limiter,
                )
            except trio.Cancelled:
                abandoned = True
                if trio.current_effective_deadline() == -math.inf:
                    fields = {"job_id": job.id, "job_type": job.type}
                    log.warning("thread_still_running", extra=fields)
                raise
            except RuntimeError:  # no thread can be started; `run_plain` raises nothing
                running.take_back_start()
            else:
                running.end(ended)
                return answer
            # Only the start of an idle thread is tried again here; Trio keeps the thread for the
            # job. If the handler's call were tried here, the job would count as blocked until the
            # handler returns.
            await self._shortage.outlast(self._start_idle_thread)

    async def _start_idle_thread(self) -> None:
        try:
            await trio.to_thread.run_sync(int, limiter=self._limiter)
        except RuntimeError as error:
            raise ShortageError(f"no thread can be started: {error}") from error
