"""`Logs`: the log of this process. `start_logging` installs it, `put_back` restores its parts.

Each module logs as ``log.info("job_failed", extra={"job_id": job.id})``. Lines of libraries,
warnings, and errors in threads and finalizers are written in the same form. Without that, Python
writes them to standard error, and blocks while nobody reads it.
"""

import contextvars
import logging
import sys
import threading
import warnings
from collections.abc import Mapping

import trio

from trio_jobs.log_hooks import ErrorHooks
from trio_jobs.logs.formatter import LogFormatter, event_record
from trio_jobs.logs.own_loggers import disown_loggers, own_loggers
from trio_jobs.logs.writer import LogWriter
from trio_jobs.settings import LoggingSettings

# The parts that user code can remove or replace, in the order of `Logs.taken`.
_NAMES = (
    "log handler",
    "log level",
    "logging.disable",
    "warnings.showwarning",
    "threading.excepthook",
    "sys.unraisablehook",
)


def start_logging(settings: LoggingSettings, *, fd: int = 2) -> "Logs":
    """Send all log lines of the settings' level and above to ``fd``.

    Call it before Quart makes its logger: Quart adds a handler of its own when it finds none.

    Args:
        settings: The level and the form of the lines.
        fd: The log goes to this descriptor's present file, even if user code closes it later.
    """
    least = logging.getLevelNamesMapping()[settings.level.upper()]
    return Logs(fd, LogFormatter(settings.format), least)


class Logs(LogWriter):
    """The log of this process; see `start_logging`.

    The server's own loggers write to it directly (`own_loggers`). The root logger and the hooks of
    Python bring it the lines of handlers and libraries, warnings, and errors in threads and
    finalizers: user code can take these away, and `put_back` installs them again.
    """

    def __init__(self, fd: int, formatter: LogFormatter, least: int) -> None:
        super().__init__(fd, formatter)
        self._least = least
        self._root = logging.getLogger()
        hooks = ErrorHooks(logging.getLogger("trio_jobs.logs"))
        self._thread_hook = hooks.log_thread_error
        self._unraisable_hook = hooks.log_unraisable_error
        self._show_warning: object = None
        self._before = (self._root.level, threading.excepthook, sys.unraisablehook)
        own_loggers(self, least)
        self.put_back()

    def render(
        self, logger: str, event: str, stack: str = "", fields: Mapping[str, object] | None = None
    ) -> bytes:
        """Return a critical line in this log's format, for code that writes it past the log."""
        record = event_record(logger, logging.CRITICAL, event, fields or {}, stack=stack)
        # A signal handler runs in the context of the task that it interrupts; the line is not
        # about that task's job.
        return contextvars.Context().run(self._formatter.render, record)

    def taken(self) -> tuple[str, ...]:
        """Return the names of the parts that user code has taken. Costs under a microsecond."""
        intact = (
            self in self._root.handlers and not self.level,
            self._root.level == self._least and not self._root.disabled,
            not self._root.manager.disable,
            # Not looked at while the event loop runs: a handler may be recording warnings
            # (`warnings.catch_warnings`), and putting this back would end the recording.
            warnings.showwarning is self._show_warning or trio.lowlevel.in_trio_run(),
            threading.excepthook is self._thread_hook,
            sys.unraisablehook is self._unraisable_hook,
        )
        if all(intact):
            return ()
        return tuple(name for name, ok in zip(_NAMES, intact, strict=True) if not ok)

    def put_back(self) -> None:
        """Install the parts that are missing."""
        if self not in self._root.handlers:
            self._root.addHandler(self)
        self.setLevel(logging.NOTSET)
        self._root.disabled = False
        self._root.setLevel(self._least)
        logging.disable(logging.NOTSET)
        # First False: True does nothing if Python believes that it captures warnings already.
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        self._show_warning = warnings.showwarning
        threading.excepthook = self._thread_hook
        sys.unraisablehook = self._unraisable_hook

    def remove(self, *, seconds: float) -> None:
        """Leave logging as it was before `start_logging`, and end the writer; for tests.

        The command only flushes: without a handler, logging itself would write to standard error,
        and wait.
        """
        disown_loggers()
        self._root.removeHandler(self)
        level, threading.excepthook, sys.unraisablehook = self._before
        self._root.setLevel(level)
        logging.captureWarnings(capture=False)
        self.end_within(seconds=seconds)
