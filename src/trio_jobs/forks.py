"""What a child made by ``os.fork`` gives up, so that a fork in user code is harmless.

A fork copies what belongs to one process: signal handlers, the wakeup descriptor, listening
sockets, clients' connections, an event loop with jobs in it. ``multiprocessing`` forks as well.
"""

import contextlib
import os
from collections.abc import Callable

import trio

from trio_jobs.fork_mask import ForkMask


class Forks:
    """Runs callbacks in every child that this process forks.

    For the command alone: `watch` cannot be undone.
    """

    def __init__(self) -> None:
        self._server = os.getpid()
        self._in_child: list[Callable[[], None]] = []
        self._mask = ForkMask(self._give_up)

    def watch(self) -> None:
        """Begin: from now on each child runs the callbacks."""
        self._mask.watch()

    def in_child(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called in each child, in the forking thread.

        The children of a child call it too, so a second call must be harmless. Signals wait until
        all callbacks have run. A callback never waits, and never takes a lock: another thread may
        have held it when the process was copied.
        """
        self._in_child.append(callback)

    def end_copy(self) -> None:
        """End this process if it is a copy of the server."""
        if os.getpid() != self._server:
            os._exit(0)

    def _give_up(self) -> None:
        # A stack calls each callback even if another one raises, and calls the last one first.
        with contextlib.ExitStack() as stack:
            for callback in reversed(self._in_child):
                stack.callback(callback)


def end_copy_with_its_step() -> None:
    """End a child that a task has forked as soon as the task's step ends; called in the child.

    The copy shares the epoll descriptor and the sockets with the server, and has all its jobs.
    """
    if trio.lowlevel.in_trio_run():
        trio.lowlevel.add_instrument(_EndsCopy())


class _EndsCopy(trio.abc.Instrument):
    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        os._exit(0)

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        os._exit(0)  # forked between two steps

    def before_io_wait(self, _timeout: float) -> None:
        os._exit(0)  # forked between two steps as well
