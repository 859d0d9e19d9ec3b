"""What runs in a child process: one handler's function at a time, from JSON to JSON.

Neither Trio nor anything of the server is imported here, unless the user's modules import it.
"""

import contextlib
import errno
import fcntl
import logging
import os
import runpy
import select
import signal
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TypeVar

import msgspec

from trio_jobs.fork_mask import ForkMask
from trio_jobs.handlers.errors import Failure, describe_failure, readable
from trio_jobs.handlers.frames import (
    HEADER,
    MAX_LOG_TEXT,
    MAX_LOG_TRACEBACK,
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
from trio_jobs.handlers.loaded_files import changed_files
from trio_jobs.handlers.loading import HandlerError, imports_in_child, load_function, one_line
from trio_jobs.handlers.same_modules import SameModules
from trio_jobs.job import current_job_id
from trio_jobs.tracebacks import traceback_text

log = logging.getLogger("trio_jobs.child_process")

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

# How many fields of a log line cross.
_MAX_FIELDS = 50

# What every record has. Everything else in one came from ``extra``.
_RECORD_ATTRIBUTES = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"])

# Of these errors while modules are imported none is the modules' fault.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})

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
        _send_log(server, settings.log_level)
        functions = _Functions(settings)
        shortage = functions.load()
        server.end_copy()
        changed = changed_files(settings.files)
        server.write(Kind.HELLO, msgspec.json.encode(Hello(changed=changed, shortage=shortage)))
        while (call := server.read(Call)) is not None:
            _run(call, functions, server)


class _Server:
    """The two pipes to the server. A copy that a fork has made of this process has none."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests = requests
        self._answers = answers
        self._lock = threading.RLock()
        self._frames: deque[bytes] = deque()
        self._writing = False
        self.is_copy = False
        self.job_id: str | None = None

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
    """The handlers, by their names."""

    def __init__(self, settings: Settings) -> None:
        self._names = settings.names
        self._program = settings.program
        self._program_fault: HandlerError | None = None
        self._handlers: dict[str, Handler] = {}
        sys.path[:] = settings.path
        SameModules(settings.files).install()
        sys.argv[:] = settings.arguments

    def load(self) -> str | None:
        """Import them, which takes as long as their modules like, but is none of their time.

        Returns:
            What this process has run out of meanwhile, if it has. Other errors
            are those of the jobs that want the function.
        """
        token = imports_in_child.set(True)
        try:
            if self._program is not None:
                self._program_fault = _load_program(self._program)
            faults = [*filter(None, [self._program_fault, *map(self._fault, self._names)])]
        finally:
            imports_in_child.reset(token)
        return next(filter(None, map(_shortage, faults)), None)

    def find(self, name: str) -> Handler:
        """The handler of this name.

        Raises:
            HandlerError: It cannot be found, or its module not be imported.
        """
        if name not in self._handlers:
            if self._program_fault is not None and name.startswith("__main__:"):
                raise self._program_fault
            self._handlers[name] = Handler.of(load_function(name), run=Run.PROCESS, name=name)
        return self._handlers[name]

    def _fault(self, name: str) -> BaseException | None:
        try:
            self.find(name)
        except BaseException as error:  # noqa: ASYNC103, BLE001  (a user's module; told by the call)
            return error  # noqa: ASYNC104 - there is no event loop here
        return None


def _run(call: Call, functions: _Functions, server: _Server) -> None:
    server.job_id = call.job_id
    token = current_job_id.set(call.job_id)
    answer: bytes | Failure
    try:
        handler = functions.find(call.name)
        server.end_copy()
    except BaseException as error:  # noqa: ASYNC103, BLE001  (as in `_fault`)
        answer = describe_failure(error)
    else:
        # A copy that the function forks ends in there, where the function does.
        answer = run_plain(handler, bytes(call.payload), max_result_bytes=call.max_result_bytes)
    ended = frame(Kind.ENDED, TIME.pack(time.perf_counter()))
    if isinstance(answer, Failure):
        server.write(Kind.FAILURE, msgspec.json.encode(answer), before=ended)
    else:
        server.write(Kind.RESULT, answer, before=ended)
    current_job_id.reset(token)
    server.job_id = None


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
    return None


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


# The log. ---------------------------------------------------------------------------------------


def _send_log(server: _Server, level: int) -> None:
    """Send log lines, warnings and what fails in a thread to the server's log."""
    root = logging.getLogger()
    root.addHandler(_LogSender(server))
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_thread_error
    sys.unraisablehook = _log_unraisable_error


class _LogSender(logging.Handler):
    def __init__(self, server: _Server) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line to the server; a copy writes it to standard error."""
        # What is logged must not fail because of its log; user code runs in there, which may
        # raise anything.
        with contextlib.suppress(BaseException):
            line = _line(record, current_job_id.get() or self._server.job_id)
            if self._server.is_copy:
                # At once: the lines of other processes come before it or after it.
                os.write(2, _text(line).encode(errors="backslashreplace"))
            else:
                self._server.write(Kind.LOG, msgspec.json.encode(line))


def _line(record: logging.LogRecord, job_id: str | None) -> LogLine:
    traceback = record.exc_text
    if record.exc_info and record.exc_info[1] is not None:
        traceback = traceback_text(record.exc_info[1])
    extra = ((key, value) for key, value in vars(record).items() if key not in _RECORD_ATTRIBUTES)
    fields = {readable(str(key), 200): _plain(value) for key, value in _first(extra, _MAX_FIELDS)}
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - a message may not fit its arguments
        text = f"{record.msg} {record.args}"
    return LogLine(
        name=readable(record.name, 200),
        level=record.levelno,
        level_name=record.levelname,
        text=_cut(text, MAX_LOG_TEXT),
        created=record.created,
        process=os.getpid(),
        path=record.pathname,
        line=record.lineno,
        function=record.funcName,
        thread_name=record.threadName,
        job_id=job_id,
        traceback=None if traceback is None else _cut(traceback, MAX_LOG_TRACEBACK),
        stack=None if record.stack_info is None else _cut(record.stack_info, MAX_LOG_TRACEBACK),
        fields=fields,
    )


def _first(items: Iterable[tuple[str, object]], count: int) -> Iterator[tuple[str, object]]:
    for _, item in zip(range(count), items, strict=False):
        yield item


def _plain(value: object) -> str | int | float | bool | None:
    if value is None or type(value) in (bool, float):
        return value  # type: ignore[return-value]
    if type(value) is int and value.bit_length() <= 63:
        return value
    text = str.__str__(value) if isinstance(value, str) else repr(value)
    return _cut(text, MAX_LOG_TEXT)


def _cut(text: str, limit: int) -> str:
    """The end of a text, which says the most, as valid UTF-8."""
    return text[-limit:].encode(errors="backslashreplace").decode()


def _text(line: LogLine) -> str:
    fields = "".join(f" {key}={value!r}" for key, value in line.fields.items())
    job = "" if line.job_id is None else f" job_id={line.job_id}"
    below = f"\n{line.traceback.rstrip()}" if line.traceback else ""
    return f"{line.level_name} {line.name} {line.text}{job}{fields}{below}\n"


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else None
        log.error("thread_failed", extra={"thread_name": name}, exc_info=args.exc_value)


def _log_unraisable_error(args: "sys.UnraisableHookArgs") -> None:
    fields = {"cause": args.err_msg or "exception ignored", "where": args.object}
    log.error("exception_ignored", extra=fields, exc_info=args.exc_value)
