"""`ProcessPool`: the child processes of a pool, started on demand. No child outlives the server."""

import contextlib
import logging
import os
import types
import weakref
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from typing import Self

import msgspec
import trio

from trio_jobs.error_text import Failure
from trio_jobs.handlers.call_queue import CallQueue
from trio_jobs.handlers.child_call import ChildCall, Pace
from trio_jobs.handlers.child_handle import LOST, ChildHandle, EndedError
from trio_jobs.handlers.child_start import ChildStarter
from trio_jobs.handlers.frames import Call, Function, Kind, frame
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.importing import imports_in_child
from trio_jobs.handlers.process_group import EXIT_TIME
from trio_jobs.handlers.running_job import RunningJob
from trio_jobs.handlers.start_shortage import ShortageError, StartShortage
from trio_jobs.retries import ProcessDied, causes_of

log = logging.getLogger(__name__)

# Seconds that idle children get to exit by themselves. A child that takes longer is held up by
# something that a function has left behind.
_CLOSING_TIME = 0.5

# File descriptors that the server has for a child, and those that a child's start adds.
_DESCRIPTORS = 6
_STARTING_DESCRIPTORS = 9

# Seconds until the next attempt when a child has died before it took its job.
_PAUSE_AFTER_DEATH = 0.1


class ProcessDiedError(ProcessDied):
    """The process that ran a job has died; the text says how."""


