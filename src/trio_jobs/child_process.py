"""The program of a child process: runs one handler's function at a time, from JSON to JSON.

Imports neither Trio nor a module of the server, unless a user's module imports it.
"""

import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
import types
from functools import partial

from trio_jobs.fork_mask import ForkMask
from trio_jobs.handlers.call_marks import CallMarks
from trio_jobs.handlers.child_calls import run_calls
from trio_jobs.handlers.child_functions import ChildFunctions
from trio_jobs.handlers.child_log import ChildLog
from trio_jobs.handlers.frames import Kind, Settings, pack, unpack
from trio_jobs.handlers.server_pipes import ServerPipes

# A terminal and a service manager send these to each process of the server; only the server acts
# on them. A child has a handler for them that does nothing. It does not ignore them: the programs
# that a function starts would inherit an ignored signal, but they get the default action in place
# of a handler.
_MEANT_FOR_THE_SERVER = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def main(requests: int, answers: int, memory: int, lifeline: int, folder: int) -> None:
    """Run functions until the server closes the pipe.

    Args:
        requests: The descriptor that frames are read from.
        answers: The descriptor that frames are written to.
        memory: The descriptor of the memory for `CallMarks`.
        lifeline: The read end of a pipe whose other end closes when the server ends.
        folder: The descriptor of the folder to start in; -1 for the current one.
    """
    for number in (requests, answers, memory, lifeline, folder):
        if number >= 0:
            os.set_inheritable(number, False)
    _take_signals()
    _end_with_server(lifeline)
    marks = CallMarks(memory)
    os.close(memory)
    if folder >= 0:
        with contextlib.suppress(OSError):  # this user may not be allowed to enter the folder
            os.fchdir(folder)
        os.close(folder)
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    server = ServerPipes(requests, answers)
    ForkMask(partial(_become_a_copy, server)).watch()
    body = server.read()
    if body is not None:
        settings = unpack(body, Settings)
        log = ChildLog(server.send_line)
        log.install(settings.log_level)
        functions = ChildFunctions(settings)
        functions.load()
        server.end_copy()
        server.write(Kind.HELLO, pack(functions.hello()))
        run_calls(server, marks, functions, log)
        functions.lifespan.leave()


def _take_signals() -> None:
    for number in _MEANT_FOR_THE_SERVER:
        # A SIGHUP that nohup ignored when the server was started stays ignored.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _do_nothing)
    for number in (signal.SIGCHLD, signal.SIGALRM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # The server has blocked all signals before the start of this process.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _do_nothing(_number: int, _frame: types.FrameType | None) -> None:
    pass


def _become_a_copy(server: ServerPipes) -> None:
    """Give a forked copy its own signals back: it is the user's program, and may be terminated."""
    if server.is_copy:
        return  # a copy of a copy keeps the signals of the first one
    server.become_a_copy()
    for number in _MEANT_FOR_THE_SERVER:
        if signal.getsignal(number) is _do_nothing:
            default = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def _end_with_server(lifeline: int) -> None:
    """Let the kernel kill this process and its group when the server has ended.

    With ``F_SETSIG``, the end of the pipe sends the signal. Without it, a thread has to wait for
    the pipe's end, and cannot run while a function holds the GIL. ``PR_SET_PDEATHSIG`` would kill
    too early: when the *thread* ends that started the child, and Trio's end after ten idle seconds.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        threading.Thread(target=_wait_for_servers_end, args=[lifeline], daemon=True).start()
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())  # the group, by its negative number
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the server had ended before
        os.killpg(0, signal.SIGKILL)


def _wait_for_servers_end(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)
