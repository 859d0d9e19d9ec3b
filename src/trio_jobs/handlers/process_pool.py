"""`ProcessPool`: a pool's child processes, started on demand; none outlives the server."""

import contextlib
import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Self

import msgspec
import trio

from trio_jobs.error_text import Failure
from trio_jobs.handlers.child import (
    ChildProcess,
    NotBegunError,
    ProcessDiedError,
    beyond_standard_streams,
)
from trio_jobs.handlers.frames import (
    Call,
    FileState,
    Hello,
    Kind,
    Program,
    Settings,
    frame,
)
from trio_jobs.handlers.importing import imports_in_child
from trio_jobs.handlers.loaded_files import loaded_files, still_changed
from trio_jobs.handlers.start_shortage import ShortageError, StartShortage
from trio_jobs.job import JobError

log = logging.getLogger(__name__)

# Seconds that idle children get to end by themselves. They only wait for their
# pipe to close; one that takes longer is held up by what a function left behind.
_CLOSING_TIME = 0.5

# Descriptors here: of a child, as long as it lives; and of one that is being started, beside them.
_DESCRIPTORS = 5
_STARTING_DESCRIPTORS = 8

# Seconds that a process gets to import its modules before jobs count as blocked by that.
_IMPORTING_TIME = 10.0

# Seconds until another process is tried, where one has died idle.
_PAUSE_AFTER_DEATH = 0.1

# How many changed files are named, at the most.
_NAMED_FILES = 10


