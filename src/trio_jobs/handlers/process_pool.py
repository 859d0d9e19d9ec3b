"""`ProcessPool`: a pool's child processes, started on demand; none outlives the server.

Each is the leader of a group of its own: what a job starts ends with it. The server holds one end
of a pipe that carries nothing, and the kernel ends the group when that end closes.
"""

import contextlib
import errno
import fcntl
import logging
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Self

import msgspec
import trio

from trio_jobs.handlers.errors import Failure
from trio_jobs.handlers.frames import (
    Call,
    FileState,
    FrameError,
    FrameReader,
    Hello,
    Kind,
    LogLine,
    Program,
    Settings,
    frame,
)
from trio_jobs.handlers.loaded_files import loaded_files, still_changed
from trio_jobs.handlers.loading import imports_in_child
from trio_jobs.handlers.start_shortage import ShortageError, StartShortage
from trio_jobs.job import JobError

log = logging.getLogger(__name__)

# Seconds that idle children get to end by themselves. They only wait for their
# pipe to close; one that takes longer is held up by what a function left behind.
_CLOSING_TIME = 0.5

# Seconds that a child whose pipe has closed gets to end by itself, so that it can be told how;
# and that one gets that was killed, which only a machine in trouble does not end in.
_DYING_TIME = 0.5

# Descriptors here: of a child, as long as it lives; and of one that is being started, beside them.
_DESCRIPTORS = 5
_STARTING_DESCRIPTORS = 8

# Lines of a child's log until other tasks get their turn.
_LINES_AT_ONCE = 16

_CHUNK_BYTES = 65_536

# How many changed files are named, at the most.
_NAMED_FILES = 10

# What Python found this package by, before anything of the user's was on the path: a child imports
# the same, and no file of the user's in its place.
_OWN_PATH = tuple(filter(None, sys.path))

# `-c`, and not `-m`: what a function starts with multiprocessing imports the main module again.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[5:];"
    " from trio_jobs.child_process import main; main(*map(int, sys.argv[1:5]))"
)


class ProcessDiedError(Exception):
    """The process that ran a job has died; the text says how."""


class _NotBegunError(Exception):
    """A child has died before it took the job that it was sent."""


class _EndedError(Exception):
    """A child has ended, or closed its pipe; all that it has written has been read."""


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

        Returns:
            The result, as JSON, or what the function raised; a process that was
            killed or has ended itself is a `ProcessDiedError` without a traceback.

        Cancellation:
            Kills the process with the function in it, and waits for its end.
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
                started()
                try:
                    answer = await child.call(call, max_result_bytes=max_result_bytes)
                except _NotBegunError:
                    start_taken_back()
                    await self._end(child)
                    continue
                except ProcessDiedError as error:
                    await self._end(child)
                    died = JobError(type=type(error).__name__, message=str(error))
                    return Failure(error=died, traceback="")
                except BaseException:
                    await self._end(child)  # noqa: ASYNC102 - bounded by itself
                    raise
                self._idle.append(child)
                self._shortage.note_change()
                return answer

    async def _obtain(self) -> "ChildProcess":
        if not self._open:
            raise RuntimeError("the processes are used outside of their block")
        while self._idle:
            child = self._idle.pop()
            if not child.has_ended():
                return child
            await self._end(child)
        return await self._start()

    async def _start(self) -> "ChildProcess":
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
            hello = await child.greet(self._settings())
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

    def _spawn(self, child: "ChildProcess") -> None:
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

    async def _end(self, child: "ChildProcess") -> None:
        # Out first: whatever happens then, nobody is given it.
        self._children.discard(child)
        try:
            await child.kill()
        finally:
            self._shortage.note_change()


