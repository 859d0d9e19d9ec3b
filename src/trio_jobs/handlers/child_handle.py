"""`ChildHandle`: the server's end of a child process: runs one job after the other in it."""

import contextlib
import fcntl
import os
import select
import struct
import termios
import time
from collections.abc import Callable
from functools import partial

import msgspec
import trio

from trio_jobs.error_text import Failure
from trio_jobs.handlers.child_log import LogLine, log_line
from trio_jobs.handlers.frames import TIME, FrameError, FrameReader, Hello, Kind
from trio_jobs.handlers.process_group import EXIT_TIME, ProcessGroup, make_pipe
from trio_jobs.handlers.progress_report import ProgressReport
from trio_jobs.handlers.start_shortage import ShortageError
from trio_jobs.retries import ProcessDied

# Seconds that a child gets to take a job. After them the job's clock starts anyway: an earlier
# function may have blocked the child (by a thread, by SIGSTOP), and no event tells the server.
_TAKING_TIME = 5.0

# Log lines of a child between two checkpoints.
_LINES_AT_ONCE = 16

_CHUNK_BYTES = 65_536


def _nothing(_report: ProgressReport) -> None:
    """Take no report: no function runs."""


class ProcessDiedError(ProcessDied):
    """The process that ran a job has died; the text says how."""


class NotBegunError(Exception):
    """A child has died before it took its job."""


class _EndedError(Exception):
    """The child has exited or closed its pipe, and everything it wrote has been read."""


class ChildHandle:
    """A child process with the pipes to it.

    Attributes:
        group: The process; not started until `spawn`.
        is_faulty: Whether an import failed in the child that has succeeded in the server. Such a
            child gets one job only: the next child may import everything.
    """

    def __init__(self) -> None:
        self.group = ProcessGroup()
        self.is_faulty = False
        # The server's ends of the two pipes; -1 if closed.
        self._requests = self._answers = -1
        # Readable when an answer arrives or the child exits; None if closed, or without a pidfd.
        self._either: select.epoll | None = None
        self._unsent = memoryview(b"")
        self._frames = FrameReader()
        # Called when the running function has ended; None afterwards.
        self._ended: Callable[[float], object] | None = None
        # Called with what the running function reports.
        self._reported: Callable[[ProgressReport], object] = _nothing

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
            self.group.start(requests, answers, folder=folder)
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
            await self._send(settings)
            _, body = await self._receive(Kind.HELLO)
            hello = msgspec.json.decode(body, type=Hello)
        except _EndedError as error:
            how = await self.group.wait_cause()  # noqa: ASYNC120 - a cancellation says more
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
        reported: Callable[[ProgressReport], object] = _nothing,
    ) -> bytes | Failure:
        """Run a job.

        Args:
            call: The job's frame.
            max_result_bytes: The largest result, as JSON.
            started: Called when the frame has been sent and the function begins, or when the child
                does not take the frame in time.
            ended: Called with the time when the function ended, by Trio's clock.
            reported: Called with each report of the function's progress that arrives.

        Returns:
            The result as JSON, or the description of the function's exception.

        Raises:
            ProcessDiedError: The child has died, or its answer cannot be understood.
            NotBegunError: The child had died before it took the job.

        Cancellation:
            Not acted on once the function has ended. Before that, it leaves the function running:
            the caller has to kill the child.
        """
        self._ended, self._reported = ended, reported
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
            if self._has_unread_request():
                raise NotBegunError from error
            raise ProcessDiedError(
                f"the process that ran the job {await self.group.wait_cause()}"
            ) from error
        except (FrameError, msgspec.MsgspecError) as error:
            raise ProcessDiedError(
                f"the process that ran the job gave no answer that can be understood: {error}"
            ) from error

    async def finish(self) -> None:
        """Wait until the child has exited by itself; log its last lines."""
        with contextlib.suppress(_EndedError, FrameError):
            while True:
                await self._receive()
        await self.group.wait_exited()

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
        self.close_requests()
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        self.group.close()

    async def _send(self, data: bytes = b"") -> None:
        """Send this, or the remaining bytes of a cancelled call."""
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
            # An answer in the pipe counts, even if a deadline passed before the loop read the pipe.
            if not self._has_answered():
                raise
            with trio.CancelScope(shield=True, deadline=trio.current_time() + EXIT_TIME):
                # The task's cancellation comes at its next checkpoint.
                return await receive()  # noqa: ASYNC102, ASYNC104 - bounded
            raise

    def _has_answered(self) -> bool:
        """Whether the function has ended, according to the bytes that have arrived."""
        with contextlib.suppress(_EndedError):
            self._read()
        return self._ended is None or self._frames.holds(Kind.ENDED)

    async def _receive(self, *kinds: Kind, max_result_bytes: int = 0) -> tuple[Kind, bytes]:
        """The next frame of one of these kinds. Logs the lines and takes the reports before it.

        Raises:
            _EndedError: The child has exited.
            FrameError: A frame is invalid or out of order.
        """
        waited_for = self._answers if self._either is None else self._either.fileno()
        lines = 0
        while True:  # noqa: ASYNC913 - a turn without a wait takes a frame that has arrived
            found = self._frames.next(max_result_bytes=max_result_bytes)
            if found is None:
                await trio.lowlevel.wait_readable(waited_for)
                self._read()
                lines = 0
            elif found[0] in kinds:
                return found
            elif found[0] is Kind.ENDED:
                self._note_end(found[1])
            elif found[0] is Kind.LOG or found[0] is Kind.PROGRESS:
                if found[0] is Kind.LOG:
                    log_line(msgspec.json.decode(found[1], type=LogLine))
                else:
                    self._reported(msgspec.json.decode(found[1], type=ProgressReport))
                lines += 1
                if lines % _LINES_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            else:
                raise FrameError(f"a frame of kind {found[0].name} is not expected")

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
            if self.has_ended():  # and has written nothing since
                raise _EndedError from None
            return
        if not data:
            raise _EndedError
        self._frames.feed(data)

    def _has_unread_request(self) -> bool:
        """Whether the child has left a part of its request in the pipe."""
        try:
            count = fcntl.ioctl(self._requests, termios.FIONREAD, bytes(4))
        except OSError:  # this kernel cannot tell: the child may have read all of it
            return False
        return bool(struct.unpack("i", count)[0])
