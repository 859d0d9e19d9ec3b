"""Structured logs: an event and its fields, through stdlib logging, on one stream.

Every module logs as ``log.info("job_failed", extra={"job_id": job.id})``. What libraries log or
warn about, and what fails in a thread or a finalizer, comes out in the same form and by the same
way: Python itself would write it to standard error, and wait when nobody reads that.
"""

import contextvars
import logging
from collections.abc import Iterable, Mapping

from trio_jobs.log_hooks import ErrorHooks
from trio_jobs.logs.formatter import LogFormatter
from trio_jobs.logs.hold import Hold
from trio_jobs.logs.lines import RENDERERS, Render, event_record
from trio_jobs.logs.own_loggers import disown_loggers, own_loggers
from trio_jobs.logs.writer import LogWriter

__all__ = ["LogFormatter", "Logs", "start_logging"]

log = logging.getLogger(__name__)


class Logs:
    """The log of this process, once it has been started."""

    def __init__(self, writer: LogWriter, render: Render, hold: Hold) -> None:
        self._writer = writer
        self._render = render
        self._hold = hold

    def flush(self, *, seconds: float) -> bool:
        """Wait until the lines logged so far are written; False if that takes longer.

        Blocks the thread, so it is for the end of the program. Lines may still be logged
        afterwards; those that are not flushed when the process ends are lost.
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
        """Write lines that must not be dropped, after those logged so far.

        They do not go through the queue. Half of the time is for what is queued, the rest for
        these. Blocks the thread, so it is for the end of the program.

        Args:
            logger: The name that the lines carry.
            level: Theirs as well; they are written whatever the log's own level is.
            events: Each an event and its fields. A line keeps 2,000 characters of a field, or
                fewer if there are many: name many jobs in many lines.
            seconds: The longest this may take.

        Returns:
            How many of them were written.
        """
        records = (event_record(logger, level, event, fields) for event, fields in events)
        return self._writer.write_within(records, seconds)

    def render(
        self, logger: str, event: str, stack: str = "", fields: Mapping[str, object] | None = None
    ) -> bytes:
        """A critical line, in this log's format, for whoever has to write it past all this."""
        record = event_record(logger, logging.CRITICAL, event, fields or {}, stack=stack)
        # A signal handler runs in the context of whatever it interrupts; the line is not about
        # that job.
        return contextvars.Context().run(self._render, record)

    def give_up(self) -> None:
        """Have lines written where they are logged, in a child that has been forked."""
        self._writer.write_directly()

    def taken(self) -> tuple[str, ...]:
        """The names of what user code has taken from the log since it was started."""
        return self._hold.taken()

    def put_back(self) -> None:
        """Install again what is gone."""
        self._hold.install()

    def close(self, *, seconds: float) -> None:
        """Undo ``start_logging``, after a flush; for tests and embedding programs.

        The command only flushes: with no handler left, logging itself would write to standard
        error, and wait.
        """
        disown_loggers()
        self._hold.remove()
        self._writer.close_within(seconds)


def start_logging(level: str, line_format: str, *, fd: int = 2) -> Logs:
    """Send all log lines of ``level`` and above to ``fd``.

    Before Quart makes its logger: it adds a handler of its own when it finds none.

    Args:
        level: A name that logging knows: ``DEBUG``, ``INFO``, …
        line_format: ``text`` or ``json``.
        fd: Written to as it is now, whatever becomes of the number.
    """
    render = RENDERERS[line_format]
    writer = LogWriter(fd, render)
    least = logging.getLevelNamesMapping()[level]
    own_loggers(writer, least)
    hold = Hold(writer, least, ErrorHooks(log))
    hold.install()
    return Logs(writer, render, hold)
