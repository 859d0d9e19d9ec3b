"""`Processes`: the server's child processes, spawned on demand; none outlives the server."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache, partial
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, Self, TypeVar

import trio

from trio_jobs.handlers import child
from trio_jobs.handlers.errors import DescribedError, Failure

log = logging.getLogger(__name__)

# Seconds that idle children get to end by themselves. They only wait for their
# pipe to close; one that takes longer is held up by what a function left behind.
_CLOSING_TIME = 0.5

_STARTING_ATTEMPTS = 3

# Seconds that a child whose pipe has closed gets to end by itself, so that it can be told how.
_DYING_TIME = 0.5

# A child takes four or five descriptors here for as long as it lives, one more while it runs a job,
# and six more while it starts, which several do at the same time, but never all for long: as
# measured, 11 for one, 25 for four.
_DESCRIPTORS = 8

_T = TypeVar("_T")


class ProcessDiedError(Exception):
    """The process that ran a job has died; the text says how."""


class ChildError(DescribedError):
    """A function raised in a child process; the text is the traceback there, for the log."""


class _Statistics(Protocol):
    idle_workers: int


class _WorkerContext(Protocol):
    """The part of trio-parallel's ``WorkerContext`` that is used here; it has no types."""

    def statistics(self) -> _Statistics: ...

    async def run_sync(
        self,
        sync_fn: Callable[..., _T],
        *args: object,
        kill_on_cancel: bool,
        limiter: contextlib.AbstractAsyncContextManager[Any],
    ) -> _T: ...


class Processes:
    """The server's child processes, for the length of an ``async with`` block.

    The jobs have to end before the block does. Leaving it is bounded, and is
    not cancelled: idle processes end at once, and those that do not are killed.

    Args:
        count: How many there are at the most; None for as many as there are
            processors that this one may use.
        names: The functions that will run there: a process imports them when it
            starts.
    """

    def __init__(self, count: int | None = None, *, names: Sequence[str] = ()) -> None:
        self._names = tuple(names)
        self._limiter = trio.CapacityLimiter(count or _processors())
        self._opening: contextlib.AbstractAsyncContextManager[_WorkerContext] | None = None
        self._context: _WorkerContext | None = None

    @property
    def max_descriptors(self) -> int:
        """How many file descriptors this may take in this process."""
        return _DESCRIPTORS * (1 + int(self._limiter.total_tokens))

    async def __aenter__(self) -> Self:
        # Here, so that the start of a server without process handlers does not
        # pay for it.
        import trio_parallel

        self._opening = trio_parallel.open_worker_context(
            init=child.prepare, grace_period=_CLOSING_TIME
        )
        self._context = await self._opening.__aenter__()
        if sys.platform == "linux":
            # There is no public way to choose another class.
            self._context.__dict__["_worker_class"] = _worker_class()
        return self

    async def __aexit__(self, *_: object) -> None:
        from trio_parallel import BrokenWorkerError

        assert self._opening is not None  # noqa: S101  (for the type checker: it was entered)
        try:
            # Without what has ended the block, so that nothing takes its place.
            await self._opening.__aexit__(None, None, None)  # noqa: ASYNC102 - bounded by itself
        except BrokenWorkerError as error:
            log.warning("processes_killed", extra={"cause": str(error.args[0])})
        finally:
            # They hold the pipes of the children that have ended.
            self._opening = self._context = None

    async def run(
        self,
        name: str,
        payload: bytes,
        *,
        max_result_bytes: int,
        started: Callable[[], None],
    ) -> bytes:
        """Run a function in a process of its own, when one is free.

        Args:
            name: The function's, as ``"package.module:qualified.name"``.
            payload: What to call it with, as JSON.
            max_result_bytes: The largest result, as JSON.
            started: Called when there is a process and the function begins:
                waiting for one is not the function's time.

        Returns:
            The result, as JSON.

        Raises:
            ChildError: The function raised.
            ProcessDiedError: The process was killed, or ended itself.

        Cancellation:
            Kills the process with the function in it, and waits for its end.
        """
        function = partial(child.run_handler, max_result_bytes=max_result_bytes)
        async with self._limiter:
            # Nothing waits between here and the last call's choice of a process:
            # it gets the one that is idle, or has just started.
            if not self._open.statistics().idle_workers:
                await self._start_one()
            started()
            try:
                result = await self._call(function, name, payload)
            except _BrokenError as error:
                raise ProcessDiedError(f"the process that ran the job {error}") from error
        if isinstance(result, Failure):
            raise ChildError(f'\n"""\n{result.traceback}"""', result.error)
        return result

    @property
    def _open(self) -> _WorkerContext:
        if self._context is None:
            raise RuntimeError("the processes are used outside of their block")
        return self._context

    async def _start_one(self) -> None:
        # Apart from the job, because a child that has not got as far as ignoring
        # the signals meant for the server is killed by them. Nothing has begun
        # then, and it can be tried again.
        for attempt in range(1, _STARTING_ATTEMPTS + 1):
            try:
                await self._call(child.ready, self._names)
            except _BrokenError as error:
                if attempt == _STARTING_ATTEMPTS:
                    raise ProcessDiedError(
                        f"no process could be started for the job: each {error} at once (a program"
                        " that starts the server itself must do so behind"
                        " `if __name__ == '__main__':`)"
                    ) from error
            else:
                break

    async def _call(self, function: Callable[..., _T], *args: object) -> _T:
        from trio_parallel import BrokenWorkerError

        try:
            # Our own limiter has been passed already; this one does not wait.
            return await self._open.run_sync(
                function, *args, kill_on_cancel=True, limiter=contextlib.nullcontext()
            )
        except BrokenWorkerError as error:
            raise _BrokenError(_how_it_died(error.args[-1].exitcode)) from error


