"""`ProcessPool`: the child processes of a pool, started on demand. No child outlives the server."""

import contextlib
import logging
import os
import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Self

import msgspec
import trio

from trio_jobs.error_text import Failure
from trio_jobs.handlers.child_handle import ChildHandle, NotBegunError, ProcessDiedError
from trio_jobs.handlers.frames import (
    Call,
    FileState,
    Function,
    Hello,
    Kind,
    Program,
    Settings,
    frame,
)
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.importing import imports_in_child
from trio_jobs.handlers.loaded_files import loaded_files, still_changed
from trio_jobs.handlers.process_group import beyond_standard_streams
from trio_jobs.handlers.running_job import RunningJob
from trio_jobs.handlers.start_shortage import ShortageError, StartShortage
from trio_jobs.retries import causes_of

log = logging.getLogger(__name__)

# Seconds that idle children get to exit by themselves. A child that takes longer is held up by
# something that a function has left behind.
_CLOSING_TIME = 0.5

# File descriptors that the server has for a child, and those that a child's start adds.
_DESCRIPTORS = 5
_STARTING_DESCRIPTORS = 8

# Seconds that a child gets to import its modules before its job counts as blocked.
_IMPORTING_TIME = 10.0

# Seconds until the next attempt when a child has died before it took its job.
_PAUSE_AFTER_DEATH = 0.1

