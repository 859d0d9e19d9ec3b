"""`JobExecutor`: runs a job's handler and says how the job ended, or when it runs again."""

import contextlib
import logging
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

import trio
from msgspec.structs import replace

from trio_jobs.current_job import current_job_id
from trio_jobs.error_text import Failure, describe
from trio_jobs.handlers.handler import FORKS, Handler, Run
from trio_jobs.handlers.kept_scope import KeptScope
from trio_jobs.handlers.nurseries import call_with_context
from trio_jobs.handlers.places import Places
from trio_jobs.handlers.raised_log import log_raised
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.handlers.retry_policy import decide
from trio_jobs.handlers.running_job import CANCELLED, RunningJob
from trio_jobs.handlers.start_shortage import StartShortage
from trio_jobs.handlers.wrong_loop import advise_on_trio
from trio_jobs.job import Ending, Job, JobError, Later, Outcome
from trio_jobs.json_encoding import encode_result
from trio_jobs.retries import Cause, causes_of

log = logging.getLogger(__name__)

# The modules around an async handler's code, whose frames a traceback leaves out.
_OWN = frozenset({__name__, call_with_context.__module__})

# Looked up once: a lookup in an enum costs as much as a short handler.
_TRIO = Run.TRIO
_SUCCEEDED = Outcome.SUCCEEDED

# How most jobs end; made once.
_NO_RESULT = Ending(outcome=_SUCCEEDED, result=b"null")

# How a retry policy sees a time limit that has passed.
_TIMED_OUT = tuple(causes_of(TimeoutError()))


class ScopeCancelledError(Exception):
    """The handler's scope was cancelled, which ended the handler."""


