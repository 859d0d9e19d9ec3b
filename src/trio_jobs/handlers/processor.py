"""`Processor`: runs the right handler for a job and says how the job ended."""

import inspect
import logging
import math
from collections.abc import Callable
from typing import Any

import trio

from trio_jobs.handlers.errors import describe_error
from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.results import encode_result
from trio_jobs.handlers.table import Handlers
from trio_jobs.job import Ending, Job, Outcome, current_job_id

log = logging.getLogger(__name__)


class Processor:
    """What a worker is given to process a job with: call it with the job.

    Args:
        handlers: Which function processes which type.
        workers: How many jobs run at the same time: the size of the limiter
            for threads. Trio's default limiter is shared with everybody.
        max_result_bytes: The largest result, as JSON.
    """

    def __init__(self, handlers: Handlers, *, workers: int, max_result_bytes: int) -> None:
        self._handlers = handlers
        self._threads = trio.CapacityLimiter(workers)
        self._max_result_bytes = max_result_bytes
        # When each running job began, by Trio's clock; the oldest is first.
        self._running: dict[str, float] = {}

    async def __call__(self, job: Job) -> Ending:
        """Run the job's handler; whatever that returns or raises becomes the ending.

        Cancellation:
            When the scope this runs in is cancelled the handler is cancelled
            (a thread is left behind), and ``Cancelled`` leaves this function,
            whatever the handler has made of it; unless the handler has ended
            with a value: then the job has ended, and that is recorded.

        Checkpoints:
            As many as the handler; none if that has none.
        """
        token = current_job_id.set(job.id)
        self._running[job.id] = trio.current_time()
        try:
            # In a scope of its own. One that the handler has opened and not closed
            # (an async generator that yields inside of one) would stay the
            # worker's, and when it is cancelled end the whole pool, silently.
            with trio.CancelScope():
                result = await self._run(self._handlers.find(job.type), job)
            encoded = encode_result(result, max_bytes=self._max_result_bytes)
            return Ending(outcome=Outcome.SUCCEEDED, result=encoded)
        except BaseException as error:
            # By the scope, not by the type: only if this task is itself being
            # cancelled does the job end cut short. A `Cancelled` that a handler
            # kept and raised again is a mistake like any other, and a
            # `SystemExit` is a handler's, not the operator's: passing either on
            # would take a worker away, the first one silently.
            if trio.current_effective_deadline() == -math.inf:
                await trio.lowlevel.checkpoint()  # raises the real Cancelled
            log.warning("handler_raised", exc_info=error, extra={"job_type": job.type})
            return Ending(outcome=Outcome.FAILED, error=describe_error(error))
        finally:
            del self._running[job.id]
            current_job_id.reset(token)

    def oldest_running_seconds(self) -> float | None:
        """How long the job that began first has been running; None if none is."""
        for started in self._running.values():
            return trio.current_time() - started
        return None

    async def _run(self, handler: Handler, job: Job) -> object:
        payload = handler.decode(job.payload)
        if handler.run is Run.ASYNC:
            return await handler.call(payload)
        return await self._run_in_thread(handler.call, payload)

    async def _run_in_thread(self, call: Callable[[Any], Any], payload: object) -> object:
        try:
            # A thread cannot be interrupted. Abandoned it is only when the pool
            # ends: it must not outlast the grace period.
            result = await trio.to_thread.run_sync(
                call, payload, abandon_on_cancel=True, limiter=self._threads
            )
        except trio.Cancelled:
            log.warning("thread_still_running")
            raise
        if inspect.isawaitable(result):
            # A plain wrapper around an async function looks like a plain one.
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("a plain function returned an awaitable; make it an async function")
        return result
