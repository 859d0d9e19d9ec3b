"""A handler's nurseries: the one of its job, and those that the handler leaves open.

A handler leaves a nursery open when it breaks out of an ``async for`` over an async generator that
yields inside of a nursery. That nursery belongs to the worker's task. When the nursery's tasks
end, they would wake the worker in the middle of another job; Trio then ends with an internal
error. ``Runner.task_exited`` cures this for tasks that exit, but a worker goes on. Nor may the
worker exit: Trio then raises "Nursery stack corrupted" in the pool's nursery, which ends the pool.
So this module detaches such nurseries from their task. Trio has no public function for that: the
module uses private names of Trio. No other module does, except `kept_scope` and the worker, which
read whether a scope or a nursery is open, and whether a scope is cancelled.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.made_context import make_context
from trio_jobs.handlers.running_job import RunningJob


async def call_with_context(
    call: Callable[[Any, JobContext], Awaitable[object]],
    payload: object,
    running: RunningJob,
    *,
    now: Callable[[], float],
    state: object = None,
) -> object:
    """Call an async handler with the job's context, and wait for its nursery's tasks.

    Args:
        call: The handler's function.
        payload: The payload.
        running: The job.
        now: Trio's clock.
        state: What the lifespan of Trio has opened.

    Raises:
        RuntimeError: The handler cancelled its own nursery, which ended the handler.
        BaseException: The error of the handler or of a task in its nursery; a group if there are
            several.

    Checkpoints:
        At least once.
    """
    returned = False
    failure = None
    try:
        async with trio.open_nursery() as nursery:
            context = make_context(running, now=now, state=state, nursery=nursery)
            try:
                result = await call(payload, context)
            finally:
                abandon_nurseries(above=nursery)  # Trio can close only the innermost nursery
            returned = True
    except BaseExceptionGroup as group:
        # The nursery made the group. A single error is clearer without a group.
        if len(group.exceptions) > 1:
            raise
        failure = group.exceptions[0]
    if failure is not None:
        raise failure  # outside of `except`, which would make the group its context
    if not returned:
        raise RuntimeError("the handler was ended by cancelling its own nursery")
    return result


def innermost_nursery() -> trio.Nursery | None:
    """The last nursery that this task has opened and not closed; None without one."""
    nurseries = trio.lowlevel.current_task().child_nurseries
    return nurseries[-1] if nurseries else None


def abandon_nurseries(*, above: trio.Nursery | None) -> None:
    """Cancel the nurseries that this task has left open, and detach them from the task.

    Args:
        above: Spare this nursery and those outside of it; None spares none.
    """
    for nursery in reversed(trio.lowlevel.current_task().child_nurseries):
        if nursery is above:
            break
        nursery.cancel_scope.cancel()
        nursery._closed = True
        _give(nursery, _ExitedTask([]))


@dataclass(frozen=True, slots=True)
class _ExitedTask:
    """The part of a task that a nursery uses after the task has exited."""

    _child_nurseries: list[trio.Nursery]


class GeneratorEnds(trio.abc.Instrument):
    """Lets a nursery in an abandoned async generator wake the task that closes the generator.

    Trio closes such a generator in a task of its own. The nursery's tasks would wake the task
    that has opened the nursery instead.
    """

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Watch a task that closes a generator."""
        if task.name.startswith("close asyncgen "):
            trio.lowlevel.add_instrument(_GeneratorEnd(task))


class _GeneratorEnd(trio.abc.Instrument):
    def __init__(self, task: trio.lowlevel.Task) -> None:
        self._task = task

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is not self._task:
            return
        for frame, _ in task.iter_await_frames():
            if frame.f_code.co_qualname == "Nursery._nested_child_finished":
                nursery = frame.f_locals["self"]
                if nursery._parent_task is not task:
                    _give(nursery, task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            trio.lowlevel.remove_instrument(self)


def _give(nursery: trio.Nursery, task: trio.lowlevel.Task | _ExitedTask) -> None:
    nursery._parent_task._child_nurseries.remove(nursery)
    nursery._parent_task = task  # type: ignore[assignment]
    task._child_nurseries.append(nursery)
