"""`ChildProcess`: one child process as the server has it, from its start to its end.

It is the leader of a group of its own: what a job starts ends with it. The server holds one end of
a pipe that carries nothing, and the kernel ends the group when that end closes.
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
import time
from collections.abc import Callable
from functools import partial
from logging import LogRecord

import msgspec
import trio

from trio_jobs.error_text import Failure
from trio_jobs.handlers.frames import TIME, FrameError, FrameReader, Hello, Kind, LogLine
from trio_jobs.handlers.start_shortage import ShortageError

log = logging.getLogger(__name__)

# Seconds that a child whose pipe has closed gets to end by itself, so that it can be told how;
# and that one gets that was killed, which only a machine in trouble does not end in.
_DYING_TIME = 0.5

# Seconds that a child gets to take a job before the job's time begins all the same. One that a
# function has left held up (by a thread, by SIGSTOP) takes nothing, and no event tells.
_TAKING_TIME = 5.0

# Lines of a child's log until other tasks get their turn.
_LINES_AT_ONCE = 16

_CHUNK_BYTES = 65_536

# A return code that no process has.
_UNKNOWN = 1 << 16

# Of `OSError`s: what passes, where there is another way of doing without.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})

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


class NotBegunError(Exception):
    """A child has died before it took the job that it was sent."""


class _EndedError(Exception):
    """A child has ended, or closed its pipe; all that it has written has been read."""


class ChildProcess:
    """One child process, from its start to its end; made without one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # Ours: the write ends of two pipes, the read end of one, the process's own descriptor, and
        # one to wait with for either of the last two. -1 if closed, or not to be had.
        self._requests = self._lifeline = self._answers = self._pidfd = -1
        self._either: select.epoll | None = None
        self._unsent = memoryview(b"")
        self._frames = FrameReader()
        # Whether it could not import all that the server has imported: no child for many jobs.
        self.is_faulty = False
        # To be called when the function has ended that runs there; None if it has.
        self._ended: Callable[[float], object] | None = None

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

    async def greet(self, settings: bytes = b"") -> Hello:
        """Wait until it is ready.

        Args:
            settings: What it is to know; nothing when this was cancelled before, to go on.

        Raises:
            ShortageError: It has ended before, or is of no use.
        """
        try:
            await self._send(settings)
            _, body = await self._receive(Kind.HELLO)
            hello = msgspec.json.decode(body, type=Hello)
        except _EndedError as error:
            how = await self._how_it_ended()  # noqa: ASYNC120 - a cancellation says more
            raise ShortageError(f"a process that was started for a job {how} at once") from error
        except (FrameError, msgspec.MsgspecError) as error:
            text = f"a process that was started for a job gave no sign that is understood: {error}"
            raise ShortageError(text) from error
        self.is_faulty = hello.faulty
        return hello

    async def call(
        self,
        call: bytes,
        *,
        max_result_bytes: int,
        started: Callable[[], object],
        ended: Callable[[float], object],
    ) -> bytes | Failure:
        """Run a job.

        Args:
            call: The frame that says which.
            max_result_bytes: The largest result, as JSON.
            started: Called when it has been sent, and its function begins; also when the process
                is not taking it.
            ended: Called with when its function ended, by Trio's clock.

        Returns:
            Its result as JSON, or what its function raised.

        Raises:
            ProcessDiedError: The process has ended, or is of no use any more.
            NotBegunError: It had ended before it took the job.

        Cancellation:
            Not acted on if the function has ended.
        """
        self._ended = ended
        try:
            with trio.move_on_after(_TAKING_TIME):
                await self._send(call)
            started()
            await self._send()
        except _EndedError as error:
            raise NotBegunError from error
        try:
            kind, body = await self._receive_answer(max_result_bytes)
            return body if kind is Kind.RESULT else msgspec.json.decode(body, type=Failure)
        except _EndedError as error:
            if self._unread():
                raise NotBegunError from error
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
        """Whether it has ended; true also of one that was never started.

        It is not reaped by this, where the kernel can tell without: its group has to be killed
        before.
        """
        if self._process is None or self._process.returncode is not None:
            return True
        if self._pidfd >= 0:
            ended = select.poll()
            ended.register(self._pidfd, select.POLLIN)
            return bool(ended.poll(0))
        if hasattr(os, "waitid"):
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            try:
                return os.waitid(os.P_PID, self._process.pid, options) is not None
            except ChildProcessError:
                return True
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
        read, write = map(beyond_standard_streams, os.pipe())
        ours = read if ours_reads else write
        theirs.callback(os.close, write if ours_reads else read)
        os.set_blocking(ours, False)
        return read, write

    async def _send(self, data: bytes = b"") -> None:
        """Send this, after what a cancelled call has left."""
        if data:
            self._unsent = memoryview(data)
        while self._unsent:
            try:
                self._unsent = self._unsent[os.write(self._requests, self._unsent) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._requests)
            except BrokenPipeError as error:
                raise _EndedError from error

    async def _receive_answer(self, max_result_bytes: int) -> tuple[Kind, bytes]:
        receive = partial(
            self._receive, Kind.RESULT, Kind.FAILURE, max_result_bytes=max_result_bytes
        )
        try:
            return await receive()
        except trio.Cancelled:
            # What has been written beats a clock that ran out while nobody read.
            if not self._has_answered():
                raise
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _DYING_TIME):
                # The job has ended: this task's cancellation comes at its next checkpoint.
                return await receive()  # noqa: ASYNC102, ASYNC104 - bounded
            raise

    def _has_answered(self) -> bool:
        """Whether its function has ended, by what it has written so far."""
        with contextlib.suppress(_EndedError):
            self._read()
        return self._ended is None or self._frames.holds(Kind.ENDED)

    async def _receive(self, *kinds: Kind, max_result_bytes: int = 0) -> tuple[Kind, bytes]:
        """The next frame that is no log line, of one of these kinds; log lines are logged.

        Raises:
            _EndedError: The process has ended.
            FrameError: It is of another kind.
        """
        waited_for = self._answers if self._either is None else self._either.fileno()
        lines = 0
        while True:  # noqa: ASYNC913 - a turn without a wait takes a frame that is there
            found = self._frames.next(max_result_bytes=max_result_bytes)
            if found is None:
                await trio.lowlevel.wait_readable(waited_for)
                self._read()
                lines = 0
            elif found[0] in kinds:
                return found
            elif found[0] is Kind.ENDED:
                self._note_end(found[1])
            elif found[0] is not Kind.LOG:
                raise FrameError(f"a frame of kind {found[0].name} is not expected")
            else:
                _log_line(found[1])
                lines += 1
                if lines % _LINES_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()

    def _note_end(self, body: bytes) -> None:
        ended, self._ended = self._ended, None
        if ended is None or len(body) != TIME.size:
            raise FrameError("a time is not expected")
        (when,) = TIME.unpack(body)
        ended(trio.current_time() - (time.perf_counter() - when))

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
        ended_by_itself = self.has_ended()
        await self.kill()
        if not ended_by_itself:
            return "has closed its pipes to the server, and was killed for that"
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