class ChildProcess:
    """One child process, from its start to its end; made without one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # Ours: the write ends of two pipes, the read end of one, the process's own descriptor, and
        # one to wait with for either of the last two. -1 if closed, or not to be had.
        self._requests = self._lifeline = self._answers = self._pidfd = -1
        self._either: select.epoll | None = None
        self._frames = FrameReader()

    def spawn(self, *, folder: int | None) -> None:
        """Start it. Blocks, and is to be called in a thread: the mask of its signals is its own.

        Raises:
            OSError: It cannot be started; nothing is left of it.
        """
        with contextlib.ExitStack() as theirs:
            requests, self._requests = self._pipe(theirs)
            lifeline, self._lifeline = self._pipe(theirs)
            self._answers, answers = self._pipe(theirs, ours_reads=True)
            passed = [requests, answers, lifeline, *([] if folder is None else [folder])]
            numbers = [requests, answers, lifeline, -1 if folder is None else folder]
            # All signals wait until the child knows what to do with them.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, *_flags(), "-c", _BOOT, *map(str, numbers), *_OWN_PATH],
                    stdin=subprocess.DEVNULL,
                    pass_fds=passed,
                    process_group=0,
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _EXHAUSTED:
                raise
        else:
            self._either = select.epoll()
            self._either.register(self._answers, select.EPOLLIN)
            self._either.register(self._pidfd, select.EPOLLIN)

    async def greet(self, settings: bytes) -> Hello:
        """Wait until it is ready.

        Raises:
            ShortageError: It has ended before.
        """
        try:
            await self._send(settings)
            _, body = await self._receive(Kind.HELLO)
        except (_EndedError, FrameError) as error:
            how = await self._how_it_ended()
            raise ShortageError(f"a process that was started for a job {how} at once") from error
        return msgspec.json.decode(body, type=Hello)

    async def call(self, call: bytes, *, max_result_bytes: int) -> bytes | Failure:
        """Run a job.

        Returns:
            Its result as JSON, or what its function raised.

        Raises:
            ProcessDiedError: The process has ended, or is of no use any more.
            _NotBegunError: It had ended before it took the job.
        """
        try:
            await self._send(call)
        except _EndedError as error:
            raise _NotBegunError from error
        try:
            kind, body = await self._receive(
                Kind.RESULT, Kind.FAILURE, max_result_bytes=max_result_bytes
            )
            return body if kind is Kind.RESULT else msgspec.json.decode(body, type=Failure)
        except _EndedError as error:
            if self._unread():
                raise _NotBegunError from error
            raise ProcessDiedError(
                f"the process that ran the job {await self._how_it_ended()}"
            ) from error
        except (FrameError, msgspec.MsgspecError) as error:
            raise ProcessDiedError(
                f"the process that ran the job gave no answer that can be understood: {error}"
            ) from error

    async def finish(self) -> None:
        """Wait until it has ended by itself; what it logs meanwhile goes into the log."""
        with contextlib.suppress(_EndedError, FrameError):
            while True:
                await self._receive()
        await self._wait_ended()

    def has_ended(self) -> bool:
        """Whether it has ended; true also of one that was never started."""
        if self._process is None or self._process.returncode is not None:
            return True
        if self._pidfd >= 0:
            ended = select.poll()
            ended.register(self._pidfd, select.POLLIN)
            return bool(ended.poll(0))
        return self._reap()

    def close_requests(self) -> None:
        """Tell it to end: there are no more jobs."""
        self._close("_requests")

    def kill_group(self) -> None:
        """Kill it and all that it has started, at once."""
        # While its leader is not reaped, the group's number cannot be another's.
        if self._process is not None and self._process.returncode is None:
            # Nobody is left, or all of them have become another user's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def kill(self) -> None:
        """Kill it and all that it has started, and wait for its end.

        Cancellation:
            Is not acted on: this takes as long as the kernel needs, and 0.5 s at the most.
        """
        self.kill_group()
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _DYING_TIME):
                await self._wait_ended()  # noqa: ASYNC102 - bounded
        finally:
            self.kill_group()  # what it has forked meanwhile
            self._reap()
            self.close()

    def close(self) -> None:
        """Close the descriptors; also in a copy that a fork has made of this process."""
        if self._either is not None:
            self._either.close()
        for name in ("_requests", "_answers", "_lifeline", "_pidfd"):
            self._close(name)

    def _close(self, name: str) -> None:
        number: int = getattr(self, name)
        setattr(self, name, -1)
        if number >= 0:
            os.close(number)

    def _pipe(self, theirs: contextlib.ExitStack, *, ours_reads: bool = False) -> tuple[int, int]:
        """A pipe; the end that is not ours is closed with the block."""
        read, write = os.pipe()
        ours = read if ours_reads else write
        theirs.callback(os.close, write if ours_reads else read)
        os.set_blocking(ours, False)
        return read, write

    async def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._requests, left) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._requests)
            except BrokenPipeError as error:
                raise _EndedError from error

    async def _receive(self, *kinds: Kind, max_result_bytes: int = 0) -> tuple[Kind, bytes]:
        """The next frame that is no log line, of one of these kinds; log lines are logged.

        Raises:
            _EndedError: The process has ended.
            FrameError: It is of another kind.
        """
        waited_for = self._answers if self._either is None else self._either.fileno()
        lines = 0
        while True:
            found = self._frames.next(max_result_bytes=max_result_bytes)
            if found is None:
                await trio.lowlevel.wait_readable(waited_for)
                self._read()
                lines = 0
            elif found[0] in kinds:
                return found
            elif found[0] is not Kind.LOG:
                raise FrameError(f"a frame of kind {found[0].name} is not expected")
            else:
                _log_line(found[1])
                lines += 1
                if lines % _LINES_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()

    def _read(self) -> None:
        try:
            data = os.read(self._answers, _CHUNK_BYTES)
        except BlockingIOError:
            if self.has_ended():  # and has written nothing else
                raise _EndedError from None
            return
        if not data:
            raise _EndedError
        self._frames.feed(data)

    def _unread(self) -> bool:
        """Whether it has left any of what it was sent."""
        try:
            count = fcntl.ioctl(self._requests, termios.FIONREAD, bytes(4))
        except OSError:  # this kernel does not say: then it may have begun
            return False
        return bool(struct.unpack("i", count)[0])

    async def _how_it_ended(self) -> str:
        """Wait a little for its end; how that was, as a predicate."""
        with trio.move_on_after(_DYING_TIME):
            await self._wait_ended()
        await self.kill()
        status = None if self._process is None else self._process.returncode
        if status is None or status == _UNKNOWN:
            return "has ended"  # and somebody else was told how
        if status < 0:
            return f"was killed by signal {-status} ({signal.strsignal(-status)})"
        return f"ended itself with status {status}"

    async def _wait_ended(self) -> None:
        if self.has_ended():
            return
        if self._pidfd >= 0:
            await trio.lowlevel.wait_readable(self._pidfd)
        else:
            with contextlib.suppress(RuntimeError):  # no thread to be had: it is killed anyway
                await trio.to_thread.run_sync(
                    self._wait_in_thread,
                    limiter=trio.CapacityLimiter(1),
                    abandon_on_cancel=True,
                )

    def _wait_in_thread(self) -> None:
        if self._process is None:
            return
        if hasattr(os, "waitid"):  # which leaves it to be reaped: this thread may be left behind
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._reap(block=True)

    def _reap(self, *, block: bool = False) -> bool:
        """Whether it has ended; then nothing is left of it in the kernel."""
        process = self._process
        if process is None or process.returncode is not None:
            return True
        try:
            pid, status = os.waitpid(process.pid, 0 if block else os.WNOHANG)
        except ChildProcessError:  # the end of children is ignored, or awaited by somebody else
            process.returncode = _UNKNOWN
            return True
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
        return bool(pid)


# A return code that no process has.
_UNKNOWN = 1 << 16

# Of `OSError`s: what passes, where there is another way of doing without.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})


def open_folder() -> int | None:
    """A descriptor of the current folder, which stays right if that is changed, moved or removed.

    None if there is none: it has been removed already.
    """
    # It need not be readable for this.
    how = getattr(os, "O_PATH", os.O_RDONLY)
    try:
        return os.open(".", how | os.O_DIRECTORY)
    except OSError:
        return None


def _close_copies(pool: "weakref.ref[ProcessPool]") -> None:
    # In a copy that a fork has made of the server: with its write ends, no child would notice that
    # the server has gone.
    found = pool()
    if found is not None:
        for child in found._children:
            child.close()


def _log_line(body: bytes) -> None:
    """Log what a function has logged in a child, as if it had been here."""
    line = msgspec.json.decode(body, type=LogLine)
    logger = logging.getLogger(line.name)
    if not logger.isEnabledFor(line.level):
        return
    record = logging.makeLogRecord(
        {
            **({} if line.job_id is None else {"job_id": line.job_id}),
            **line.fields,
            "name": line.name,
            "levelno": line.level,
            "levelname": line.level_name,
            "msg": line.text,
            "created": line.created,
            "msecs": line.created % 1 * 1000,
            "process": line.process,
            "processName": "child",
            "pathname": line.path,
            "filename": os.path.basename(line.path),  # noqa: PTH119
            "lineno": line.line,
            "funcName": line.function,
            "threadName": line.thread_name,
            "exc_text": line.traceback,
            "stack_info": line.stack,
        }
    )
    logger.handle(record)


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


def _flags() -> list[str]:
    """The interpreter's options, as this one was started with, and no folder of its own."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags if "-P" in flags or "-I" in flags else [*flags, "-P"]


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
