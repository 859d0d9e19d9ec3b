"""`ProcessGroup`: a child process that leads a group of its own: its start, its exit, its kill.

All processes that a job starts there end with the child. The server holds the write end of a pipe
without data, the lifeline: the kernel kills the group when that end closes.
"""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys

import trio

# Seconds that a child gets to exit after it has closed its pipes, and after a kill.
EXIT_TIME = 0.5

# The return code of a child that another part of the program has reaped.
_UNKNOWN = 1 << 16

# Errors of `pidfd_open` that pass: `start` raises them. After any other error, there is no pidfd.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})

# The import path before the user's folder is added to it: on this path a child finds this package,
# and no file of the user's by the same name.
_OWN_PATH = tuple(filter(None, sys.path))

# With `-c`, not `-m`: a grandchild of multiprocessing would import a main module again.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[6:];"
    " from trio_jobs.child_process import main; main(*map(int, sys.argv[1:6]))"
)


class ProcessGroup:
    """A child process and the processes that it starts; empty until `start`.

    Attributes:
        pidfd: A descriptor that becomes readable when the child exits; -1 if there is none.
    """

    def __init__(self) -> None:
        self.pidfd = -1
        self._leader: subprocess.Popen[bytes] | None = None
        self._lifeline = -1

    def start(self, requests: int, answers: int, memory: int, *, folder: int | None) -> None:
        """Start the child. Blocks: call it in a thread, whose signal mask it changes.

        Args:
            requests: The descriptor that the child reads from.
            answers: The descriptor that the child writes to.
            memory: The descriptor of the memory that the child shares with the server.
            folder: A descriptor of the folder that the child starts in; None for the current one.

        Raises:
            OSError: The child cannot be started.
        """
        with contextlib.ExitStack() as theirs:
            lifeline, self._lifeline = make_pipe(theirs)
            numbers = [requests, answers, memory, lifeline, -1 if folder is None else folder]
            # Signals wait until the child has installed its handlers.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self._leader = subprocess.Popen(  # noqa: S603
                    [sys.executable, *_flags(), "-c", _BOOT, *map(str, numbers), *_OWN_PATH],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[number for number in numbers if number >= 0],
                    process_group=0,
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            self.pidfd = os.pidfd_open(self._leader.pid)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _PASSING:
                raise

    def has_ended(self) -> bool:
        """Whether the child has exited; True before `start` as well.

        Where `os.waitid` exists, this does not reap the child: its group must be killed first.
        """
        if self._leader is None or self._leader.returncode is not None:
            return True
        if not hasattr(os, "waitid"):
            return self._reap()
        try:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._leader.pid, options) is not None
        except ChildProcessError:  # another part of the program has reaped it
            return True

    def kill_group(self) -> None:
        """Kill the child and all processes that it has started, at once."""
        # Until the leader is reaped, no other group can have the group's number.
        if self._leader is not None and self._leader.returncode is None:
            # These errors say that the group is empty, or that it now belongs to another user.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._leader.pid, signal.SIGKILL)

    async def kill(self) -> None:
        """Kill the child and all processes that it has started, and wait for the child's end.

        Cancellation:
            Not acted on. The kernel needs little time for this; the wait ends after 0.5 s.
        """
        self.kill_group()
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + EXIT_TIME):
                await self.wait_exited()  # noqa: ASYNC102 - bounded
        finally:
            self.kill_group()  # the processes that were forked meanwhile
            self._reap()
            self.close()

    def close(self) -> None:
        """Close the descriptors; a forked copy of the server calls this too."""
        for number in self.pidfd, self._lifeline:
            if number >= 0:
                os.close(number)
        self.pidfd = self._lifeline = -1

    async def wait_cause(self) -> str:
        """Wait at most 0.5 s for the child's end, kill it, and say how it ended.

        Returns:
            The predicate of a sentence whose subject is the process.
        """
        with trio.move_on_after(EXIT_TIME):
            await self.wait_exited()
        exited_by_itself = self.has_ended()
        await self.kill()
        if not exited_by_itself:
            return "has closed its pipes to the server, and was killed for that"
        status = None if self._leader is None else self._leader.returncode
        if status is None or status == _UNKNOWN:
            return "has ended"
        if status < 0:
            return f"was killed by signal {-status} ({signal.strsignal(-status)})"
        return f"ended itself with status {status}"

    async def wait_exited(self) -> None:
        """Wait until the child has exited."""
        if self.has_ended():
            return
        if self.pidfd >= 0:
            await trio.lowlevel.wait_readable(self.pidfd)
        else:
            with contextlib.suppress(RuntimeError):  # no thread can be started: do not wait
                await trio.to_thread.run_sync(
                    self._wait_in_thread, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
                )

    def _wait_in_thread(self) -> None:
        if self._leader is None:
            return
        if hasattr(os, "waitid"):  # do not reap in here: this thread may be left behind
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._leader.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._reap(block=True)

    def _reap(self, *, block: bool = False) -> bool:
        """Reap the child; returns whether it had exited."""
        leader = self._leader
        if leader is None or leader.returncode is not None:
            return True
        try:
            pid, status = os.waitpid(leader.pid, 0 if block else os.WNOHANG)
        except ChildProcessError:  # SIGCHLD is ignored, or another part has reaped it
            leader.returncode = _UNKNOWN
            return True
        if pid:
            leader.returncode = os.waitstatus_to_exitcode(status)
        return bool(pid)


def make_pipe(theirs: contextlib.ExitStack, *, ours_reads: bool = False) -> tuple[int, int]:
    """The read and the write end of a pipe; ``theirs`` closes the child's end.

    Args:
        theirs: Closes the ends of the child's pipes once the child has been started.
        ours_reads: Whether the server reads from this pipe; otherwise it writes to it.
    """
    read, write = map(beyond_standard_streams, os.pipe())
    theirs.callback(os.close, write if ours_reads else read)
    os.set_blocking(read if ours_reads else write, False)
    return read, write


def beyond_standard_streams(number: int) -> int:
    """Move a descriptor to a number above 2.

    A server that was started without standard streams gets their numbers for its first
    descriptors; in a child, these numbers belong to the child's own streams.
    """
    if number > 2:
        return number
    try:
        return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(number)


def _flags() -> list[str]:
    """The options of this interpreter, and `-P`, so that the child adds no folder to its path."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags if "-P" in flags or "-I" in flags else [*flags, "-P"]
