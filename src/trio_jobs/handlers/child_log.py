"""The log of a child process: its records cross to the server as lines, and are logged there."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from itertools import islice

import msgspec

from trio_jobs.current_job import current_job_id
from trio_jobs.error_text import describe, readable
from trio_jobs.log_hooks import RECORD_ATTRIBUTES, ErrorHooks

log = logging.getLogger("trio_jobs.child_process")

# Characters of a text and of a traceback, as in the server's log; and fields of a line.
MAX_LOG_TEXT = 2_000
MAX_LOG_TRACEBACK = 20_000
_MAX_FIELDS = 50


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A log record on its way to the server, with the field names of `logging.LogRecord`."""

    name: str
    levelno: int
    levelname: str
    msg: str
    created: float
    process: int
    pathname: str
    lineno: int
    funcName: str | None  # noqa: N815 - logging's name
    threadName: str | None  # noqa: N815
    exc_text: str | None
    stack_info: str | None
    fields: dict[str, str | int | float | bool | None]


class ChildLog(logging.Handler):
    """Sends the lines of all loggers, of `warnings` and of failed threads; in the child process.

    Args:
        send: Called with each line, also in a forked copy of the process.

    Attributes:
        job_id: The running job, for the lines of threads that the function has started.
    """

    def __init__(self, send: Callable[[LogLine], None]) -> None:
        super().__init__()
        self._send = send
        self.job_id: str | None = None

    def install(self, level: int) -> None:
        """Begin to send lines of this level and above."""
        root = logging.getLogger()
        root.addHandler(self)
        root.setLevel(level)
        logging.captureWarnings(capture=True)
        hooks = ErrorHooks(log)
        threading.excepthook = hooks.log_thread_error
        sys.unraisablehook = hooks.log_unraisable_error

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line."""
        # The user's objects in a record may raise anything; that must not fail the function.
        with contextlib.suppress(BaseException):
            self._send(_line_of(record, current_job_id.get() or self.job_id))


def _line_of(record: logging.LogRecord, job_id: str | None) -> LogLine:
    traceback = record.exc_text
    if record.exc_info and record.exc_info[1] is not None:
        traceback = describe(record.exc_info[1]).traceback
    extra = (each for each in vars(record).items() if each[0] not in RECORD_ATTRIBUTES)
    fields = {readable(str(key), 200): _plain(each) for key, each in islice(extra, _MAX_FIELDS)}
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - the message may not fit its arguments
        text = f"{record.msg} {record.args}"
    return LogLine(
        name=readable(record.name, 200),
        levelno=record.levelno,
        levelname=record.levelname,
        msg=_end(text, MAX_LOG_TEXT),
        created=record.created,
        process=os.getpid(),
        pathname=record.pathname,
        lineno=record.lineno,
        funcName=record.funcName,
        threadName=record.threadName,
        exc_text=traceback and _end(traceback, MAX_LOG_TRACEBACK),
        stack_info=record.stack_info and _end(record.stack_info, MAX_LOG_TRACEBACK),
        fields=fields if job_id is None else {"job_id": job_id, **fields},
    )


def _plain(value: object) -> str | int | float | bool | None:
    if value is None or type(value) in (bool, float):
        return value  # type: ignore[return-value]
    if type(value) is int and value.bit_length() <= 63:
        return value
    return _end(str.__str__(value) if isinstance(value, str) else repr(value), MAX_LOG_TEXT)


def _end(text: str, limit: int) -> str:
    """The end of a text, which says the most, as valid UTF-8."""
    return text[-limit:].encode(errors="backslashreplace").decode()


def line_text(line: LogLine) -> str:
    """The line, with its line feed, as a forked copy of the child writes it to standard error."""
    fields = "".join(
        f" {key}={value if key == 'job_id' else repr(value)}" for key, value in line.fields.items()
    )
    below = f"\n{line.exc_text.rstrip()}" if line.exc_text else ""
    return f"{line.levelname} {line.name} {line.msg}{fields}{below}\n"


def log_line(line: LogLine) -> None:
    """Log a child's line; in the server.

    The line goes to this module's logger alone. The filters and handlers of the logger that it
    names are user code, and have seen the record in the child. So has the record factory.
    """
    # A program's log handlers may raise anything; that must not fail the job.
    with contextlib.suppress(BaseException):
        if logging.getLogger(line.name).isEnabledFor(line.levelno):
            record = logging.LogRecord("", 0, line.pathname, 0, "", (), None)
            attributes = msgspec.structs.asdict(line)
            fields = attributes.pop("fields")
            msecs = line.created % 1 * 1000
            vars(record).update(fields, **attributes, msecs=msecs, processName="child")
            log.handle(record)