def beyond_standard_streams(number: int) -> int:
    """The same descriptor, by a number that a child's standard streams do not take.

    Where a server was started without some of those, the first ones that it opens have theirs.
    """
    if number > 2:
        return number
    try:
        return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(number)


def _log_line(body: bytes) -> None:
    """Log what a function has logged in a child.

    Its logger's filters and handlers have seen it there, as the module sets them up at import. They
    and the record factory are user code, made for the values that the function logged: here, only
    this module's own logger gets the line.
    """
    line = msgspec.json.decode(body, type=LogLine)
    # A job must not fail because of its log: a program with a log of its own may have anything
    # on the way of this line.
    with contextlib.suppress(BaseException):
        if logging.getLogger(line.name).isEnabledFor(line.level):
            log.handle(_record(line))


def _record(line: LogLine) -> LogRecord:
    # Of Python's own class: user code may set the factory, and replace the class.
    record = LogRecord(
        line.name,
        line.level,
        line.path,
        line.line,
        line.text,
        (),
        None,
        func=line.function,
        sinfo=line.stack,
    )
    vars(record).update(
        {
            **({} if line.job_id is None else {"job_id": line.job_id}),
            **line.fields,
            "levelname": line.level_name,
            "created": line.created,
            "msecs": line.created % 1 * 1000,
            "process": line.process,
            "processName": "child",
            "threadName": line.thread_name,
            "exc_text": line.traceback,
        }
    )
    return record


def _flags() -> list[str]:
    """The interpreter's options, as this one was started with, and no folder of its own."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags if "-P" in flags or "-I" in flags else [*flags, "-P"]
