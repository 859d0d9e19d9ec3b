"""The parts that the server's log and a child process's log share. Imports no Trio."""

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sys

# The attributes of each log record. All others of a record came from ``extra``.
RECORD_ATTRIBUTES = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"])


class ErrorHooks:
    """Hooks of Python that log errors that no code can catch.

    Without them Python writes such errors to standard error, and blocks if no program reads it.

    Args:
        log: The logger of the lines.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def log_thread_error(self, args: threading.ExceptHookArgs) -> None:
        """Log the error that ended a thread; for `threading.excepthook`."""
        if args.exc_type is not SystemExit:
            name = args.thread.name if args.thread is not None else None
            self._log.error("thread_failed", extra={"thread_name": name}, exc_info=args.exc_value)

    def log_unraisable_error(self, args: "sys.UnraisableHookArgs") -> None:
        """Log the error of a finalizer; for `sys.unraisablehook`."""
        fields = {"reason": args.err_msg or "exception ignored", "where": args.object}
        self._log.error("exception_ignored", extra=fields, exc_info=args.exc_value)
