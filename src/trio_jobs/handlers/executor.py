"""`JobExecutor`: runs the right handler for a job and says how the job ended."""

import contextlib
import logging
import math
import os
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial

import trio

from trio_jobs.handlers.abandoned import abandon_nurseries, innermost_nursery
from trio_jobs.handlers.blocking_monitor import Suspect
from trio_jobs.handlers.error_text import Failure, describe_failure
from trio_jobs.handlers.handler import Handler, Run, run_plain
from trio_jobs.handlers.job_nursery import call_with_context
from trio_jobs.handlers.process_pool import ProcessPool
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.handlers.running_job import CANCELLED, RunningJob
from trio_jobs.handlers.start_shortage import ShortageError, StartShortage
from trio_jobs.job import Ending, Job, Outcome, current_job_id
from trio_jobs.json_encoding import encode_result
from trio_jobs.tracebacks import begin_with_others, has_traceback, traceback_of

log = logging.getLogger(__name__)

# How many jobs that have ended are remembered for `BlockingMonitor`, at most: more than a worker
# ends in one step.
_REMEMBERED = 100


# Around an async handler's code.
_OWN = frozenset({__name__, call_with_context.__module__})

# Looked up once, as in the store.
_ASYNC, _THREAD, _PROCESS = Run
_SUCCEEDED = Outcome.SUCCEEDED


class CutShortError(Exception):
    """The handler's scope was cancelled, and that has ended it."""


