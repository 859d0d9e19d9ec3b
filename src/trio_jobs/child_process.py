"""The program of a child process: runs one handler's function at a time, from JSON to JSON.

Imports neither Trio nor a module of the server, unless a user's module imports it.
"""

import contextlib
import fcntl
import os
import runpy
import select
import signal
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import msgspec

from trio_jobs.current_job import current_job_id
from trio_jobs.error_text import Failure, describe
from trio_jobs.fork_mask import ForkMask
from trio_jobs.handlers.child_lifespan import ChildLifespan
from trio_jobs.handlers.child_log import ChildLog, LogLine, line_text
from trio_jobs.handlers.child_progress import ChildProgress
from trio_jobs.handlers.child_trace import span_around
from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.frames import (
    HEADER,
    TIME,
    Call,
    Function,
    Hello,
    Kind,
    Program,
    Settings,
    frame,
)
from trio_jobs.handlers.handler import Handler, Run, run_plain
from trio_jobs.handlers.importing import (
    HandlerError,
    find_shortage,
    imports_in_child,
    load_function,
    one_line,
)
from trio_jobs.handlers.loaded_files import SameModules, changed_files
from trio_jobs.handlers.opening_errors import LifespanError
from trio_jobs.handlers.progress_report import ProgressReport

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

# The place of a lifespan among the faults; no module has this name.
_LIFESPAN = "[lifespan]"

_T = TypeVar("_T", bound=msgspec.Struct)


def main(requests: int, answers: int, lifeline: int, folder: int) -> None:
    """Run functions until the server closes the pipe.

    Args:
        requests: The descriptor that frames are read from.
        answers: The descriptor that frames are written to.
        lifeline: The read end of a pipe whose other end closes when the server ends.
        folder: The descriptor of the folder to start in; -1 for the current one.
    """
    for number in (requests, answers, lifeline, folder):
        if number >= 0:
            os.set_inheritable(number, False)
    _take_signals()
    _end_with_server(lifeline)
    if folder >= 0:
        with contextlib.suppress(OSError):  # this user may not be allowed to enter the folder
            os.fchdir(folder)
        os.close(folder)
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    server = _Server(requests, answers)
    ForkMask(partial(_become_a_copy, server)).watch()
    settings = server.read(Settings)
    if settings is not None:
        log = ChildLog(server.send_line)
        log.install(settings.log_level)
        functions = _Functions(settings)
        functions.load()
        server.end_copy()
        server.write(Kind.HELLO, msgspec.json.encode(functions.hello()))
        while (call := server.read(Call)) is not None:
            log.job_id = call.job_id
            _run(call, functions, server)
            log.job_id = None
        functions.lifespan.leave()


class _Server:
    """The two pipes to the server. A forked copy of this process closes them."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests = requests
        self._answers = answers
        self._lock = threading.RLock()
        self._frames: deque[bytes] = deque()
        self._writing = False
        self.is_copy = False

    def read(self, type: type[_T]) -> _T | None:  # noqa: A002
        """Wait for the next frame, and decode it as ``type``; None if the pipe is closed."""
        header = self._read(HEADER.size)
        if header is None:
            return None
        body = self._read(HEADER.unpack(header)[1])
        return None if body is None else msgspec.json.decode(body, type=type)

    def write(self, kind: Kind, body: bytes, *, before: bytes = b"") -> None:
        """Write the frame ``before`` and one more; blocks while the server does not read."""
        self._frames.append(before + frame(kind, body))
        with self._lock:
            if self._writing:
                # A signal handler that logs has interrupted this function in the same thread.
                # The interrupted call goes on to write this frame as well.
                return
            self._writing = True
            try:
                while self._frames:
                    self._write(memoryview(self._frames.popleft()))
            finally:
                self._writing = False

    def send_line(self, line: LogLine) -> None:
        """Send a line to the server's log. A copy writes it to standard error."""
        if self.is_copy:
            # In one write, so that the lines of other processes do not come in its middle.
            os.write(2, line_text(line).encode(errors="backslashreplace"))
        else:
            self.write(Kind.LOG, msgspec.json.encode(line))

    def send_report(self, report: ProgressReport) -> None:
        """Send what the running job has reported."""
        self.write(Kind.PROGRESS, msgspec.json.encode(report))

    def become_a_copy(self) -> None:
        """Close the pipes, which are the original's."""
        self.is_copy = True
        os.close(self._requests)
        os.close(self._answers)

    def end_copy(self) -> None:
        """End this process if it is a copy, which a module has forked during its import."""
        if self.is_copy:
            os._exit(0)

    def _read(self, length: int) -> bytes | None:
        # Not by a file object: a thread that reads would hold its lock, and block a forked copy.
        data = bytearray()
        while len(data) < length:
            chunk = os.read(self._requests, min(length - len(data), 1 << 20))
            if not chunk:
                return None
            data += chunk
        return bytes(data)

    def _write(self, data: memoryview) -> None:
        try:
            while data:
                data = data[os.write(self._answers, data) :]
        except BrokenPipeError:  # the server ends, or has ended
            os._exit(1)