# How many changed files a shortage's text names at most.
_NAMED_FILES = 10


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
        self._functions = tuple(functions)
        self._lifespan = lifespan
        self.closing_time = _CLOSING_TIME
        self.has_cut_lifespans = False
        self._shortage = shortage or StartShortage()
        self._folder = folder
        self._limiter = trio.CapacityLimiter(count or _processors())
        # Children are started in threads of this limiter: handlers may use up Trio's default one.
        self._starting = trio.CapacityLimiter(1)
        self._children: set[ChildHandle] = set()  # from their start to their end
        self._idle: list[ChildHandle] = []
        self._files: Mapping[str, FileState] = {}
        self._changed: list[FileState] = []
        self._closing = contextlib.ExitStack()
        self._open = False

    @property
    def number(self) -> int:
        """How many child processes there are now, those that start or end among them."""
        return len(self._children)

    @property
    def max_descriptors(self) -> int:
        """How many file descriptors the pool takes at most."""
        return _STARTING_DESCRIPTORS + _DESCRIPTORS * int(self._limiter.total_tokens)

    async def __aenter__(self) -> Self:
        if imports_in_child.get():
            raise RuntimeError(
                "a child process imports this program, to find a function that is defined in it:"
                " begin behind `if __name__ == '__main__':`, or define the function elsewhere"
            )
        self._files = loaded_files()
        if self._folder is None:
            self._folder = open_folder()
            if self._folder is not None:
                self._closing.callback(os.close, self._folder)
        os.register_at_fork(after_in_child=partial(_close_copies, weakref.ref(self)))
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open = False
        children = [*self._children]
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.closing_time):
                for child in children:
                    child.close_requests()
                for child in children:
                    await child.finish()  # noqa: ASYNC102 - bounded
            left = [child for child in children if not child.has_ended()]
            if left:
                self.has_cut_lifespans = self._lifespan is not None
                log.warning("processes_killed", extra={"count": len(left)})
        finally:
            for child in children:
                child.group.kill_group()
            for child in children:
                await self._end(child)  # noqa: ASYNC102 - bounded by itself
            self._idle.clear()
            self._closing.close()

    async def run(
        self, handler: Handler, running: RunningJob, *, max_result_bytes: int
    ) -> bytes | Failure:
        """Run a job in a child of its own, as soon as one is free.

        The job's clock starts when a child takes the job: the wait for a child does not count for
        the time limit.

        Args:
            handler: The handler, which the child finds by its name.
            running: The job.
            max_result_bytes: The largest result, as JSON.

        Returns:
            The result as JSON, or the description of the function's exception. If the child was
            killed or ended itself, this describes a `ProcessDiedError`, without a traceback.

        Cancellation:
            Kills the child and waits for its end. Not acted on once the function has ended.
        """
        call = Call(
            job_id=running.job.id,
            job_type=running.job.type,
            submitted_at=running.job.created_at,
            attempt=running.job.attempt,
            last_attempt=running.job.attempt >= handler.attempts,
            function=Function(handler.name, handler.spread),
            payload=msgspec.Raw(running.job.payload),
            trace=running.job.trace,
            max_result_bytes=max_result_bytes,
        )
        call_frame = frame(Kind.CALL, msgspec.json.encode(call))
        async with self._limiter:
            while True:
                # No checkpoint between these calls: no other job gets this child.
                child = await self._shortage.outlast(self._obtain)
                try:
                    answer = await child.call(
                        call_frame,
                        max_result_bytes=max_result_bytes,
                        started=partial(running.start_clock, handler.timeout),
                        ended=running.end,
                        reported=partial(running.note_report, trio.current_time),
                    )
                except NotBegunError:
                    running.take_back_start()
                    await self._end(child)
                    # Pause before the next attempt: another program may kill each new child.
                    with self._shortage.waiting("a process has ended before it took its job"):
                        await trio.sleep(_PAUSE_AFTER_DEATH)
                    continue
                except ProcessDiedError as error:
                    await self._end(child)
                    return Failure(
                        type=type(error).__name__,
                        message=str(error),
                        traceback="",
                        causes=causes_of(error),
                    )
                except BaseException:
                    await self._end(child)  # noqa: ASYNC102 - bounded by itself
                    raise
                if child.is_faulty:
                    await self._end(child)
                else:
                    self._idle.append(child)
                return answer

    async def _obtain(self) -> ChildHandle:
        if not self._open:
            raise RuntimeError("the processes are used outside of their block")
        # Reap all: the child that became idle last is taken first, so others may be dead for long.
        for child in [each for each in self._idle if each.has_ended()]:
            if child in self._idle:  # unless another job has reaped it meanwhile
                self._idle.remove(child)
                await self._end(child)
        return self._idle.pop() if self._idle else await self._start()

    async def _start(self) -> ChildHandle:
        child = ChildHandle()
        self._children.add(child)
        try:
            try:
                await trio.to_thread.run_sync(self._spawn, child, limiter=self._starting)
            except (OSError, MemoryError) as error:
                text = str(error) or type(error).__name__
                raise ShortageError(f"no process can be started: {text}") from error
            except RuntimeError as error:  # from Trio; `_spawn` raises no RuntimeError
                raise ShortageError(f"no thread can be started: {error}") from error
            await self._greet(child)
        except BaseException:
            await self._end(child)  # noqa: ASYNC102 - bounded by itself
            raise
        return child

    async def _greet(self, child: ChildHandle) -> None:
        hello: Hello | None = None
        with trio.move_on_after(_IMPORTING_TIME):
            hello = await child.greet(self._settings())
        if hello is None:  # the imports may take any time, or hang
            cause = f"a process is still importing its modules after {_IMPORTING_TIME:g} s"
            with self._shortage.waiting(cause):
                hello = await child.greet()
        if hello.changed:
            self._changed = [each for each in self._files.values() if each.file in hello.changed]
            raise ShortageError(_code_changed(hello.changed))
        if hello.shortage is not None:
            raise ShortageError(f"a process cannot import the handlers: {hello.shortage}")

    def _spawn(self, child: ChildHandle) -> None:
        # Without this check a child would import everything, and find the same change again.
        if self._changed and still_changed(self._changed):
            raise ShortageError(_code_changed(each.file for each in self._changed))
        child.spawn(folder=self._folder)

    def _settings(self) -> bytes:
        settings = Settings(
            path=sys.path,
            arguments=sys.argv,
            functions=[*self._functions],
            lifespan=self._lifespan,
            program=_program()
            if any(each.name.startswith("__main__:") for each in self._functions)
            else None,
            files=self._files,
            log_level=logging.getLogger().getEffectiveLevel(),
        )
        return frame(Kind.SETTINGS, msgspec.json.encode(settings))

    async def _end(self, child: ChildHandle) -> None:
        self._children.discard(child)  # first: a kill that raises must not leave the child in here
        await child.kill()


def open_folder() -> int | None:
    """A descriptor of the current folder, which stays valid if the folder is moved or removed.

    None if the folder cannot be opened: it has been removed already.
    """
    how = getattr(os, "O_PATH", os.O_RDONLY)  # the folder need not be readable
    try:
        return beyond_standard_streams(os.open(".", how | os.O_DIRECTORY))
    except OSError:
        return None


def _close_copies(pool: "weakref.ref[ProcessPool]") -> None:
    # Runs in a forked copy of the server: its write ends would keep the children's lifelines open.
    found = pool()
    if found is not None:
        for child in found._children:
            child.close()


def _program() -> Program:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return Program(module=None if spec is None else spec.name, file=getattr(main, "__file__", None))


def _code_changed(files: Iterable[str]) -> str:
    named = sorted(set(files))
    more = f" and {len(named) - _NAMED_FILES} more" if len(named) > _NAMED_FILES else ""
    return f"code_changed files={','.join(named[:_NAMED_FILES])}{more}"


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