class JobExecutor:
    """What a worker is given to process a job with: call it with the job.

    Args:
        handlers: Which function processes which type.
        workers: How many jobs run at the same time: the size of the limiter
            for threads. Trio's default limiter is shared with everybody.
        max_result_bytes: The largest result, as JSON.
        processes: Where handlers run that ask for a process.
        shortage: Where jobs wait that cannot begin.

    Raises:
        ValueError: A handler asks for a process, and there are none.
    """

    def __init__(
        self,
        handlers: HandlerRegistry,
        *,
        workers: int,
        max_result_bytes: int,
        processes: ProcessPool | None = None,
        shortage: StartShortage | None = None,
    ) -> None:
        if processes is None and handlers.process_names:
            raise ValueError("a handler runs in a process, but there are no processes")
        self._handlers = handlers
        self._threads = trio.CapacityLimiter(workers)
        self._max_result_bytes = max_result_bytes
        self._processes = processes
        self._shortage = shortage or StartShortage()
        self._process = os.getpid()
        # By id; the one that began first is first.
        self._running: dict[str, RunningJob] = {}
        self._ended: deque[RunningJob] = deque(maxlen=_REMEMBERED)
        self._ended_types: set[str] = set()
        # One a worker at the most: a worker that is cut off takes no other job.
        self._cut_off_before_begin: set[str] = set()

    async def __call__(self, job: Job) -> Ending:
        """Run the job's handler; whatever that returns or raises becomes the ending.

        Unless something else was first: a cancel or the time limit. A job that
        was cancelled before it was claimed runs nothing.

        Cancellation:
            When the scope this runs in is cancelled the handler is cancelled
            (its process is killed, its thread left behind), and ``Cancelled``
            leaves this function, whatever the handler has made of it; unless
            the handler has ended with a value: then the job has ended, and
            that is recorded.

        Checkpoints:
            As many as the handler; none if that has none.
        """
        self._end_copy()  # which would run every job as well
        if job.cancel_requested:
            return CANCELLED
        outer = innermost_nursery()  # the caller's, and none of the handler's
        token = current_job_id.set(job.id)
        self._running[job.id] = running = RunningJob(job)
        try:
            running.handler = handler = self._handlers.find(job.type)
            # The scope is also what keeps one that the handler has opened and not
            # closed (an async generator that yields inside of one) from staying the
            # worker's: when that is cancelled it would end the pool, silently.
            with trio.CancelScope() as scope:
                running.scope = scope
                return await self._run(handler, running)
            raise CutShortError  # noqa: TRY301  (it ends like what a handler raises)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - decided below
            self._end_copy(status=1)
            abandon_nurseries(above=outer)
            # By the scope, not by the type: only if this task is itself being
            # cancelled does the job end cut short. A `Cancelled` that a handler
            # kept and raised again is a mistake like any other, and a
            # `SystemExit` is a handler's, not the operator's: passing either on
            # would take a worker away, the first one silently.
            if trio.current_effective_deadline() == -math.inf:
                if not running.begun:
                    self._cut_off_before_begin.add(job.id)
                await trio.lowlevel.checkpoint()  # noqa: ASYNC102 - raises the real Cancelled
            decided = running.end()
            begin_with_others(error, _OWN)
            failure = describe_failure(error)
            if type(error) is not CutShortError:  # its `__class__` may be a property that raises
                _log_raised(failure, job, error)
            return decided or _failed(failure)  # noqa: ASYNC104 - the handler's, not this task's
        finally:
            del self._running[job.id]
            self._ended.append(running)
            self._ended_types.add(job.type)
            current_job_id.reset(token)
            self._shortage.note_change()  # whatever it has held is free now

    def cancel(self, job_id: str) -> bool:
        """End a running job as cancelled, unless it has been decided how it ends.

        An async handler is cancelled, a process is killed; a thread goes on, and
        the job completes when it has returned.

        Returns:
            Whether the job is running and ends as cancelled.
        """
        running = self._running.get(job_id)
        return running is not None and running.cancel()

    def has_begun(self, job_id: str) -> bool:
        """Whether a claimed job's handler has begun; true also of one that is not known here.

        One that has not waits for a process or a thread, or did so until it was
        cut off.
        """
        running = self._running.get(job_id)
        if running is not None:
            return running.begun
        return job_id not in self._cut_off_before_begin

    def oldest_running_seconds(self) -> float | None:
        """How long the job that began first has been running; None if none is."""
        for running in self._running.values():
            return trio.current_time() - running.started
        return None

    def recent_types(self) -> set[str]:
        """The types of the jobs that run, and of those that have ended since `forget_types`."""
        return self._ended_types | {each.job.type for each in self._running.values()}

    def forget_types(self) -> Iterable[str]:
        """Forget those that have ended, and tell which they were."""
        if not self._ended_types:
            return ()
        ended, self._ended_types = self._ended_types, set()
        return ended

    def running_here(self) -> list[Suspect]:
        """The jobs whose handlers are running in the event loop; for `BlockingMonitor`."""
        return _suspects(self._running.values())

    def ended_here(self) -> list[Suspect]:
        """Those that have ended since `forget_ended`."""
        return _suspects(self._ended)

    def forget_ended(self) -> None:
        """Forget the jobs that have ended."""
        self._ended.clear()

    def take_check_seconds(self) -> Mapping[str, float]:
        """What payloads' own code has taken as jobs were submitted, by the handler's name."""
        return self._handlers.take_check_seconds()

    async def _run(self, handler: Handler, running: RunningJob) -> Ending:
        if handler.run is not _ASYNC:
            if handler.run is _PROCESS:
                answer = await self._run_in_process(handler, running)
            else:
                answer = await self._run_in_thread(handler, running)
            decided = running.end()
            if isinstance(answer, Failure):
                _log_raised(answer, running.job)
                return decided or _failed(answer)
            return decided or Ending(outcome=_SUCCEEDED, result=answer)
        payload = handler.decode(running.job.payload)
        running.start_clock(handler.timeout)
        if handler.takes_context:
            result = await call_with_context(handler.call, payload, running.job)
        else:
            result = await handler.call(payload)
        self._end_copy()
        # The end comes first: encoding is not the handler's time.
        return running.end() or Ending(
            outcome=_SUCCEEDED,
            result=encode_result(result, max_bytes=self._max_result_bytes),
        )

    def _end_copy(self, *, status: int = 0) -> None:
        """End a copy of this process that an async handler has forked and let come back here."""
        if os.getpid() != self._process:
            os._exit(status)

    async def _run_in_thread(self, handler: Handler, running: RunningJob) -> bytes | Failure:
        while True:
            try:
                return await self._start_in_thread(handler, running)
            except ShortageError:
                # For any thread, which Trio keeps for the job: what waits for the function itself
                # is shown as blocked as long as that runs.
                await self._shortage.outlast(self._start_thread)

    async def _start_thread(self) -> None:
        try:
            await trio.to_thread.run_sync(int, limiter=self._threads)
        except RuntimeError as error:  # Trio's
            raise ShortageError(f"no thread can be started: {error}") from error

    async def _start_in_thread(self, handler: Handler, running: RunningJob) -> bytes | Failure:
        job = running.job
        # A thread cannot be interrupted, and there are never more than N jobs
        # at a time. So a cancel and the time limit do not reach this (the job's
        # scope is not theirs to cancel): they decide, and the slot stays taken
        # until the thread returns. Only the pool's end leaves it behind, since
        # nothing may outlast the grace period.
        running.start_clock(handler.timeout, interruptible=False)
        clock = trio.lowlevel.current_clock()

        def run_in_time() -> tuple[bytes | Failure, float]:
            answer = run_plain(handler, job.payload, max_result_bytes=self._max_result_bytes)
            return answer, clock.current_time()

        try:
            answer, ended = await trio.to_thread.run_sync(
                run_in_time,
                thread_name=f"job {job.id}",
                abandon_on_cancel=True,
                limiter=self._threads,
            )
        except trio.Cancelled:
            if trio.current_effective_deadline() == -math.inf:
                log.warning("thread_still_running", extra={"job_id": job.id, "job_type": job.type})
            raise
        except RuntimeError as error:  # Trio's: what the thread runs returns what was raised
            running.take_back_start()
            raise ShortageError(f"no thread can be started: {error}") from error
        running.end(ended)
        return answer

    async def _run_in_process(self, handler: Handler, running: RunningJob) -> bytes | Failure:
        assert self._processes is not None  # noqa: S101  (for the type checker: checked above)
        return await self._processes.run(
            handler.name,
            running.job.payload,
            job_id=running.job.id,
            max_result_bytes=self._max_result_bytes,
            started=partial(running.start_clock, handler.timeout),
            start_taken_back=running.take_back_start,
            ended=running.end,
        )