class ProcessPool:
    """The server's child processes, for the length of an ``async with`` block.

    The jobs have to end before the block does. Leaving it is bounded, and is
    not cancelled: idle processes end at once, and those that do not are killed.

    Args:
        count: How many there are at the most; None for as many as there are
            processors that this one may use.
        names: The functions that will run there: a process imports them when it
            starts.
        shortage: Where jobs wait for which no process can be started.
        folder: A descriptor of the folder that processes start in; None for
            this process's own, as it is when the block is entered.
    """

    def __init__(
        self,
        count: int | None = None,
        *,
        names: Sequence[str] = (),
        shortage: StartShortage | None = None,
        folder: int | None = None,
    ) -> None:
        self._names = tuple(names)
        self._shortage = shortage or StartShortage()
        self._folder = folder
        self._limiter = trio.CapacityLimiter(count or _processors())
        # For the threads that start processes. Trio's own limiter is everybody's: handlers may
        # hold all of it for ever.
        self._starting = trio.CapacityLimiter(1)
        # Whoever starts one adds it, and takes it out when it has ended.
        self._children: set[ChildProcess] = set()
        self._idle: list[ChildProcess] = []
        self._files: Mapping[str, FileState] = {}
        self._changed: list[FileState] = []
        self._closing = contextlib.ExitStack()
        self._open = False

    @property
    def max_descriptors(self) -> int:
        """How many file descriptors this may take in this process."""
        return _STARTING_DESCRIPTORS + _DESCRIPTORS * int(self._limiter.total_tokens)

    @property
    def idle(self) -> int:
        """How many processes wait for a job."""
        return len(self._idle)

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
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSING_TIME):
                for child in children:
                    child.close_requests()
                for child in children:
                    await child.finish()  # noqa: ASYNC102 - bounded
            left = [child for child in children if not child.has_ended()]
            if left:
                log.warning("processes_killed", extra={"count": len(left)})
        finally:
            for child in children:
                child.kill_group()
            for child in children:
                await self._end(child)  # noqa: ASYNC102 - bounded by itself
            self._idle.clear()
            self._closing.close()

    async def run(
        self,
        name: str,
        payload: bytes,
        *,
        job_id: str = "",
        max_result_bytes: int,
        started: Callable[[], None],
        start_taken_back: Callable[[], None] = lambda: None,
        ended: Callable[[float], object] = lambda _: None,
    ) -> bytes | Failure:
        """Run a function in a process of its own, when one is free.

        Args:
            name: The function's, as ``"package.module:qualified.name"``.
            payload: What to call it with, as JSON.
            job_id: The job's, for what the function logs.
            max_result_bytes: The largest result, as JSON.
            started: Called when there is a process and the function begins:
                waiting for one is not the function's time.
            start_taken_back: Called when it has not begun after all, because
                the process had died before; another one is looked for.
            ended: Called with when the function ended, by Trio's clock, before
                all of its answer has come.

        Returns:
            The result, as JSON, or what the function raised; a process that was
            killed or has ended itself is a `ProcessDiedError` without a traceback.

        Cancellation:
            Kills the process with the function in it, and waits for its end;
            unless the function has ended: then its answer is returned.
        """
        call = frame(
            Kind.CALL,
            msgspec.json.encode(
                Call(
                    job_id=job_id,
                    name=name,
                    payload=msgspec.Raw(payload),
                    max_result_bytes=max_result_bytes,
                )
            ),
        )
        async with self._limiter:
            while True:
                # Nothing waits between its choice and the call: the child is nobody else's.
                child = await self._shortage.outlast(self._obtain)
                try:
                    answer = await child.call(
                        call, max_result_bytes=max_result_bytes, started=started, ended=ended
                    )
                except NotBegunError:
                    start_taken_back()
                    await self._end(child)
                    # Not again at once: whoever has killed it may kill them all.
                    with self._shortage.waiting("a process has ended before it took its job"):
                        await trio.sleep(_PAUSE_AFTER_DEATH)
                    continue
                except ProcessDiedError as error:
                    await self._end(child)
                    died = JobError(type=type(error).__name__, message=str(error))
                    return Failure(error=died, traceback="")
                except BaseException:
                    await self._end(child)  # noqa: ASYNC102 - bounded by itself
                    raise
                if child.is_faulty:  # the next job gets one that imports everything again
                    await self._end(child)
                else:
                    self._idle.append(child)
                return answer

    async def _obtain(self) -> ChildProcess:
        if not self._open:
            raise RuntimeError("the processes are used outside of their block")
        # All of them: the last one that became idle is the first to be taken, and others may have
        # ended long ago.
        for child in [each for each in self._idle if each.has_ended()]:
            if child in self._idle:  # or another job has seen to it meanwhile
                self._idle.remove(child)
                await self._end(child)
        return self._idle.pop() if self._idle else await self._start()

    async def _start(self) -> ChildProcess:
        child = ChildProcess()
        self._children.add(child)
        try:
            try:
                await trio.to_thread.run_sync(self._spawn, child, limiter=self._starting)
            except (OSError, MemoryError) as error:
                text = str(error) or type(error).__name__
                raise ShortageError(f"no process can be started: {text}") from error
            except RuntimeError as error:  # Trio's: what the thread runs raises none
                raise ShortageError(f"no thread can be started: {error}") from error
            hello = await self._greet(child)
        except BaseException:
            await self._end(child)  # noqa: ASYNC102 - bounded by itself
            raise
        if hello.changed:
            self._changed = [each for each in self._files.values() if each.file in hello.changed]
            shortage = _code_changed(hello.changed)
        elif hello.shortage is not None:
            shortage = f"a process cannot import the handlers: {hello.shortage}"
        else:
            return child
        await self._end(child)
        raise ShortageError(shortage)

    async def _greet(self, child: ChildProcess) -> Hello:
        with trio.move_on_after(_IMPORTING_TIME):
            return await child.greet(self._settings())
        # It may take as long as it likes, or hang: no event tells.
        cause = f"a process is still importing its modules after {_IMPORTING_TIME:g} s"
        with self._shortage.waiting(cause):
            return await child.greet()

    def _spawn(self, child: ChildProcess) -> None:
        # Before a process imports everything once more, only to find out the same.
        if self._changed and still_changed(self._changed):
            raise ShortageError(_code_changed(each.file for each in self._changed))
        child.spawn(folder=self._folder)

    def _settings(self) -> bytes:
        settings = Settings(
            path=sys.path,
            arguments=sys.argv,
            names=[*self._names],
            program=_program() if any(map(_is_in_program, self._names)) else None,
            files=self._files,
            log_level=logging.getLogger().getEffectiveLevel(),
        )
        return frame(Kind.SETTINGS, msgspec.json.encode(settings))

    async def _end(self, child: ChildProcess) -> None:
        # Out first: whatever happens then, nobody is given it.
        self._children.discard(child)
        await child.kill()


def open_folder() -> int | None:
    """A descriptor of the current folder, which stays right if that is changed, moved or removed.

    None if there is none: it has been removed already.
    """
    # It need not be readable for this.
    how = getattr(os, "O_PATH", os.O_RDONLY)
    try:
        return beyond_standard_streams(os.open(".", how | os.O_DIRECTORY))
    except OSError:
        return None


def _close_copies(pool: "weakref.ref[ProcessPool]") -> None:
    # In a copy that a fork has made of the server: with its write ends, no child would notice that
    # the server has gone.
    found = pool()
    if found is not None:
        for child in found._children:
            child.close()


def _program() -> Program:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return Program(module=None if spec is None else spec.name, file=getattr(main, "__file__", None))


def _is_in_program(name: str) -> bool:
    return name.partition(":")[0] == "__main__"


def _code_changed(files: Iterable[str]) -> str:
    named = sorted(set(files))
    more = f" and {len(named) - _NAMED_FILES} more" if len(named) > _NAMED_FILES else ""
    return f"code_changed files={','.join(named[:_NAMED_FILES])}{more}"


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
