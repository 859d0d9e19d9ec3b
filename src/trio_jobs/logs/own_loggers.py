"""`OwnLogger`: a logger of the server's own, whose lines go out whatever user code does to logging.

Python's loggers are one tree, and all of it is everybody's: `logging.config.dictConfig` disables
the loggers that it finds, `logging.disable` silences all, a handler on the root that writes to an
unread pipe holds up whoever logs. So the server's loggers take neither levels, filters and handlers
nor records from there.
"""

import logging
from collections.abc import Iterator, Mapping

from trio_jobs.logs.lines import own_record
from trio_jobs.logs.writer import LogWriter

# And those below. Of Trio's what is logged in the server's time; warnings, because they are made
# anywhere.
_ROOTS = ("trio_jobs", "trio", "py.warnings")
# Asked for later than at import; the second one in child processes, whose lines come by its name.
_LATE = ("trio_jobs.server.hypercorn", "trio_jobs.child_process")


class OwnLogger(logging.Logger):
    """Asks its own level, and gives its records to the log's writer. Made by `own_loggers`."""

    _writer: LogWriter
    _least: int

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """By the server's setting alone."""
        return level >= self._least

    def getEffectiveLevel(self) -> int:  # noqa: N802 - logging's name
        """The server's setting."""
        return self._least

    def handle(self, record: logging.LogRecord) -> None:
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
    ) -> logging.LogRecord:
        """A record of Python's own class: user code's factory may take its time, or raise."""
        record = own_record(name, level, fn, lno, msg, args, exc_info, func, sinfo)
        vars(record).update(extra or {})
        return record


def own_loggers(writer: LogWriter, least: int) -> None:
    """Make the server's loggers its own."""
    for logger in _server_loggers():
        logger.__class__ = OwnLogger
        assert isinstance(logger, OwnLogger)  # noqa: S101  (for the type checker)
        logger._writer = writer
        logger._least = least


def disown_loggers() -> None:
    """Make them ordinary ones again."""
    for logger in _server_loggers():
        for name in ("_writer", "_least"):
            vars(logger).pop(name, None)
        logger.__class__ = logging.Logger


def _server_loggers() -> Iterator[logging.Logger]:
    known = [
        name
        for name, each in logging.root.manager.loggerDict.items()
        if name.startswith(tuple(f"{root}." for root in _ROOTS))
        and isinstance(each, logging.Logger)
    ]
    return map(logging.getLogger, {*_ROOTS, *_LATE, *known})
