"""`OwnLogger`: a logger of the server that user code cannot silence or block.

Python's loggers are one tree, open to all code: `logging.config.dictConfig` disables the loggers
that exist, `logging.disable` silences all, and a handler on the root that writes to an unread pipe
blocks all code that logs. The server's loggers ignore the levels, filters, handlers and record
factory of that tree.
"""

import logging
from collections.abc import Iterator, Mapping
from logging import LogRecord  # by name: user code may replace `logging.LogRecord`

from trio_jobs.logs.formatter import complete_record
from trio_jobs.logs.writer import LogWriter

# These loggers and those below them. Trio logs in the event loop, and any code may warn: a log
# handler that blocks would block the server there too.
_ROOTS = ("trio_jobs", "trio", "py.warnings")
# Loggers that their modules make after the start of the log. The second one has the lines of child
# processes.
_LATE = ("trio_jobs.server.hypercorn", "trio_jobs.child_process")


class OwnLogger(logging.Logger):
    """Checks only the server's level, and gives its records to the log's writer.

    `own_loggers` makes it of an ordinary logger.
    """

    _writer: LogWriter
    _least: int

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Compare with the server's setting alone."""
        return level >= self._least

    def getEffectiveLevel(self) -> int:  # noqa: N802 - logging's name
        """Return the server's setting."""
        return self._least

    def handle(self, record: LogRecord) -> None:
        """Give the record to the log."""
        self._writer.handle(record)

    def makeRecord(  # noqa: N802 - logging's name and arguments
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: "logging._ArgsType",
        exc_info: "logging._SysExcInfoType | None",
        func: str | None = None,
        extra: Mapping[str, object] | None = None,
        sinfo: str | None = None,
    ) -> LogRecord:
        """Make a record of Python's own class: user code's record factory may block, or raise."""
        record = LogRecord(name, level, fn, lno, msg, args, exc_info, func, sinfo)
        return complete_record(record, extra or {})


def own_loggers(writer: LogWriter, least: int) -> None:
    """Turn the server's loggers into `OwnLogger`s.

    Args:
        writer: Gets their records.
        least: The lowest level that they log.
    """
    for logger in _server_loggers():
        logger.__class__ = OwnLogger
        assert isinstance(logger, OwnLogger)  # noqa: S101 - for the type checker
        logger._writer = writer
        logger._least = least


def disown_loggers() -> None:
    """Turn the server's loggers into ordinary ones again."""
    for logger in _server_loggers():
        for name in ("_writer", "_least"):
            vars(logger).pop(name, None)
        logger.__class__ = logging.Logger


def _server_loggers() -> Iterator[logging.Logger]:
    prefixes = tuple(f"{root}." for root in _ROOTS)
    known = [
        name
        for name, each in logging.root.manager.loggerDict.items()
        if name.startswith(prefixes) and isinstance(each, logging.Logger)
    ]
    return map(logging.getLogger, {*_ROOTS, *_LATE, *known})
