"""`At` acts at a chosen step of Trio's; `cancelled_at_each_step` cancels a handler at each step.

A step is what a task runs between two waits.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import trio

from trio_jobs.api.validation import check_submission, encode_payload
from trio_jobs.current_job import current_job_id
from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.nurseries import call_with_context
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.job import Job, Later, Outcome

_MAX_BYTES = 2**30


def _any_task(task: trio.lowlevel.Task) -> bool:  # noqa: ARG001  (a predicate)
    return True


class At(trio.abc.Instrument):
    """Within its block, calls ``action`` just before the step with the number ``step``.

    Args:
        step: Counted over all selected tasks from the start of the block, from 1. With 0, `At`
            counts steps and calls nothing.
        action: Called once, without arguments.
        of: Selects the tasks whose steps count; by default all.

    Attributes:
        steps: The number of steps so far.
    """

    def __init__(
        self,
        step: int,
        action: Callable[[], object],
        *,
        of: Callable[[trio.lowlevel.Task], bool] = _any_task,
    ) -> None:
        self._step = step
        self._action = action
        self._of = of
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the step."""
        if self._of(task):
            self.steps += 1
            if self.steps == self._step:
                self._action()

    def __enter__(self) -> Self:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a handler.

    Attributes:
        step: The number of the step before which the handler was cancelled; 0
            if it was cancelled before its first checkpoint. None for the first
            run, which is not cancelled.
        steps: The number of steps in the first run.
        returned: Whether the handler, and the tasks in its job's nursery, ended
            without ``Cancelled``. A handler that shields its work, or swallows
            its cancellation, returns. Any handler may return if it is
            cancelled before one of its last steps, in which it only learns
            that a thread or its tasks have ended.
    """

    step: int | None
    steps: int
    returned: bool


async def cancelled_at_each_step(
    handler: Handler | Callable[..., Any], payload: object = None
) -> AsyncIterator[Attempt]:
    """Run an async handler again and again, cancelled one step later each time.

    Between two steps is a wait: for time, a connection, another task. So the
    handler, and each task in its job's nursery, is cancelled once in each of
    its waits, as by a client, a time limit or the end of the grace period.
    The body of the loop runs after each attempt: there a test checks that
    nothing was left behind.

    Args:
        handler: The handler.
        payload: Its payload, checked and converted as that of a job.

    Yields:
        After each run. The first run is not cancelled.

    Raises:
        AssertionError: The handler did not succeed in the first run. Or, when
            cancelled, the handler or a task in its job's nursery raised another
            error than ``Cancelled``, for example in its cleanup.
        ValueError: The handler does not run on Trio. Threads cannot be cancelled,
            processes are killed, and the steps of asyncio are no steps of Trio's.
        HandlerError: The function cannot be a handler.
        PayloadError: The payload does not fit the handler.
    """
    handler = handler if isinstance(handler, Handler) else Handler.of(handler)
    if handler.run is not Run.TRIO:
        text = f'only a handler on Trio has steps; {handler.name} has run = "{handler.run}"'
        raise ValueError(text)
    encoded = encode_payload(payload, max_bytes=_MAX_BYTES)
    check_submission("test", encoded, HandlerRegistry({"test": handler}))
    steps, _ = await _run(handler, encoded, cancel_at=None)
    yield Attempt(step=None, steps=steps, returned=True)
    for step in range(steps + 1):
        _, returned = await _run(handler, encoded, cancel_at=step)
        yield Attempt(step=step, steps=steps, returned=returned)


async def _run(handler: Handler, payload: bytes, *, cancel_at: int | None) -> tuple[int, bool]:
    """Run the handler once, by the executor that runs jobs in the server.

    Returns:
        How many steps it had, and whether it returned.
    """
    job = Job(id="test", type="test", payload=payload, created_at=datetime.now(UTC), attempts=1)
    raised: BaseException | None = None
    returned = False

    def cancel() -> None:
        executor.cancel(job.id)

    async def call(value: object) -> object:
        nonlocal raised, returned
        if cancel_at == 0:
            cancel()
        try:
            with trio.CancelScope():  # raises if the handler leaves a scope of its own open
                if handler.takes_context:
                    result = await call_with_context(
                        handler.call,
                        value,
                        executor.running[job.id],
                        now=trio.current_time,
                    )
                else:
                    result = await handler.call(value)
        except BaseException as error:
            raised = error
            raise
        returned = True
        return result

    # `call` opens the context's nursery instead of the executor, and so sees the tasks' errors.
    watched = HandlerRegistry({"test": replace(handler, call=call, takes_context=False)})
    executor = JobExecutor(watched, max_result_bytes=_MAX_BYTES)
    with At(
        cancel_at or 0, cancel, of=lambda task: task.context.get(current_job_id) == job.id
    ) as at:
        ending = await executor(job)
    if cancel_at is None:
        if isinstance(ending, Later) or ending.outcome is not Outcome.SUCCEEDED:
            raise AssertionError(f"{handler.name} did not succeed: {ending.error}") from raised
    elif raised is not None and not _only_cancelled(raised):
        text = f"{handler.name}, cancelled at step {cancel_at}, raised {raised!r}"
        raise AssertionError(text) from raised
    return at.steps, returned


def _only_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)
