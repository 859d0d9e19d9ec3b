"""The log of a child process: its lines, and what fails in its threads, go to the server's log.

Neither Trio nor anything of the server is imported here.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator

from trio_jobs.current_job import current_job_id
from trio_jobs.error_text import describe, readable
from trio_jobs.handlers.frames import MAX_LOG_TEXT, MAX_LOG_TRACEBACK, LogLine

log = logging.getLogger("trio_jobs.child_process")

# How many fields of a log line cross.
_MAX_FIELDS = 50

# What every record has. Everything else in one came from ``extra``.
_RECORD_ATTRIBUTES = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"])


class ChildLog(logging.Handler):
    """Takes the lines of all loggers, warnings and what fails in a thread.

    Args:
        send: Called with each line, also by a copy that a fork has made of the process.

    Attributes:
        job_id: The job whose function runs; for lines of other threads than its own.
    """

    def __init__(self, send: Callable[[LogLine], None]) -> None:
        super().__init__()
        self._send = send
        self.job_id: str | None = None

    def install(self, level: int) -> None:
        """Take the lines of this level and above."""
        root = logging.getLogger()
        root.addHandler(self)
        root.setLevel(level)
        logging.captureWarnings(capture=True)
        threading.excepthook = _log_thread_error
        sys.unraisablehook = _log_unraisable_error

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line."""
        # What is logged must not fail because of its log; user code runs in there, which may
        # raise anything.
        with contextlib.suppress(BaseException):
            self._send(_line(record, current_job_id.get() or self.job_id))


def _line(record: logging.LogRecord, job_id: str | None) -> LogLine:
    traceback = record.exc_text
    if record.exc_info and record.exc_info[1] is not None:
        traceback = describe(record.exc_info[1]).traceback
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


def line_text(line: LogLine) -> str:
    """The line, with its end, as a copy of the process writes it to standard error."""
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