class JobExecutor:
    """Runs jobs: a worker calls it with each job that it has claimed, within `for_worker`.

    Args:
        registry: The handlers.
        max_result_bytes: The largest result, as JSON.
        places: Run the handlers that do not run on Trio; open while jobs run.
        shortage: Holds the jobs that cannot begin.

    Attributes:
        registry: The handlers.
        places: See above.
        running: The running jobs by id, in the order of their claims.
        released: The jobs that were released; at most one per worker, which ends with that.
        last_ended: The job that ended last; None before the first.

    Raises:
        ValueError: A handler does not run on Trio, and there are no places.
    """

    def __init__(
        self,
        registry: HandlerRegistry,
        *,
        max_result_bytes: int,
        places: Places | None = None,
        shortage: StartShortage | None = None,
    ) -> None:
        if places is None and registry.places - {_TRIO}:
            raise ValueError("a handler does not run on Trio, and there are no places")
        self.registry = registry
        self.last_ended: RunningJob | None = None
        self._max_result_bytes = max_result_bytes
        self.places = places
        self._shortage = shortage or StartShortage()
        self._forks = FORKS.count
        self._now = trio.lowlevel.current_clock().current_time
        self.running: dict[str, RunningJob] = {}
        self._ended_types: set[str] = set()
        self.released: dict[str, RunningJob] = {}

    @contextlib.contextmanager
    def for_worker(self) -> Iterator[Callable[[Job], Awaitable[Ending | Later]]]:
        """A block in which a worker runs its jobs by the function that the block gives.

        The jobs share a cancel scope until one has used it up: see `KeptScope`.
        """
        with contextlib.closing(KeptScope()) as scope:
            yield partial(self._process, scope)

    async def __call__(self, job: Job) -> Ending | Later:
        """Run one job, as in a block of `for_worker` of its own."""
        with self.for_worker() as process:
            return await process(job)

    async def _process(self, scope: KeptScope, job: Job) -> Ending | Later:
        """Run the job's handler. What the handler returns or raises becomes the ending.

        A cancel or the time limit decides instead if it comes first. A job whose cancel was
        requested before its claim runs nothing. A failure or a time limit gives `Later` where the
        handler's retry policy, or the handler itself, wants the job to run again.

        Args:
            scope: The worker's scope.
            job: The claimed job.

        Cancellation:
            If the surrounding scope is cancelled, an async handler is cancelled, a process is
            killed, a thread is left behind, and so is a task of asyncio that does not end. Then
            ``Cancelled`` leaves this function, whatever exception the handler raises. A handler
            that returns a value all the same has ended its job: this function returns the ending.

        Checkpoints:
            As many as the handler; there may be none.
        """
        if self._forks != FORKS.count:
            os._exit(0)  # a copy that a handler has forked would run each waiting job again
        if job.cancel_requested:
            return CANCELLED
        token = current_job_id.set(job.id)
        self.running[job.id] = running = RunningJob(job, self._now())
        try:
            running.handler = handler = self.registry.find(job.type)
            # A scope that the handler has opened and not closed (in an abandoned async generator)
            # ends with this one. Otherwise it would stay around the worker's code: its cancellation
            # would end the worker without an error.
            with scope as running.scope:
                if handler.run is not _TRIO and self.places is not None:
                    return await self._run_elsewhere(handler, running, self.places)
                payload = handler.payload_of(job.payload)
                running.start_clock(handler.timeout)
                if handler.takes_context:
                    state = None if self.places is None else self.places.states.get(_TRIO)
                    result = await call_with_context(
                        handler.call, payload, running, now=self._now, state=state
                    )
                else:
                    result = await handler.call(payload)
                if self._forks != FORKS.count:
                    os._exit(0)
                # Note the end before the encoding: its time does not count for the time limit.
                if (decided := running.end()) is not None:
                    return _or_later(running, decided)
                if result is None:
                    return _NO_RESULT
                encoded = encode_result(result, max_bytes=self._max_result_bytes)
                return Ending(outcome=_SUCCEEDED, result=encoded)
            raise ScopeCancelledError  # noqa: TRY301 - handled like the handler's exceptions
        except BaseException as error:  # noqa: ASYNC103, BLE001 - decided below
            if self._forks != FORKS.count:
                os._exit(1)
            # Decide by the scope, not by the type: the job is released only if this task itself
            # is being cancelled. A `Cancelled` that a handler has kept and raised again is a
            # failure, and so is a handler's `SystemExit`: if they left this function, each would
            # end a worker, and `Cancelled` silently.
            if trio.current_effective_deadline() == -math.inf:
                self.released[job.id] = running
                await trio.lowlevel.checkpoint()  # noqa: ASYNC102 - raises the real Cancelled
            decided = running.end()
            failure = describe(error, own=_OWN, advise=advise_on_trio)
            end = _or_later(running, decided or _failed(failure), failure.causes)
            if type(error) is not ScopeCancelledError:  # `isinstance` may run the error's code
                log_raised(failure, job, end, error)
            return end  # noqa: ASYNC104 - the handler's, not this task's
        finally:
            del self.running[job.id]
            self.last_ended = running
            self._ended_types.add(job.type)
            current_job_id.reset(token)
            self._shortage.note_change()  # the job has freed its resources

    def cancel(self, job_id: str) -> bool:
        """End a running job as cancelled, unless its outcome is decided.

        An async handler is cancelled, a process is killed. A thread goes on; its job completes
        when the thread returns.

        Returns:
            Whether the job is running and ends as cancelled.
        """
        running = self.running.get(job_id)
        return running is not None and running.cancel()

    def forget_released(self, job_id: str) -> None:
        """Forget a job that was cut although its worker goes on, and say so in the log."""
        if (running := self.released.pop(job_id, None)) is not None:
            fields = {"job_id": job_id, "job_type": running.job.type}
            log.warning("job_cut", extra=fields)

    def has_begun(self, job_id: str) -> bool:
        """Whether a claimed job's handler has begun; True for a job that is unknown here.

        A job that has not begun waits for a process or a thread, or was released while waiting.
        """
        running = self.running.get(job_id) or self.released.get(job_id)
        return running is None or running.begun

    def oldest_running_seconds(self) -> float | None:
        """The age of the oldest claim in seconds; None if no job runs."""
        for running in self.running.values():
            return trio.current_time() - running.started
        return None

    def recent_types(self) -> set[str]:
        """The types of the jobs that run, or have ended since the last `forget_types`."""
        return self._ended_types | {each.job.type for each in self.running.values()}

    def forget_types(self) -> Iterable[str]:
        """Forget the types of ended jobs, and return them."""
        if not self._ended_types:
            return ()
        ended, self._ended_types = self._ended_types, set()
        return ended

    async def _run_elsewhere(
        self, handler: Handler, running: RunningJob, places: Places
    ) -> Ending | Later:
        answer = await places.run(handler, running, max_result_bytes=self._max_result_bytes)
        decided = running.end()
        if isinstance(answer, Failure):
            end = _or_later(running, decided or _failed(answer), answer.causes)
            log_raised(answer, running.job, end)
            return end
        if decided is not None:
            return _or_later(running, decided)
        return Ending(outcome=_SUCCEEDED, result=answer)


def _failed(failure: Failure) -> Ending:
    error = JobError(type=failure.type, message=failure.message)
    return Ending(outcome=Outcome.FAILED, error=error)


def _or_later(running: RunningJob, ending: Ending, causes: Sequence[Cause] = ()) -> Ending | Later:
    """Let the handler's retry policy decide whether a job ends like this, or runs again.

    Args:
        running: The job.
        ending: How the job ends if it does not run again.
        causes: The causes of the handler's failure; a time limit replaces them.
    """
    end: Ending | Later = ending
    if ending is not CANCELLED and ending.error is not None and running.handler is not None:
        if ending.outcome is Outcome.TIMED_OUT:
            causes = _TIMED_OUT
        end = decide(running.handler.retry, running.job.attempt, ending.error, causes) or ending
    return end if (left := running.left) is None else replace(end, left=left)
