"""Nurseries that a handler has opened and left open: they must not touch other jobs.

The usual way to one is to leave, with ``break`` or ``return``, an ``async for`` over an async
generator that yields inside of a nursery. Such a nursery belongs to the worker's task, and wakes it
when its own tasks have ended: in the middle of somebody else's job, or instead of an id from the
channel; if it is awake, Trio ends with an internal error. Trio sets this right for tasks that exit
(``Runner.task_exited``), but a worker's goes on. It has no public way to do so, hence the private
names, all of them in this module.
"""

from dataclasses import dataclass

import trio


@dataclass(frozen=True, slots=True)
class _Exited:
    """Stands for a task that has exited: all that a nursery still wants of it."""

    _child_nurseries: list[trio.Nursery]


def innermost_nursery() -> trio.Nursery | None:
    """The nursery that this task has opened last, and not closed; None if there is none."""
    nurseries = trio.lowlevel.current_task().child_nurseries
    return nurseries[-1] if nurseries else None


def abandon_nurseries(*, above: trio.Nursery | None) -> None:
    """Cancel the nurseries that are open in this task, and let it go on without them.

    Args:
        above: Only those that were opened inside of this one; None for all.
    """
    task = trio.lowlevel.current_task()
    for nursery in reversed(task.child_nurseries):
        if nursery is above:
            break
        nursery.cancel_scope.cancel()
        nursery._closed = True
        _give(nursery, _Exited([]))


class GeneratorEnds(trio.abc.Instrument):
    """Sees to it that a nursery in an abandoned async generator wakes the task that ends that.

    Trio ends such a generator in a task of its own; the nursery's tasks would
    wake the one that had opened it.
    """

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Watch the task, if it is one that ends a generator."""
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


def _give(nursery: trio.Nursery, task: trio.lowlevel.Task | _Exited) -> None:
    nursery._parent_task._child_nurseries.remove(nursery)
    nursery._parent_task = task  # type: ignore[assignment]
    task._child_nurseries.append(nursery)