@cache
def _worker_class() -> type:
    """trio-parallel's worker, with another start and another end.

    A child gets the signals that are meant for the server until it has ignored
    them; of this one they wait. And the end of a child is waited for in the
    event loop alone: theirs looks at a pipe, and then blocks until the process
    has ended, for as long as that likes if it has closed its descriptors. Nor is
    a pipe's end the child's: what that has forked holds the pipe as well.
    """
    from trio_parallel import BrokenWorkerError
    from trio_parallel._proc import SpawnProcWorker

    class Worker(SpawnProcWorker):  # type: ignore[misc]
        _has_ended = False

        async def start(self) -> None:
            async with self._ended_by_failure():
                await trio.to_thread.run_sync(_start_deaf, self.proc)
                # To see the child close them.
                self._child_send_pipe.close()
                self._child_recv_pipe.close()

        async def run_sync(self, sync_fn: Callable[..., object], *args: object) -> object:
            async with self._ended_by_failure():
                with trio.CancelScope() as answering:
                    async with _cut_off_by_end(self.proc.pid, answering):
                        return await super().run_sync(sync_fn, *args)
                # Left by its own cancellation alone: then the child has been waited for.
                raise BrokenWorkerError("Worker died unexpectedly:", self.proc)

        @contextlib.asynccontextmanager
        async def _ended_by_failure(self) -> AsyncIterator[None]:
            # Whatever it is that fails, also when the answer has come: a child that is neither idle
            # nor killed would be nobody's, and hold up the end of the program.
            try:
                yield
            except BaseException:
                if self._may_live():
                    self.kill()
                    with trio.CancelScope(shield=True):
                        await self.wait()  # noqa: ASYNC102 - bounded by itself
                self._close()
                raise

        def _close(self) -> None:
            # The traceback of what has failed holds this object, and may be part of a cycle: these
            # descriptors would stay open until the garbage collector comes by.
            for pipe in (
                self._send_pipe,
                self._recv_pipe,
                self._child_send_pipe,
                self._child_recv_pipe,
            ):
                pipe.close()
            if self.proc.pid is not None:
                self.proc._popen.close()  # and not `proc` itself, which is asked how it has died

        def _may_live(self) -> bool:
            # How it has ended nobody knows where the end of children is ignored, or awaited by
            # somebody else. Its pid may be another's then.
            return self.proc.pid is not None and not self._has_ended and self.proc.exitcode is None

        async def wait(self) -> int | None:
            if self._may_live():
                try:
                    await _ended(self.proc.pid, self.kill)
                    self._has_ended = True
                except OSError:  # an old kernel, or no descriptor is left
                    with trio.move_on_after(_DYING_TIME):
                        await trio.lowlevel.wait_readable(self.proc.sentinel)
                    self.kill()  # or joining it would block
                    self.proc.join()
            status: int | None = await super().wait()
            return status

    return Worker


def _start_deaf(process: BaseProcess) -> None:
    """Start a child in which SIGINT and SIGTERM are blocked; `child.prepare` lets them go."""
    # Its start would unblock them.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, child.MEANT_FOR_THE_SERVER)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _ended(pid: int, kill: Callable[[], None]) -> None:
    """Wait for a child's end, and kill it if it takes too long."""
    process = os.pidfd_open(pid)
    try:
        with trio.move_on_after(_DYING_TIME):
            await trio.lowlevel.wait_readable(process)
            return
        kill()
        await trio.lowlevel.wait_readable(process)
    finally:
        os.close(process)


@contextlib.asynccontextmanager
async def _cut_off_by_end(pid: int, answering: trio.CancelScope) -> AsyncIterator[None]:
    """Give the block inside the scope little time to end by itself once the process has ended."""
    try:
        process = os.pidfd_open(pid)
    except OSError:  # it has ended already; or as in `Worker.wait`, and the pipe must do
        yield
        return

    async def set_deadline() -> None:
        await trio.lowlevel.wait_readable(process)
        # All that it has answered is in the pipe.
        answering.deadline = trio.current_time() + _DYING_TIME

    failure = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(set_deadline)
            yield
            # The block has its answer. To be cancelled only now, while the task ends, would leave
            # a child that is neither idle nor killed, and nobody's.
            nursery.cancel_scope.shield = True
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The group is the nursery's doing.
        if len(group.exceptions) > 1:
            raise
        failure = group.exceptions[0]
    finally:
        os.close(process)
    if failure is not None:
        raise failure


class _BrokenError(Exception):
    """A child process has died; the text says how, as a predicate."""


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is None:
        return "has ended"  # and somebody else was told how
    if exit_code < 0:
        return f"was killed by signal {-exit_code} ({signal.strsignal(-exit_code)})"
    return f"ended itself with status {exit_code}"
