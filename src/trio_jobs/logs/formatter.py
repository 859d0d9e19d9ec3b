"""`LogFormatter`: a log record as one line, text for people or JSON for machines.

Events and fields carry texts of clients and handlers. No such text starts a line of its own, moves
a terminal's cursor, or makes logging raise.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from logging import LogRecord  # by name: user code may replace `logging.LogRecord`
from typing import Literal

from trio_jobs.current_job import current_job_id
from trio_jobs.error_text import describe
from trio_jobs.log_hooks import RECORD_ATTRIBUTES

LineFormat = Literal["text", "json"]

# Bounds the memory of a queued line; most lines have about 120 bytes.
MAX_LINE_BYTES = 16_384

# The most characters of each text in a line. The formatter tries these limits in turn until the
# line fits into its bytes. With thousands of fields no limit is enough: the line has no fields.
_TEXT_LIMITS = (2_000, 600, 200, 20)
_TRACEBACK_LIMIT_FACTOR = 5

_HEAD = ("time", "level", "logger", "event")
_OWN_KEYS = frozenset([*_HEAD, "exception", "stack"])

# A value that needs no quotes: it looks neither like two fields nor like a quoted text.
_BARE = re.compile(r"""[^\s"'=\\]+""")

_LEVEL_NAMES = {level: logging.getLevelName(level) for level in (10, 20, 30, 40, 50)}

Plain = str | int | float | bool | None


class LogFormatter(logging.Formatter):
    """Formats records as the command does: the event's name, then all of its fields.

    The formatters of `logging` leave out fields that their format does not name,
    and with them the id of the job. Give this one to any handler::

        handler = logging.StreamHandler()
        handler.setFormatter(LogFormatter())
        logging.basicConfig(level="INFO", handlers=[handler])

    Args:
        line_format: ``text``: ``2026-11-25T08:00:00.123Z WARNING trio_jobs.pool.worker
            job_failed job_id=…``, with a traceback on the lines below, indented. ``json``:
            one object a line, in ASCII, with the keys ``time``, ``level``, ``logger``,
            ``event``, the fields' names, ``exception`` and ``stack``. In both formats, a field
            that has one of those six names gets an underscore after its name.

    Raises:
        ValueError: ``line_format`` is neither of the two.
    """

    def __init__(self, line_format: LineFormat = "text") -> None:
        super().__init__()
        if line_format not in ("text", "json"):
            raise ValueError(f"line_format must be one of 'text', 'json', got {line_format!r}")
        self._line = _json_line if line_format == "json" else _text_line

    def format(self, record: LogRecord) -> str:
        """Return the record as a line, without the line's end."""
        return self.render(record).decode().removesuffix("\n")

    def render(self, record: LogRecord, *, max_bytes: int = MAX_LINE_BYTES) -> bytes:
        """Return the record as a line with its end, of at most ``max_bytes``."""
        parts, below = dict(_parts(record)), dict(_below(record))
        for limit in _TEXT_LIMITS:
            cut_parts = {
                _cut(key, limit): _cut(value, limit) if isinstance(value, str) else value
                for key, value in parts.items()
            }
            below_limit = limit * _TRACEBACK_LIMIT_FACTOR
            cut_below = {key: _cut(text, below_limit) for key, text in below.items()}
            line = self._line(cut_parts, cut_below).encode()
            if len(line) <= max_bytes:
                return line
        return self._line(dict(islice(cut_parts.items(), len(_HEAD))), {}).encode()


def event_record(
    logger: str, level: int, event: str, fields: Mapping[str, object], *, stack: str = ""
) -> LogRecord:
    """Make a record for a line that passes no logger."""
    return complete_record(LogRecord(logger, level, "", 0, event, (), None, sinfo=stack), fields)


def complete_record(record: LogRecord, fields: Mapping[str, object]) -> LogRecord:
    """Give a new record its fields and its level's usual name: user code may rename levels."""
    record.levelname = _LEVEL_NAMES.get(record.levelno, record.levelname)
    vars(record).update(fields)
    return record


def _parts(record: LogRecord) -> Iterator[tuple[str, Plain]]:
    """The head of the line, then its fields."""
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    yield "time", time.replace("+00:00", "Z")
    yield "level", record.levelname
    yield "logger", record.name
    try:
        yield "event", record.getMessage()
    except BaseException:  # noqa: ASYNC103, BLE001 - a message may not fit its arguments
        yield "event", f"{_plain(record.msg)} {_plain(record.args)}"  # noqa: ASYNC104 - no await
    job_id = current_job_id.get()
    if job_id is not None and "job_id" not in vars(record):
        yield "job_id", job_id
    for key, value in vars(record).items():
        if key not in RECORD_ATTRIBUTES:
            yield f"{key}_" if key in _OWN_KEYS else str(key), _plain(value)


def _below(record: LogRecord) -> Iterator[tuple[str, str]]:
    """The texts below the line, each of several lines."""
    if record.exc_text:  # made where the error was raised, or by another formatter
        yield "exception", record.exc_text
    elif record.exc_info and record.exc_info[1] is not None:
        yield "exception", describe(record.exc_info[1]).traceback
    if record.stack_info:
        yield "stack", record.stack_info


def _plain(value: object) -> Plain:
    """The value if JSON has it, else its repr."""
    try:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str.__str__(value)  # of a StrEnum the value, not the name
        if isinstance(value, int) and value.bit_length() <= 64:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        return str.__str__(repr(value))
    except BaseException:  # noqa: ASYNC103, BLE001 - a broken object must not break its line
        return f"<{type(value).__name__} whose repr raises>"  # noqa: ASYNC104 - no checkpoint


def _cut(text: str, limit: int) -> str:
    """Cut the middle of a text longer than ``limit``: a traceback's end says the most.

    Lone surrogates, which UTF-8 does not have, become escapes.
    """
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}…[{len(text) - 2 * half} characters]…{text[-half:]}"
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _json_line(parts: dict[str, Plain], below: dict[str, str]) -> str:
    return json.dumps(parts | below) + "\n"


def _text_line(parts: dict[str, Plain], below: dict[str, str]) -> str:
    items = list(parts.items())
    head = [_escaped(str(value)) for _, value in items[: len(_HEAD)]]
    fields = [f"{_text_value(key)}={_text_value(value)}" for key, value in items[len(_HEAD) :]]
    lines = [" ".join(head + fields)]
    for text in below.values():
        lines += (f"  {_escaped(line)}" for line in text.rstrip("\n").split("\n"))
    return "\n".join(lines) + "\n"


def _text_value(value: Plain) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    if _BARE.fullmatch(value) and value.isprintable():
        return value
    return '"' + _escaped(value.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _escaped(text: str) -> str:
    """Escape control characters, line separators and all others that have no glyph."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
