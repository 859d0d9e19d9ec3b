"""Doing something at a chosen step of Trio's, and cancelling a handler at each of its own."""

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
from trio_jobs.job import Job, Outcome

_MAX_BYTES = 2**30


def _any_task(task: trio.lowlevel.Task) -> bool:  # noqa: ARG001  (a predicate)
    return True


class At(trio.abc.Instrument):
    """Calls something just before the n-th step of tasks, counted from where it is entered.

    Args:
        step: Which step, from 1; one that never comes counts only.
        action: What to call.
        of: Of which tasks steps count; by default of any.

    Attributes:
        steps: How many there have been.
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
        step: Before which of its steps it was cancelled, from 0: before its
            first checkpoint; None in the first run, which is not cancelled.
        steps: How many it had in the first run.
        returned: Whether it returned nevertheless, and all in its job's nursery
            had ended, as one does that shields the rest of its work, or
            swallows its cancellation. Before its last steps a good one may as
            well: where it has only to be told that a thread or the tasks in a
            nursery have ended, it waits for nothing that could be cancelled.
    """

    step: int | None
    steps: int
    returned: bool


async def cancelled_at_each_step(
    handler: Handler | Callable[..., Any], payload: object = None
) -> AsyncIterator[Attempt]:
    """Run an async handler again and again, cancelled one step later each time.

    What is between two steps is a wait: for time, a connection, another task.
    So each wait of the handler, and of tasks in its job's nursery, becomes one
    in which it is cancelled, as by a client, a time limit or the end of the
    grace period. Between the runs the body of the loop has its turn: to check
    that nothing was left behind, and to tidy up for the next run.

    Args:
        handler: The handler.
        payload: What it is called with: checked, and made into an object, as
            that of a job.

    Yields:
        After each run, the first of which is not cancelled.

    Raises:
        AssertionError: The handler did not succeed when nothing cancelled it;
            or it, or a task in its job's nursery, raised something else than
            ``Cancelled`` when cancelled, as cleanup code does that fails.
        ValueError: It is not async: threads cannot be cancelled, and processes
            are killed.
        HandlerError: The function cannot be a handler.
        PayloadError: The payload is not what the handler takes.
    """
    handler = handler if isinstance(handler, Handler) else Handler.of(handler)
    if handler.run is not Run.ASYNC:
        raise ValueError(f"only an async handler has steps; {handler.name} runs in a {handler.run}")
    encoded = encode_payload(payload, max_bytes=_MAX_BYTES)
    check_submission("test", encoded, HandlerRegistry({"test": handler}))
    run = _Run(handler, encoded, cancel_at=None)
    await run.run()
    steps = run.steps
    yield Attempt(step=None, steps=steps, returned=True)
    for step in range(steps + 1):
        run = _Run(handler, encoded, cancel_at=step)
        await run.run()
        yield Attempt(step=step, steps=steps, returned=run.returned)


class _Run:
    """One run, by the same code that runs it in the server."""

    def __init__(self, handler: Handler, payload: bytes, *, cancel_at: int | None) -> None:
        self._handler = handler
        self._cancel_at = cancel_at
        self._job = Job(id="test", type="test", payload=payload, created_at=datetime.now(UTC))
        # The nursery of its context is opened in `_call`: what children raise is the handler's too.
        watched = replace(handler, call=self._call, takes_context=False)
        self._process = JobExecutor(
            HandlerRegistry({"test": watched}), workers=1, max_result_bytes=_MAX_BYTES
        )
        self._raised: BaseException | None = None
        self.returned = False
        self.steps = 0

    async def run(self) -> None:
        """Run it.

        Raises:
            AssertionError: It did what a handler should not.
        """
        with At(self._cancel_at or 0, self._cancel, of=self._is_ours) as at:
            ending = await self._process(self._job)
        self.steps = at.steps
        if self._cancel_at is None:
            if ending.outcome is not Outcome.SUCCEEDED:
                raise AssertionError(
                    f"{self._handler.name} did not succeed: {ending.error}"
                ) from self._raised
        elif self._raised is not None and not _only_cancelled(self._raised):
            raise AssertionError(
                f"{self._handler.name}, cancelled at step {self._cancel_at},"
                f" raised {self._raised!r}"
            ) from self._raised

    async def _call(self, payload: object) -> object:
        if self._cancel_at == 0:
            self._cancel()
        try:
            with trio.CancelScope():  # complains of a scope that the handler has left open
                if self._handler.takes_context:
                    result = await call_with_context(self._handler.call, payload, self._job)
                else:
                    result = await self._handler.call(payload)
        except BaseException as error:
            self._raised = error
            raise
        self.returned = True
        return result

    def _cancel(self) -> None:
        self._process.cancel(self._job.id)

    def _is_ours(self, task: trio.lowlevel.Task) -> bool:
        return task.context.get(current_job_id) == self._job.id


def _only_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)
