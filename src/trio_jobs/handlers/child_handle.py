"""`ChildHandle`: the server's end of a child process: what goes to it, and what comes from it."""

import contextlib
import fcntl
import os
import select
from collections.abc import Callable, Sequence
from math import inf

import msgspec
import trio

from trio_jobs.current_job import current_job_id
from trio_jobs.error_text import Failure
from trio_jobs.handlers.call_marks import CallMarks, make_memory
from trio_jobs.handlers.child_call import ChildCall
from trio_jobs.handlers.child_log import LogLine, log_line
from trio_jobs.handlers.frames import FrameError, FrameReader, Hello, Kind, unpack
from trio_jobs.handlers.process_group import ProcessGroup, make_pipe
from trio_jobs.handlers.progress_report import ProgressReport
from trio_jobs.handlers.sent_calls import SentCalls
from trio_jobs.handlers.start_shortage import ShortageError

# Seconds that a child gets to take a job. After them the job's clock starts anyway: an earlier
# function may have blocked the child (by a thread, by SIGSTOP), and no event tells the server.
_TAKING_TIME = 5.0

# Log lines of a child between two checkpoints.
_LINES_AT_ONCE = 16

# What a pipe holds where a page has 4 KiB, and at most where the system does not say.
_CHUNK_BYTES = 65_536

# The capacity of a pipe where the system does not say.
_LEAST_CAPACITY = 4_096

# Looked up once: a lookup in an enum costs as much as a call.
_ENDED = Kind.ENDED
_RESULT = Kind.RESULT


class EndedError(Exception):
    """The child has exited or closed its pipe, and everything it wrote has been read."""


# Why a child cannot be used any more.
LOST = (EndedError, FrameError, msgspec.MsgspecError)


