"""`Logs`: the log of this process, installed by `start_logging` and held against user code.

Each module logs as ``log.info("job_failed", extra={"job_id": job.id})``. Lines of libraries,
warnings, and errors in threads and finalizers come out in the same form and by the same way: Python
itself would write them to standard error, and wait when nobody reads that.
"""

import contextvars
import logging
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping

import trio

from trio_jobs.log_hooks import ErrorHooks
from trio_jobs.logs.formatter import LineFormat, LogFormatter, event_record
from trio_jobs.logs.own_loggers import disown_loggers, own_loggers
from trio_jobs.logs.writer import LogWriter

log = logging.getLogger("trio_jobs.logs")

# What user code may take from the log; in the order of `Logs._intact`.
_NAMES = (
    "log handler",
    "log level",
    "logging.disable",
    "warnings.showwarning",
    "threading.excepthook",
    "sys.unraisablehook",
)


def start_logging(level: str, line_format: LineFormat, *, fd: int = 2) -> "Logs":
    """Send all log lines of ``level`` and above to ``fd``.

    Call it before Quart makes its logger: Quart adds a handler of its own when it finds none.

    Args:
        level: A name that logging knows: ``DEBUG``, ``INFO``, …
        line_format: Of `LogFormatter`.
        fd: Written to as it is now, whatever becomes of the number.
    """
    return Logs(logging.getLevelNamesMapping()[level], LogFormatter(line_format), fd)


class Logs:
    """The log of this process; see `start_logging`.

    The server's own lines need only the writer (`own_loggers`). What is held besides is for the
    lines of handlers and libraries, for warnings, and for errors in threads and finalizers.
    """

    def __init__(self, level: int, formatter: LogFormatter, fd: int) -> None:
        self._level = level
        self._formatter = formatter
        self._writer = LogWriter(fd, formatter)
        self._root = logging.getLogger()
        self._before = (self._root.level, threading.excepthook, sys.unraisablehook)
        self._show_warning: object = None
        hooks = ErrorHooks(log)
        self._thread_hook = hooks.log_thread_error
        self._unraisable_hook = hooks.log_unraisable_error
        own_loggers(self._writer, level)
        self.put_back()

    def flush(self, *, seconds: float) -> bool:
        """Wait until the lines logged so far are written; False if that takes longer.

        Blocks the thread, so it is for the end of the program. Lines may be logged afterwards;
        the process's end loses those that are not flushed.
        """
        return self._writer.flush_within(seconds)

    def write_final(
        self,
        logger: str,
        level: int,
        events: Iterable[tuple[str, Mapping[str, object]]],
        *,
        seconds: float,
    ) -> int:
        """Write lines that must not be dropped, after those logged so far, past the queue.

        Half of the time is for the queued lines, the rest for these. Blocks the thread, so it is
        for the end of the program.

        Args:
            logger: The name in the lines.
            level: The level in the lines; they are written whatever the log's level is.
            events: Events with their fields. A line keeps 2,000 characters of a field, or fewer if
                there are many: name many jobs in many lines. The next one is taken when the last
                one has been written.
            seconds: The longest time this may take.

        Returns:
            How many lines were written.
        """
        records = (event_record(logger, level, event, fields) for event, fields in events)
        return self._writer.write_final(records, seconds)

    def render(
        self, logger: str, event: str, stack: str = "", fields: Mapping[str, object] | None = None
    ) -> bytes:
        """Return a critical line in this log's format, for code that writes it past the log."""
        record = event_record(logger, logging.CRITICAL, event, fields or {}, stack=stack)
        # A signal handler runs in the context of the task that it interrupts; the line is not
        # about that task's job.
        return contextvars.Context().run(self._formatter.render, record)

    def give_up(self) -> None:
        """Write lines where they are logged, in a forked child."""
        self._writer.write_directly()

    def taken(self) -> tuple[str, ...]:
        """Return the names of what user code has taken from the log. Costs under a microsecond."""
        intact = (
            self._writer in self._root.handlers and not self._writer.level,
            self._root.level == self._level and not self._root.disabled,
            not self._root.manager.disable,
            # A handler may be recording warnings (`warnings.catch_warnings`), which must not be
            # ended: while the event loop runs, nothing is taken.
            warnings.showwarning is self._show_warning or trio.lowlevel.in_trio_run(),
            threading.excepthook is self._thread_hook,
            sys.unraisablehook is self._unraisable_hook,
        )
        if all(intact):
            return ()
        return tuple(name for name, ok in zip(_NAMES, intact, strict=True) if not ok)

    def put_back(self) -> None:
        """Install all of the log that is not there."""
        if self._writer not in self._root.handlers:
            self._root.addHandler(self._writer)
        self._writer.setLevel(logging.NOTSET)
        self._root.disabled = False
        self._root.setLevel(self._level)
        logging.disable(logging.NOTSET)
        # Off first: on does nothing where Python takes it to be on.
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        self._show_warning = warnings.showwarning
        threading.excepthook = self._thread_hook
        sys.unraisablehook = self._unraisable_hook

    def close(self, *, seconds: float) -> None:
        """Flush, and leave logging as it was before `start_logging`; for tests.

        The command only flushes: without a handler, logging itself would write to standard error,
        and wait.
        """
        disown_loggers()
        self._root.removeHandler(self._writer)
        level, threading.excepthook, sys.unraisablehook = self._before
        self._root.setLevel(level)
        logging.captureWarnings(capture=False)
        self._writer.close_within(seconds)
