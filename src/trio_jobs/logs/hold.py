"""`Hold`: what the log has installed in the process, and whether user code has taken it away.

The server's own lines need none of it (`own_loggers`). It is there for the lines of handlers and
libraries, for warnings, and for what fails in threads and finalizers.
"""

import logging
import sys
import threading
import warnings

import trio

from trio_jobs.log_hooks import ErrorHooks
from trio_jobs.logs.writer import LogWriter


class Hold:
    """Installs the log, looks for what is gone, and puts it back.

    Args:
        writer: The handler of the root logger.
        level: Of the root logger.
        hooks: Log the errors that nothing can catch.
    """

    def __init__(self, writer: LogWriter, level: int, hooks: ErrorHooks) -> None:
        self._root = logging.getLogger()
        self._writer = writer
        self._level = level
        self._thread_hook = hooks.log_thread_error
        self._unraisable_hook = hooks.log_unraisable_error
        self._show_warning: object = None
        self._before = (self._root.level, threading.excepthook, sys.unraisablehook)

    def install(self) -> None:
        """Install all of it; a second time what is gone."""
        if self._writer not in self._root.handlers:
            self._root.addHandler(self._writer)
        self._writer.setLevel(logging.NOTSET)
        self._root.disabled = False
        self._root.setLevel(self._level)
        logging.disable(logging.NOTSET)
        # Off and on: on does nothing where Python takes it to be on.
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        self._show_warning = warnings.showwarning
        threading.excepthook = self._thread_hook
        sys.unraisablehook = self._unraisable_hook

    def remove(self) -> None:
        """Leave the process as it was before."""
        self._root.removeHandler(self._writer)
        level, threading.excepthook, sys.unraisablehook = self._before
        self._root.setLevel(level)
        logging.captureWarnings(capture=False)

    def taken(self) -> tuple[str, ...]:
        """The names of what is gone; cheap where nothing is."""
        if (
            self._writer in self._root.handlers
            and self._root.level == self._level
            and not self._root.manager.disable
            and not self._root.disabled
            and not self._writer.level
            and self._captures_warnings()
            and threading.excepthook is self._thread_hook
            and sys.unraisablehook is self._unraisable_hook
        ):
            return ()
        intact = {
            "log handler": self._writer in self._root.handlers and not self._writer.level,
            "log level": self._root.level == self._level and not self._root.disabled,
            "logging.disable": not self._root.manager.disable,
            "warnings.showwarning": self._captures_warnings(),
            "threading.excepthook": threading.excepthook is self._thread_hook,
            "sys.unraisablehook": sys.unraisablehook is self._unraisable_hook,
        }
        return tuple(name for name, is_intact in intact.items() if not is_intact)

    def _captures_warnings(self) -> bool:
        # Once the server runs a handler may be recording them (`warnings.catch_warnings`), for a
        # while: that must not be ended.
        return warnings.showwarning is self._show_warning or trio.lowlevel.in_trio_run()