class ChildHandle:
    """A child process with the pipes to it.

    Attributes:
        group: The process; not started until `spawn`.
        is_faulty: Whether an import failed in the child that has succeeded in the server. Such a
            child gets one job only: the next child may import everything.
        calls: The jobs that the child has.
        gone: Set when the child has ended, and what became of its jobs is decided.
    """

    def __init__(self) -> None:
        self.group = ProcessGroup()
        self.is_faulty = False
        self.calls = SentCalls(self._drain)
        self.gone = trio.Event()
        # The server's ends of the two pipes; -1 if closed.
        self._requests = self._answers = -1
        # Readable when an answer arrives or the child exits; None if closed, or without a pidfd.
        self._either: select.epoll | None = None
        self._unsent = memoryview(b"")
        self._frames = FrameReader()
        self._hello: Hello | None = None
        self._fault: Exception | None = None  # what `_drain` has found; `serve` raises it
        self._is_stopped = False
        self._scope = trio.CancelScope(shield=True)  # around a wait in `serve`

    def spawn(self, *, folder: int | None) -> None:
        """Start the child. Blocks: call it in a thread, whose signal mask it changes.

        Args:
            folder: See `ProcessGroup.start`.

        Raises:
            OSError: The child cannot be started.
        """
        with contextlib.ExitStack() as theirs:
            requests, self._requests = make_pipe(theirs)
            self._answers, answers = make_pipe(theirs, ours_reads=True)
            memory = make_memory()
            theirs.callback(os.close, memory)
            self.calls.marks = CallMarks(memory)
            self.group.start(requests, answers, memory, folder=folder)
        self.calls.max_bytes = _whole_frames(self._requests)
        if self.group.pidfd >= 0:
            self._either = select.epoll()
            self._either.register(self._answers, select.EPOLLIN)
            self._either.register(self.group.pidfd, select.EPOLLIN)

    async def greet(self, settings: bytes = b"") -> Hello:
        """Send the settings, and wait until the child has imported its modules.

        Args:
            settings: The settings' frame; empty to continue a cancelled `greet`.

        Raises:
            ShortageError: The child has died, or its answer cannot be understood.
        """
        try:
            if settings:
                self._unsent = memoryview(settings)
            await self._write_rest()
            while self._hello is None:
                await self._receive()
        except EndedError as error:
            how = await self.group.wait_cause()  # noqa: ASYNC120 - a cancellation says more
            raise ShortageError(f"a process that was started for a job {how} at once") from error
        except (FrameError, msgspec.MsgspecError) as error:
            text = f"a process that was started for a job gave no sign that is understood: {error}"
            raise ShortageError(text) from error
        self.is_faulty = self._hello.faulty
        if self.is_faulty:
            self.calls.max_bytes = 0  # no job is sent behind its only one
        return self._hello

    def has_room(self, call: ChildCall) -> bool:
        """See `SentCalls.has_room`; there is none while a frame is on its way."""
        return not self._unsent and self.calls.has_room(call)

    def send(self, calls: Sequence[ChildCall]) -> None:
        """Send jobs that were added to ``calls``.

        The frame of a single job may not fit into the pipe: the task of the job sends the rest.
        """
        self._unsent = memoryview(b"".join([call.frame for call in calls]))
        with contextlib.suppress(EndedError):  # `serve` notices it as well
            calls[-1].is_unsent = self._write()
        self.calls.note_sent(calls)
        self._watch()

    async def send_rest(self, call: ChildCall) -> None:
        """Send the rest of the job's frame. The job's clock starts then, or after 5 seconds."""
        with contextlib.suppress(EndedError):
            with trio.move_on_after(_TAKING_TIME):
                await self._write_rest()
            call.is_unsent = False
            if self.calls.first is call:
                call.begin()
            await self._write_rest()

    async def serve(self, changed: Callable[[], object]) -> None:
        """Take the child's answers.

        Args:
            changed: Called when some have been taken, and when jobs were returned.

        Returns:
            When `stop` was called, or a faulty child has answered.

        Raises:
            EndedError: The child has ended.
            FrameError: Its answer cannot be understood; or a ``MsgspecError``.
        """
        while not self._is_stopped:
            with trio.CancelScope(shield=True) as self._scope:
                while not (self.is_faulty and self.calls.has_answered):
                    self._watch()
                    await self._receive(changed)
                    changed()
                return
            if not self._is_stopped:  # a job takes long: the others need not wait behind it
                self.calls.returned += self.calls.take_back()
                changed()

    def stop(self) -> None:
        """Kill the child, and end `serve`. The caller has taken back what has not begun."""
        self._is_stopped = True
        self.calls.clear()
        self.group.kill_group()
        self._scope.cancel()

    def close_requests(self) -> None:
        """Tell the child to exit."""
        if self._requests >= 0:
            os.close(self._requests)
            self._requests = -1

    def has_ended(self) -> bool:
        """Whether the child has exited."""
        return self.group.has_ended()

    async def kill(self) -> None:
        """See `ProcessGroup.kill`."""
        try:
            await self.group.kill()
        finally:
            self.close()

    def close(self) -> None:
        """Close the descriptors; also in a forked copy of the server."""
        if self._either is not None:
            self._either.close()
            self._either = None
        if self.calls.marks is not None:
            self.calls.marks.close()
            self.calls.marks = None
        self.close_requests()
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        self.group.close()

    def _watch(self) -> None:
        """Let `serve` look after the jobs behind the first one if that runs for long."""
        until = self.calls.too_long_at
        self._scope.deadline = inf if until is None else until

    async def _write_rest(self) -> None:
        while self._write():
            await trio.lowlevel.wait_writable(self._requests)

    def _write(self) -> bool:
        """Write what the pipe takes; returns whether something is left.

        Raises:
            EndedError: The child has closed the pipe; nothing is left then.
        """
        while self._unsent:
            try:
                self._unsent = self._unsent[os.write(self._requests, self._unsent) :]
            except BlockingIOError:
                return True
            except BrokenPipeError as error:
                self._unsent = memoryview(b"")
                raise EndedError from error
        return False

    async def _receive(self, changed: Callable[[], object] = lambda: None) -> None:
        """Wait until something has arrived, and take it."""
        either = self._answers if self._either is None else self._either.fileno()
        await trio.lowlevel.wait_readable(either)
        self._read()
        while not self._take_frames(most_lines=_LINES_AT_ONCE):
            changed()
            await trio.lowlevel.checkpoint()

    def _drain(self) -> None:
        """Read and take all that has arrived; `serve` raises what goes wrong."""
        try:
            self._read(max(_CHUNK_BYTES, _capacity(self._answers) or 0))
            self._take_frames()
        except EndedError:
            pass  # the pipe says so again
        except LOST as error:
            self._fault = error
            self.group.kill_group()

    def _read(self, most: int = _CHUNK_BYTES) -> None:
        if self._fault is not None:
            raise self._fault
        try:
            data = os.read(self._answers, most)
        except BlockingIOError:
            if self.has_ended():  # and has written nothing since
                raise EndedError from None
            return
        if not data:
            raise EndedError
        self._frames.feed(data)

    def _take_frames(self, *, most_lines: float = inf) -> bool:
        """Take the frames that have arrived as a whole, up to so many lines of the log or reports.

        Returns:
            Whether there is none left.
        """
        calls, lines = self.calls, 0
        while lines < most_lines:
            first = calls.first
            most = 0 if first is None else first.max_result_bytes
            found = self._frames.next(max_result_bytes=most)
            if found is None:
                return True
            kind, body = found
            if kind is _ENDED:
                calls.note_end(body)
            elif kind is _RESULT:
                calls.answer(body)
            elif kind is Kind.FAILURE:
                calls.answer(msgspec.json.decode(body, type=Failure))
            elif kind is Kind.SKIPPED:
                calls.skip()
            elif kind is Kind.LOG:
                _log(first, msgspec.json.decode(body, type=LogLine))
                lines += 1
            elif kind is Kind.PROGRESS:
                report = msgspec.json.decode(body, type=ProgressReport)
                if first is not None:
                    first.running.note_report(trio.current_time, report)
                lines += 1
            elif kind is Kind.HELLO and self._hello is None:
                self._hello = unpack(body, Hello)
            else:
                raise FrameError(f"a frame of kind {kind.name} is not expected")
        return False


def _log(call: ChildCall | None, line: LogLine) -> None:
    # A running job keeps the lines of its code; the task that reads them is no job's.
    token = None if call is None else current_job_id.set(call.running.job.id)
    log_line(line)
    if token is not None:
        current_job_id.reset(token)


def _whole_frames(pipe: int) -> int:
    """How many bytes, in frames of any lengths, surely fit into a pipe of the child's.

    Two frames in a row share a page of the pipe, or fill more than one together.
    """
    capacity = _capacity(pipe)
    if capacity is None:
        return _LEAST_CAPACITY
    return max(0, capacity - 2 * os.sysconf("SC_PAGE_SIZE")) // 2


def _capacity(pipe: int) -> int | None:
    """How many bytes a pipe holds, mostly 16 pages of 4 KiB or more; None if nobody says."""
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else None
