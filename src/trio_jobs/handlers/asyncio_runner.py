"""`AsyncioRunner`: runs jobs as tasks on a loop of asyncio, in another thread than Trio's."""

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import trio

from trio_jobs.current_job import current_job_id
from trio_jobs.error_text import Failure, describe
from trio_jobs.handlers.asyncio_lifespan import enter_on_asyncio
from trio_jobs.handlers.asyncio_task import AsyncioTask
from trio_jobs.handlers.handler import FORKS, Handler, Run
from trio_jobs.handlers.lifespan import Lifespan
from trio_jobs.handlers.loop_thread import LoopThread, MakeLoop, loop_maker
from trio_jobs.handlers.made_context import make_context
from trio_jobs.handlers.running_job import RunningJob
from trio_jobs.handlers.timed_loop import TimedLoop
from trio_jobs.handlers.wrong_loop import advise_on_asyncio
from trio_jobs.json_encoding import encode_result

log = logging.getLogger(__name__)

# The loop: by its name; made by a function; or a program's own, which runs already.
LoopChoice: TypeAlias = Literal["asyncio", "uvloop"] | MakeLoop | asyncio.AbstractEventLoop

# The modules around a handler's code, whose frames a traceback leaves out.
_OWN = frozenset({__name__})


# Seconds for which a handler is not reported again.
_MINUTE = 60.0

_BLOCKED_ADVICE = (
    "an async handler must not compute or call what blocks: make it a plain function, which runs"
    ' in a thread, with run = "process" if it computes'
)


