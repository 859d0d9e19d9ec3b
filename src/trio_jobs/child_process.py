"""What runs in a child process: one handler's function at a time, from JSON to JSON.

Neither Trio nor anything of the server is imported here, unless the user's modules import it.
"""

import _thread
import contextlib
import errno
import fcntl
import mmap
import os
import runpy
import select
import signal
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TypeVar

import msgspec

from trio_jobs.child_log import ChildLog, line_text
from trio_jobs.current_job import current_job_id
from trio_jobs.error_text import Failure, describe
from trio_jobs.fork_mask import ForkMask
from trio_jobs.handlers.frames import (
    HEADER,
    TIME,
    Call,
    Hello,
    Kind,
    LogLine,
    Program,
    Settings,
    frame,
)
from trio_jobs.handlers.handler import Handler, Run, run_plain
from trio_jobs.handlers.importing import HandlerError, imports_in_child, load_function, one_line
from trio_jobs.handlers.loaded_files import changed_files
from trio_jobs.handlers.same_modules import SameModules

# What these mean is for the server to say: a terminal and a service manager send them to each
# process of it. So they do nothing here. Not by being ignored, which the programs that a function
# starts would inherit; with a handler, they get the default.
_MEANT_FOR_THE_SERVER = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

# Of these errors while modules are imported none is the modules' fault.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

# More than the import of a module mostly needs at a time.
_PROBED_PIPES = 4
_PROBED_BYTES = 64 * 1024 * 1024

_T = TypeVar("_T", bound=msgspec.Struct)


def main(requests: int, answers: int, lifeline: int, folder: int) -> None:
    """Run functions until the server closes the pipe.

    Args:
        requests: The descriptor that frames are read from.
        answers: The one that they are written to.
        lifeline: Closes when the server is gone.
        folder: The folder to start in; -1 for where this process is.
    """
    for number in (requests, answers, lifeline, folder):
        if number >= 0:
            os.set_inheritable(number, False)
    _take_signals()
    _end_with_server(lifeline)
    if folder >= 0:
        with contextlib.suppress(OSError):  # it may not be entered any more
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


class _Server:
    """The two pipes to the server. A copy that a fork has made of this process has none."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests = requests
        self._answers = answers
        self._lock = threading.RLock()
        self._frames: deque[bytes] = deque()
        self._writing = False
        self.is_copy = False

    def read(self, type: type[_T]) -> _T | None:  # noqa: A002
        """The next frame, which is of this type; None if the server has closed the pipe."""
        header = self._read(HEADER.size)
        if header is None:
            return None
        body = self._read(HEADER.unpack(header)[1])
        return None if body is None else msgspec.json.decode(body, type=type)

    def write(self, kind: Kind, body: bytes, *, before: bytes = b"") -> None:
        """Write a frame, whole, and one before it; blocks as long as the server does not read."""
        self._frames.append(before + frame(kind, body))
        with self._lock:
            if self._writing:
                # A signal's handler that logs has interrupted this very function, which goes on
                # to write its line as well.
                return
            self._writing = True
            try:
                while self._frames:
                    self._write(memoryview(self._frames.popleft()))
            finally:
                self._writing = False

    def send_line(self, line: LogLine) -> None:
        """Send a line to the server's log; a copy writes it to standard error."""
        if self.is_copy:
            # At once: the lines of other processes come before it or after it.
            os.write(2, line_text(line).encode(errors="backslashreplace"))
        else:
            self.write(Kind.LOG, msgspec.json.encode(line))

    def become_a_copy(self) -> None:
        """Let go of the pipes: they are the original's."""
        self.is_copy = True
        os.close(self._requests)
        os.close(self._answers)

    def end_copy(self) -> None:
        """End this process if a module has forked it while it was imported."""
        if self.is_copy:
            os._exit(0)

    def _read(self, length: int) -> bytes | None:
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
        except BrokenPipeError:  # the server ends, or has ended; nobody waits for this process
            os._exit(1)