class ProcessPool:
    """Runs functions in child processes, for the length of an ``async with`` block.

    The caller ends all jobs before it leaves the block. Leaving takes bounded time and cannot be
    cancelled: idle children exit at once, and the pool kills those that do not.

    Args:
        count: How many children there are at most; None for the number of processors that this
            process may use.
        functions: The functions; a child imports all of them when it starts.
        lifespan: The name of the lifespan that each child enters when it starts, and leaves when it
            exits by itself; None for none.
        shortage: Holds the jobs for which no child can be started.
        folder: A descriptor of the folder that children start in; None for the current folder
            when the block is entered.

    Attributes:
        closing_time: Seconds that idle children get at the end to exit by themselves.
        has_cut_lifespans: Whether a child with a lifespan has not exited in that time.
    """

    def __init__(
        self,
        count: int | None = None,
        *,
        functions: Sequence[Function] = (),
        lifespan: str | None = None,
        shortage: StartShortage | None = None,
        folder: int | None = None,
    ) -> None:
        self._lifespan = lifespan
        self.closing_time = _CLOSING_TIME
        self.has_cut_lifespans = False
        self._shortage = shortage or StartShortage()
        self._starter = ChildStarter(functions, lifespan, self._shortage, folder)
        self._count = count or _processors()
        self._queue = CallQueue(self._count, taken=self._shortage.note_change)
        self._paces: dict[str, Pace] = {}  # by the names of the handlers
        self._children: set[ChildHandle] = set()  # from their start to their end
        self._nurseries = contextlib.AsyncExitStack()
        self._nursery: trio.Nursery | None = None  # of the tasks that take the children's answers
        self._context = copy_context()  # theirs: that of no job
        self._open = False

    @property
    def number(self) -> int:
        """How many child processes there are now, those that start or end among them."""
        return len(self._children)

    @property
    def max_descriptors(self) -> int:
        """How many file descriptors the pool takes at most."""
        return _STARTING_DESCRIPTORS + _DESCRIPTORS * self._count

    async def __aenter__(self) -> Self:
        if imports_in_child.get():
            raise RuntimeError(
                "a child process imports this program, to find a function that is defined in it:"
                " begin behind `if __name__ == '__main__':`, or define the function elsewhere"
            )
        self._starter.open()
        os.register_at_fork(after_in_child=partial(_close_copies, weakref.ref(self)))
        self._context = copy_context()
        self._nursery = await self._nurseries.enter_async_context(trio.open_nursery())
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._open = False
        children = [*self._children]
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.closing_time):
                for child in children:
                    child.close_requests()
                for child in children:
                    await child.gone.wait()  # noqa: ASYNC102 - bounded
            left = [child for child in children if not child.has_ended()]
            if left:
                self.has_cut_lifespans = self._lifespan is not None
                log.warning("processes_killed", extra={"count": len(left)})
        finally:
            for child in children:
                child.stop()
            try:
                await self._nurseries.__aexit__(kind, error, traceback)  # noqa: ASYNC102 - as `stop`
            except BaseExceptionGroup as group:
                # The nursery puts the block's own error into a group; that one goes on by itself.
                if [*group.exceptions] != [error]:
                    raise
            finally:
                self._starter.close()

    async def run(
        self, handler: Handler, running: RunningJob, *, max_result_bytes: int
    ) -> bytes | Failure:
        """Run a job in a child, as soon as one is free.

        Jobs that are short by what is expected wait in a child, behind the one that runs there. The
        job's clock starts when the function begins: no wait counts for the time limit.

        Args:
            handler: The handler, which the child finds by its name.
            running: The job.
            max_result_bytes: The largest result, as JSON.

        Returns:
            The result as JSON, or the description of the function's exception. If the child was
            killed or ended itself, this describes a `ProcessDiedError`, without a traceback.

        Cancellation:
            If the function may have begun, this kills the child and waits for its end. The jobs
            behind it go to other children. Not acted on once the function has ended.
        """
        if not self._open:
            raise RuntimeError("the processes are used outside of their block")
        call = self._call(handler, running, max_result_bytes)
        self._queue.add(call)
        try:
            while call.answer is None:
                if call.starts:
                    await self._start_for(call)
                elif call.is_returned:
                    await self._run_again(call)
                elif call.is_unsent and (child := self._child_of(call)) is not None:
                    await child.send_rest(call)
                else:
                    await call.wait()
        except BaseException as error:  # noqa: ASYNC103 - an answer counts more than a cancellation
            await self._give_up(call, may_answer=isinstance(error, trio.Cancelled))  # noqa: ASYNC102
            if call.answer is None or not isinstance(error, trio.Cancelled):
                raise
        return call.answer

    def _call(self, handler: Handler, running: RunningJob, max_result_bytes: int) -> ChildCall:
        job = running.job
        call = Call(
            job_id=job.id,
            job_type=job.type,
            submitted_at=job.created_at,
            attempt=job.attempt,
            last_attempt=job.attempt >= handler.attempts,
            function=Function(handler.name, handler.spread),
            payload=msgspec.Raw(job.payload),
            trace=job.trace,
            max_result_bytes=max_result_bytes,
        )
        pace = self._paces.get(handler.name)
        if pace is None:
            pace = self._paces[handler.name] = Pace()
        return ChildCall(
            frame(Kind.CALL, msgspec.json.encode(call)),
            running,
            timeout=handler.timeout,
            pace=pace,
            max_result_bytes=max_result_bytes,
            # A crash of the server ends the jobs of such a handler, and a job with interruptions
            # may be the one that causes crashes. Neither waits in a child with others.
            alone=not handler.repeatable or job.interruptions > 0,
        )

    def _child_of(self, call: ChildCall) -> ChildHandle | None:
        return next((child for child in self._children if call in child.calls), None)

    async def _run_again(self, call: ChildCall) -> None:
        """Let a job wait for a child again whose child has died before it began the job."""
        call.is_returned = False
        # Pause before the next attempt: another program may kill each new child.
        with self._shortage.waiting("a process has ended before it took its job"):
            await trio.sleep(_PAUSE_AFTER_DEATH)
        self._queue.put_back([call])

    async def _give_up(self, call: ChildCall, *, may_answer: bool) -> None:
        """Make sure that a job whose task is cancelled does not run, or no longer.

        A kill ends the child's first job alone. Those behind it have not begun, and never will in
        this child.

        Args:
            call: The job.
            may_answer: Whether to wait for the rest of the answer if the function has ended.
        """
        child = self._child_of(call)
        if child is None:
            self._queue.take(call)
            if call.starts:  # its task was woken, and cancelled before
                self._queue.note_ended()
            return
        if not child.calls.is_first(call) and child.calls.take_back([call]):
            self._queue.note_change(child)
            return
        others = [each for each in child.calls.take_back() if each is not call]
        if call in child.calls.returned:  # the child has skipped it, and may run the next one
            child.calls.returned.remove(call)
            self._queue.note_change(child)
            self._queue.put_back(others)
            return
        if call.answer is None and may_answer and child.calls.first_has_ended:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + EXIT_TIME):
                while call.answer is None:
                    await call.wait()
        if call.answer is not None:
            self._queue.note_change(child)
            self._queue.put_back(others)
            return
        others += child.calls.returned
        child.stop()
        self._queue.leave(child)
        self._queue.put_back(others)
        with trio.CancelScope(shield=True):
            await child.gone.wait()

    async def _start_for(self, call: ChildCall) -> None:
        """Start a child for this job, unless another child gets the job meanwhile."""
        started = False
        try:
            started = await self._shortage.outlast(partial(self._try_start, call))
        finally:
            call.starts = False
            if not started:
                self._queue.note_ended()

    async def _try_start(self, call: ChildCall) -> bool:
        if call.is_waiting and not self._queue.take(call):
            return False
        call.is_waiting = False
        try:
            child = await self._start()
        except ShortageError:
            # Until the next attempt the job waits as the others do.
            call.is_waiting = True
            self._queue.put_back([call])
            raise
        self._queue.join(child, call)
        assert self._nursery is not None  # noqa: S101 - for the type checker
        self._context.run(self._nursery.start_soon, self._serve, child)
        return True

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, child: ChildHandle) -> None:
        """Take a child's answers until its end; then decide about the jobs that it has left."""
        try:
            await self._serve_and_end(child)
        finally:
            child.gone.set()
            self._queue.note_ended()

    async def _serve_and_end(self, child: ChildHandle) -> None:
        lost: Exception | None = None
        try:
            await child.serve(partial(self._queue.note_change, child))
        except LOST as error:
            lost = error
        self._queue.leave(child)
        with trio.CancelScope(shield=True):
            if not isinstance(lost, EndedError):
                child.group.kill_group()
            how = await child.group.wait_cause()  # no further job begins in it
            if not isinstance(lost, EndedError):
                how = f"gave no answer that can be understood: {lost}"
            died, others = child.calls.left_behind()
            await self._end(child)
        for call in died:
            call.answer = _death(f"the process that ran the job {how}")
            call.wake()
        if others and not died:
            first = others.pop(0)
            first.is_returned = True
            first.running.take_back_start()
            first.wake()
        self._queue.put_back(others)

    async def _start(self) -> ChildHandle:
        child = ChildHandle()
        self._children.add(child)
        try:
            await self._starter.start(child)
        except BaseException:
            await self._end(child)  # noqa: ASYNC102 - bounded by itself
            raise
        return child

    async def _end(self, child: ChildHandle) -> None:
        self._children.discard(child)  # first: a kill that raises must not leave the child in here
        await child.kill()


def _death(text: str) -> Failure:
    error = ProcessDiedError(text)
    return Failure(type=type(error).__name__, message=text, traceback="", causes=causes_of(error))


def _close_copies(pool: "weakref.ref[ProcessPool]") -> None:
    # Runs in a forked copy of the server: its write ends would keep the children's lifelines open.
    found = pool()
    if found is not None:
        for child in found._children:
            child.close()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