class AsyncioRunner:
    """Runs handlers on asyncio, for the length of the block of `open`.

    A loop that the runner starts itself runs in a daemon thread, and ends with the block. A
    program's own loop is used as it is, and goes on.

    Args:
        choice: The loop.
        states: What the lifespans have opened, by place.

    Raises:
        LoopStartError: The choice is uvloop, which is not installed.
    """

    def __init__(self, choice: LoopChoice, states: Mapping[Run, object]) -> None:
        self._hosted = choice if isinstance(choice, asyncio.AbstractEventLoop) else None
        self._make = None if isinstance(choice, asyncio.AbstractEventLoop) else loop_maker(choice)
        self._states = states
        self._is_default = choice == "asyncio"
        self._thread: LoopThread | None = None
        self._now = trio.lowlevel.current_clock().current_time
        self._running: dict[str, tuple[Handler, RunningJob]] = {}
        # By the handler's name, when it was last reported. Only the loop's thread uses this.
        self._reported: dict[str, float] = {}

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop; there is none before the block is entered."""
        if self._hosted is not None:
            return self._hosted
        if self._thread is None:
            raise RuntimeError("asyncio's loop is used outside of its block")
        return self._thread.loop

    @property
    def left_behind(self) -> bool:
        """Whether the loop's thread has not ended in time."""
        return self._thread is not None and self._thread.left_behind

    def watch(self, limit: float) -> None:
        """Warn of handlers that block the loop for this many seconds, once per handler and minute.

        Call this before the block is entered. It has no effect for other loops than asyncio's own.
        """
        if self._is_default:
            self._make = partial(TimedLoop, limit=limit, report=self._report_blocked)

    @asynccontextmanager
    async def open(self, lifespan: Lifespan | None = None) -> AsyncIterator[object]:
        """A block in which jobs run. It gives the state of the lifespan, if there is one.

        Raises:
            LifespanError: The lifespan has not opened.
            LoopStartError: The loop cannot be started.
        """
        async with AsyncExitStack() as stack:
            if self._make is not None:
                self._thread = await stack.enter_async_context(LoopThread(self._make))
            state = None
            if lifespan is not None:
                entered = enter_on_asyncio(self.loop, lifespan)
                state = await stack.enter_async_context(entered)
            yield state

    async def run(
        self, handler: Handler, running: RunningJob, *, max_result_bytes: int
    ) -> bytes | Failure:
        """Run a job in a task of its own.

        Args:
            handler: The handler.
            running: The job. A cancel or the time limit cancels the task, and each further cancel
                does so once more.
            max_result_bytes: The largest result, as JSON.

        Returns:
            The result as JSON, or the description of the handler's exception. The description of
            a `CancelledError` that follows a cancel has no traceback.

        Raises:
            RuntimeError: The program has closed its loop.

        Cancellation:
            Cancels the task, and waits a bounded time until it has unwound. A task that has not
            ended then is left behind (``asyncio_task_still_running`` in the log). If the handler
            returns a value all the same, this function returns it.
        """
        job = running.job
        running.scope = until_decided = _UntilDecided()
        running.start_clock(handler.timeout)
        work = partial(self._work, handler, running, max_result_bytes)
        until_decided.task = task = AsyncioTask(self.loop, work, name=f"job {job.id}")
        self._running[job.id] = handler, running
        try:
            with until_decided.scope:
                await task.done.wait()
            if not task.done.is_set():
                task.cancel()
                # Outside of the job's scope, which is cancelled: a wait inside of it would end at
                # once, and a shielded one would not end with the pool.
                await task.done.wait()
        except trio.Cancelled:  # noqa: ASYNC103 - the pool ends
            await _unwind(task, running)  # noqa: ASYNC102 - bounded
            end = _end_of(task)
            if isinstance(end.answer, Failure):
                raise
        else:
            end = _end_of(task)
        finally:
            del self._running[job.id]
        running.end(end.at)
        if end.by_cancel and task.cancel_called:
            return Failure(type="CancelledError", message="", traceback="")
        return end.answer

    async def _work(self, handler: Handler, running: RunningJob, max_result_bytes: int) -> "_End":
        """Run the handler from JSON to JSON; never raises. All of it runs in the loop's thread."""
        forks = FORKS.count
        ended = math.inf
        by_cancel = False
        answer: bytes | Failure
        try:
            payload = handler.payload_of(running.job.payload)
            if handler.takes_context:
                result = await self._call_with_context(handler, payload, running)
            else:
                result = await handler.call(payload)
            ended = self._now()
            answer = encode_result(result, max_bytes=max_result_bytes)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - SystemExit would leave the loop
            ended = min(ended, self._now())
            by_cancel = isinstance(error, asyncio.CancelledError)
            answer = describe(error, own=_OWN, advise=advise_on_asyncio)
        if forks != FORKS.count:
            os._exit(int(isinstance(answer, Failure)))
        return _End(answer, ended, by_cancel)  # noqa: ASYNC104 - the task ends here

    async def _call_with_context(
        self, handler: Handler, payload: object, running: RunningJob
    ) -> object:
        """Call a handler with its job's context, and wait for the tasks in its task group."""
        failure = None
        try:
            async with asyncio.TaskGroup() as group:
                state = self._states.get(Run.ASYNCIO)
                context = make_context(running, now=self._now, state=state, task_group=group)
                result = await handler.call(payload, context)
        except BaseExceptionGroup as group_of_errors:
            # The task group made it. A single error is clearer without a group.
            if len(group_of_errors.exceptions) > 1:
                raise
            failure = group_of_errors.exceptions[0]
        if failure is not None:
            raise failure  # outside of `except`, which would make the group its context
        return result

    def _report_blocked(self, seconds: float) -> None:
        """Log a step that took long. In the loop's thread, in the step's context variables."""
        job_id = current_job_id.get()
        found = None if job_id is None else self._running.get(job_id)
        fields: dict[str, object] = {"loop": "asyncio"}
        name = ""
        if found is not None:
            handler, running = found
            name = handler.name
            fields |= {"handler": name, "job_id": running.job.id, "job_type": running.job.type}
        now = self._now()
        if now - self._reported.get(name, -math.inf) >= _MINUTE:
            self._reported[name] = now
            more = {"seconds": round(seconds, 3), "advice": _BLOCKED_ADVICE}
            log.warning("event_loop_blocked", extra={**fields, **more})


class _UntilDecided:
    """The scope of a running job. A cancel or the time limit ends the wait for the job's task.

    A further cancel cancels the task itself.
    """

    task: "AsyncioTask[_End]"

    def __init__(self) -> None:
        self.scope = trio.CancelScope()

    @property
    def deadline(self) -> float:
        return self.scope.deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self.scope.deadline = deadline

    def cancel(self) -> None:
        if self.scope.cancel_called:
            self.task.cancel()
        else:
            self.scope.cancel()


class _End(NamedTuple):
    """How a handler has ended."""

    answer: bytes | Failure
    at: float | None = None  # by Trio's clock; None for now
    by_cancel: bool = False  # whether it has raised CancelledError


async def _unwind(task: AsyncioTask[_End], running: RunningJob) -> None:
    """Cancel the task, and wait a bounded time until it has ended.

    Raises:
        trio.Cancelled: The task has not ended in that time.
    """
    await task.unwind()
    if not task.done.is_set():
        fields = {"job_id": running.job.id, "job_type": running.job.type}
        log.warning("asyncio_task_still_running", extra=fields)
        await trio.lowlevel.checkpoint()


def _end_of(task: AsyncioTask[_End]) -> _End:
    try:
        return task.result.unwrap()
    except asyncio.CancelledError:  # noqa: ASYNC103 - the task's, before its first step
        return _End(  # noqa: ASYNC104 - it is no cancel of this task
            Failure(type="CancelledError", message="", traceback=""), by_cancel=True
        )