def _failed(failure: Failure) -> Ending:
    return Ending(outcome=Outcome.FAILED, error=failure.error)


def _log_raised(failure: Failure, job: Job, error: BaseException | None = None) -> None:
    """Log the traceback that was made where the error was raised.

    Args:
        failure: What the handler raised.
        job: The handler's job.
        error: What it raised in the event loop, for logs that want more of it than its text.
    """
    if not log.isEnabledFor(logging.WARNING) or not failure.traceback:
        return
    fields = {"job_id": job.id, "job_type": job.type}
    record = log.makeRecord(
        log.name, logging.WARNING, __file__, 0, "handler_raised", (), None, extra=fields
    )
    record.exc_text = failure.traceback  # formatters show it, and do not make another
    if error is not None and has_traceback(error):
        record.exc_info = (type(error), error, traceback_of(error))
        # A log that is not ours may run the error's own code all the same.
        with contextlib.suppress(BaseException):
            log.handle(record)
            return
        record.exc_info = None
    with contextlib.suppress(BaseException):  # nor must its job's end be another because of it
        log.handle(record)


def _suspects(jobs: Iterable[RunningJob]) -> list[Suspect]:
    return [
        Suspect(
            handler=each.handler.name,
            job_id=each.job.id,
            job_type=each.job.type,
            started=each.started,
        )
        for each in jobs
        if each.handler is not None and each.handler.run is _ASYNC
    ]