class _Functions:
    """The handlers by name.

    A failed import is not tried again: with the module half imported, it would fail in another way.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._handlers: dict[Function, Handler] = {}
        self._faults: dict[str, Failure] = {}  # by the name of a module or a function
        self._shortage: str | None = None
        self._changed: list[str] = []
        self.lifespan = ChildLifespan()
        sys.path[:] = settings.path
        SameModules(settings.files).install()
        sys.argv[:] = settings.arguments

    def load(self) -> None:
        """Import all functions, and enter the lifespan. No job's time limit runs meanwhile."""
        token = imports_in_child.set(True)
        try:
            if self._settings.program is not None:
                fault = _load_program(self._settings.program)
                if fault is not None:
                    self._note("__main__", fault)
            for function in self._settings.functions:
                self.find(function)
            with self._noting_lifespan():
                if self._settings.lifespan is not None:
                    self.lifespan.load(self._settings.lifespan)
        finally:
            imports_in_child.reset(token)
        self._changed = changed_files(self._settings.files, loaded_only=not self._faults)
        if not self._changed:
            with self._noting_lifespan():
                self.lifespan.enter()

    def hello(self) -> Hello:
        """The result of `load`."""
        return Hello(
            changed=self._changed,
            shortage=self._shortage,
            faulty=bool(self._faults),
        )

    def find(self, function: Function) -> Handler | Failure:
        """The handler of this function, or the failure of its import."""
        name = function.name
        module, _, _ = name.partition(":")
        known = (
            self._faults.get(_LIFESPAN)
            or self._handlers.get(function)
            or self._faults.get(name)
            or self._faults.get(module)
        )
        if known is not None:
            return known
        try:
            handler = Handler.of(
                load_function(name), run=Run.PROCESS, spread=function.spread, name=name
            )
        except BaseException as error:  # noqa: ASYNC103, BLE001 - a user's module
            return self._note(name if module in sys.modules else module, error)  # noqa: ASYNC104 - no event loop
        self._handlers[function] = handler
        return handler

    def context_of(
        self, call: Call, report: Callable[[ProgressReport], None]
    ) -> JobContext[object]:
        """The context of a job, which reports its progress by ``report``."""
        return JobContext(
            id=call.job_id,
            type=call.job_type,
            submitted_at=call.submitted_at,
            attempt=call.attempt,
            last_attempt=call.last_attempt,
            state=self.lifespan.state,
            _report=report,
        )

    @contextlib.contextmanager
    def _noting_lifespan(self) -> Iterator[None]:
        try:
            yield
        except LifespanError as error:
            self._note(_LIFESPAN, error)

    def _note(self, key: str, error: BaseException) -> Failure:
        self._shortage = self._shortage or find_shortage(error)
        self._faults[key] = describe(error)
        return self._faults[key]


def _run(call: Call, functions: _Functions, server: _Server) -> None:
    token = current_job_id.set(call.job_id)
    found = functions.find(call.function)
    server.end_copy()
    progress = ChildProgress(server.send_report)

    def report(report: ProgressReport) -> None:
        if not server.is_copy:  # a copy's threads are gone, and may have held a lock
            progress.report(report)

    if isinstance(found, Failure):
        answer: bytes | Failure = found
    else:
        context = functions.context_of(call, report) if found.takes_context else None
        payload = bytes(call.payload)
        with span_around(call.trace):
            answer = run_plain(found, payload, context, max_result_bytes=call.max_result_bytes)
    progress.end(send=isinstance(answer, Failure))  # behind a success nobody looks at it
    ended = frame(Kind.ENDED, TIME.pack(time.perf_counter()))
    if isinstance(answer, Failure):
        server.write(Kind.FAILURE, msgspec.json.encode(answer), before=ended)
    else:
        server.write(Kind.RESULT, answer, before=ended)
    current_job_id.reset(token)


def _load_program(program: Program) -> HandlerError | None:
    """Run the program's file under another name than ``__main__``, as multiprocessing does.

    Returns:
        The fault; None if there is none.
    """
    try:
        if program.module is not None:
            content = runpy.run_module(program.module, run_name="__mp_main__", alter_sys=True)
        elif program.file is not None:
            content = runpy.run_path(program.file, run_name="__mp_main__")
        else:
            return HandlerError("is defined in a program that has no file")
    except BaseException as error:  # noqa: ASYNC103, BLE001 - the user's program
        fault = HandlerError(f"the program could not be imported: {one_line(error)}")
        fault.__cause__ = error
        return fault  # noqa: ASYNC104 - there is no event loop here
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return None


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


def _become_a_copy(server: _Server) -> None:
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
