"""`VirtualTime`: a mock clock that jumps only while no thread and no program is at work.

Trio's mock clock jumps to the next deadline as soon as all tasks wait, also if a task waits for a
thread. So the time limit of a handler in a thread would pass before the thread has begun.
"""

import functools
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio._threads
import trio.testing

from trio_jobs.testing.thread_sleep import patch_sleep

if TYPE_CHECKING:  # a test without handlers on asyncio does not import asyncio
    from trio_jobs.testing.virtual_loop import VirtualLoop

# Trio's record of the task that waits for a thread: its only item is None once the task has
# abandoned the thread.
_Register = list[trio.lowlevel.Task | None]

_of_run: trio.lowlevel.RunVar["VirtualTime | None"] = trio.lowlevel.RunVar("virtual_time", None)


def current_virtual_time() -> "VirtualTime | None":
    """The `VirtualTime` of this run; None if the run has none."""
    return _of_run.get()


class VirtualTime(trio.abc.Instrument):
    """Holds a mock clock while a thread, a program or asyncio is at work.

    At work is each thread that a task waits for in `trio.to_thread.run_sync`, and each program that
    a task waits for in `trio.Process.wait`. A thread that waits for Trio in `trio.from_thread.run`
    is not at work. Nor is a thread that its task has abandoned, since no task waits for it. When an
    event loop of `loop_to_come` is at work, `VirtualLoop` says.

    Args:
        clock: The clock of the run that has this instrument. While something is at work, the
            clock's ``autojump_threshold`` is infinite.
    """

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._clock = clock
        self._programs = 0
        self._waiting_for_trio: dict[int, _Register] = {}
        self._loops_to_come = 0
        self._loops: set[VirtualLoop] = set()
        self._is_held = False
        self._threshold = math.inf

    @property
    def jumps(self) -> bool:
        """Whether the clock jumps by itself while nothing is at work."""
        return (self._threshold if self._is_held else self._clock.autojump_threshold) < math.inf

    def before_run(self) -> None:
        """Take note of the run."""
        self._token = trio.lowlevel.current_trio_token()
        _of_run.set(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        """Hold or release the clock: threads and programs start and end within tasks' steps."""
        # `before_io_wait` would be too late: Trio has read the threshold by then.
        at_work = trio.testing.active_thread_count() + self._programs + self._loops_to_come
        if self._waiting_for_trio:
            at_work -= sum(each[0] is not None for each in self._waiting_for_trio.values())
        if self._loops:
            at_work += sum(loop.is_at_work() for loop in self._loops)
        if self._is_held == (at_work > 0):
            return
        self._is_held = not self._is_held
        if self._is_held:
            self._threshold = self._clock.autojump_threshold
            self._clock.autojump_threshold = math.inf
        else:
            self._clock.autojump_threshold = self._threshold

    @contextmanager
    def loop_to_come(self) -> Iterator[Callable[[], "VirtualLoop"]]:
        """A block in which asyncio is at work until a loop is made that follows the clock.

        It gives the function that makes the loop, to be called once, in the loop's thread.
        """
        from trio_jobs.testing.virtual_loop import VirtualLoop, patch_programs

        patch_programs(self._patch)
        has_come = False

        def make() -> VirtualLoop:
            loop = VirtualLoop(self._clock, self._token, self._loops.remove)
            self._token.run_sync_soon(note, loop)
            return loop

        def note(loop: VirtualLoop) -> None:
            nonlocal has_come
            has_come = True
            self._loops_to_come -= 1
            self._loops.add(loop)

        self._loops_to_come += 1
        try:
            yield make
        finally:
            if not has_come:
                self._loops_to_come -= 1

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Within the block, `time.sleep` waits by the clock in each thread that a task waits for.

        It waits by real time in every other thread. Nothing interrupts it, as in reality. The block
        must be around the run: in it, the instrument also learns of programs, and of threads that
        wait for Trio.
        """
        with pytest.MonkeyPatch.context() as patch:
            # All of `trio.from_thread` calls this function. A patch of `trio.from_thread.run`
            # would miss each module that has imported it by name, and its threads would hang.
            send = functools.partial(self._send, trio._threads._send_message_to_trio)
            patch.setattr(trio._threads, "_send_message_to_trio", send)
            patch.setattr(trio.Process, "wait", self._counted_wait(trio.Process.wait))
            patch_sleep(patch)
            self._patch = patch
            yield

    def _send(
        self,
        send: Callable[..., object],
        token: trio.lowlevel.TrioToken | None,
        message: trio._threads.Run[Any] | trio._threads.RunSync[Any],
    ) -> object:
        # A `RunSync` needs no count: Trio answers it as soon as it takes it.
        register: _Register | None = getattr(trio._threads.PARENT_TASK_DATA, "task_register", None)
        if register is not None and isinstance(message, trio._threads.Run):
            function = functools.partial(self._call_for_thread, register, message.afn)
            message = trio._threads.Run(function, message.args)
        return send(token, message)

    async def _call_for_thread(
        self, register: _Register, function: Callable[..., Awaitable[object]], *args: object
    ) -> object:
        if trio.lowlevel.current_clock() is not self._clock:  # another run's thread
            return await function(*args)
        self._waiting_for_trio[id(register)] = register
        try:
            return await function(*args)
        finally:
            del self._waiting_for_trio[id(register)]

    def _counted_wait(
        self, wait: Callable[[trio.Process], Awaitable[int]]
    ) -> Callable[[trio.Process], Awaitable[int]]:
        async def counted_wait(process: trio.Process) -> int:
            if trio.lowlevel.current_clock() is not self._clock:
                return await wait(process)
            self._programs += 1
            try:
                return await wait(process)
            finally:
                self._programs -= 1

        return counted_wait