class _Functions:
    """The handlers, by their names.

    What could not be imported is not imported again: what a module has left behind, half-way, would
    make it fail in another way.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._handlers: dict[str, Handler] = {}
        # By the names of modules, and of functions that are not what they should be.
        self._faults: dict[str, Failure] = {}
        self._shortage: str | None = None
        sys.path[:] = settings.path
        SameModules(settings.files).install()
        sys.argv[:] = settings.arguments

    def load(self) -> None:
        """Import them, which takes as long as their modules like, but is none of their time."""
        token = imports_in_child.set(True)
        try:
            if self._settings.program is not None:
                fault = _load_program(self._settings.program)
                if fault is not None:
                    self._note("__main__", fault)
            for name in self._settings.names:
                self.find(name)
        finally:
            imports_in_child.reset(token)

    def hello(self) -> Hello:
        """What has come of it."""
        return Hello(
            changed=changed_files(self._settings.files, loaded_only=not self._faults),
            shortage=self._shortage,
            faulty=bool(self._faults),
        )

    def find(self, name: str) -> Handler | Failure:
        """The handler of this name, or why it cannot be had."""
        module, _, _ = name.partition(":")
        known = self._handlers.get(name) or self._faults.get(name) or self._faults.get(module)
        if known is not None:
            return known
        try:
            handler = Handler.of(load_function(name), run=Run.PROCESS, name=name)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - a user's module
            return self._note(name if module in sys.modules else module, error)  # noqa: ASYNC104 - no event loop
        self._handlers[name] = handler
        return handler

    def _note(self, key: str, error: BaseException) -> Failure:
        self._shortage = self._shortage or _shortage(error)
        self._faults[key] = describe(error)
        return self._faults[key]


def _run(call: Call, functions: _Functions, server: _Server) -> None:
    token = current_job_id.set(call.job_id)
    found = functions.find(call.name)
    server.end_copy()
    # A copy that the function forks ends in there, where the function does.
    answer = (
        found
        if isinstance(found, Failure)
        else run_plain(found, bytes(call.payload), max_result_bytes=call.max_result_bytes)
    )
    ended = frame(Kind.ENDED, TIME.pack(time.perf_counter()))
    if isinstance(answer, Failure):
        server.write(Kind.FAILURE, msgspec.json.encode(answer), before=ended)
    else:
        server.write(Kind.RESULT, answer, before=ended)
    current_job_id.reset(token)


def _load_program(program: Program) -> HandlerError | None:
    """Run the program's own file, as multiprocessing does, under another name than ``__main__``."""
    try:
        if program.module is not None:
            content = runpy.run_module(program.module, run_name="__mp_main__", alter_sys=True)
        elif program.file is not None:
            content = runpy.run_path(program.file, run_name="__mp_main__")
        else:
            return HandlerError("is defined in a program that has no file")
    except BaseException as error:  # noqa: ASYNC103, BLE001  (it is the user's)
        fault = HandlerError(f"the program could not be imported: {one_line(error)}")
        fault.__cause__ = error
        return fault  # noqa: ASYNC104 - there is no event loop here
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return None


def _shortage(fault: BaseException) -> str | None:
    """What the machine or this process has run out of, if that is why an import has failed."""
    for error in _causes(fault):
        if (
            isinstance(error, MemoryError)
            or (isinstance(error, OSError) and error.errno in _EXHAUSTED)
            or (isinstance(error, RuntimeError) and "start new thread" in str(error))
        ):
            return one_line(error)
    return one_line(fault) if _is_exhausted() else None


def _is_exhausted() -> bool:
    """Whether this process cannot have what an import may need.

    An error does not always tell: the linker's have no number, and EAGAIN says that a process
    cannot be started as well as that a file is locked.
    """
    pipes: list[int] = []
    try:
        for _ in range(_PROBED_PIPES):
            pipes += os.pipe()
        mmap.mmap(-1, _PROBED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        _thread.start_new_thread(int, ())
    except (OSError, MemoryError, RuntimeError):
        return True
    finally:
        for number in pipes:
            os.close(number)
    return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


# Signals and the end of the server. -------------------------------------------------------------


def _take_signals() -> None:
    for number in _MEANT_FOR_THE_SERVER:
        # What was ignored when the server was started, by nohup, stays ignored.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _do_nothing)
    for number in (signal.SIGCHLD, signal.SIGALRM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # They have waited since before this process was started.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _do_nothing(_number: int, _frame: types.FrameType | None) -> None:
    pass


def _become_a_copy(server: _Server) -> None:
    """Run in each copy that is made by a fork: it is the user's program, and can be ended."""
    if server.is_copy:
        return  # a copy's copy: it keeps what that one has set
    server.become_a_copy()
    for number in _MEANT_FOR_THE_SERVER:
        if signal.getsignal(number) is _do_nothing:
            default = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def _end_with_server(lifeline: int) -> None:
    """Let the kernel kill this process and all of its group when the server has gone.

    Not ``PR_SET_PDEATHSIG``: that fires when the *thread* that started the child
    ends, and Trio's threads end after ten idle seconds. Not a thread that waits
    for the pipe, where there is another way: it cannot run while a function
    holds the GIL.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        threading.Thread(target=_wait_for_servers_end, args=[lifeline], daemon=True).start()
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())  # the group, by its negative number
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it closed before the kernel was asked
        os.killpg(0, signal.SIGKILL)


def _wait_for_servers_end(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)
