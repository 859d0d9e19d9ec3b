"""A log record as one line: text for people, JSON for machines.

Events and fields carry what clients sent and what handlers raised, so nothing in them may break
the stream: no value starts a line, moves a terminal's cursor, or makes logging itself raise.
"""

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from logging import LogRecord
from typing import Protocol

from trio_jobs.current_job import current_job_id
from trio_jobs.error_text import describe
from trio_jobs.log_hooks import RECORD_ATTRIBUTES

# A line's memory in the queue is bounded; most lines have about 120 bytes.
MAX_LINE_BYTES = 16_384

# How many characters of each text a line keeps: as many as fit into its bytes. When not even
# the last of these fits, there are thousands of fields, and the line does without them.
_TEXT_LIMITS = (2_000, 600, 200, 20)
_TRACEBACK_LIMIT_FACTOR = 5

# The keys that are ours; the first four come first in a line.
_HEAD = ("time", "level", "logger", "event")
_OWN_KEYS = frozenset([*_HEAD, "exception", "stack"])

# Readable without quotes: cannot be taken for two fields, or for a quoted text.
_BARE = re.compile(r"""[^\s"'=\\]+""")

_LEVEL_NAMES = {level: logging.getLevelName(level) for level in (10, 20, 30, 40, 50)}

Plain = str | int | float | bool | None


class Render(Protocol):
    """Makes a record a line, with its end."""

    def __call__(self, record: logging.LogRecord, /, *, max_bytes: int = ...) -> bytes:
        """The line, of ``max_bytes`` at the most."""
        ...


def render_text(record: logging.LogRecord, /, *, max_bytes: int = MAX_LINE_BYTES) -> bytes:
    """``2026-11-25T08:00:00.123Z WARNING trio_jobs.pool.worker job_failed job_id=…``, for people.

    Tracebacks stand on the following lines, indented.
    """
    return _bounded(record, _text_line, max_bytes)


def render_json(record: logging.LogRecord, /, *, max_bytes: int = MAX_LINE_BYTES) -> bytes:
    """One JSON object on one line, in ASCII.

    Its keys are ``time``, ``level``, ``logger``, ``event``, the fields' names, ``exception`` and
    ``stack``. A field with one of the others' names gets an underscore behind it.
    """
    return _bounded(record, _json_line, max_bytes)


RENDERERS: Mapping[str, Render] = {"text": render_text, "json": render_json}


def own_record(
    name: str,
    level: int,
    path: str,
    line: int,
    message: object,
    args: "logging._ArgsType",
    exc_info: "logging._SysExcInfoType | None",
    function: str | None = None,
    sinfo: str | None = None,
) -> logging.LogRecord:
    """A record of Python's own class, with Python's own name of the level.

    User code may set the factory, replace the class, and give the levels other names.
    """
    record = LogRecord(name, level, path, line, message, args, exc_info, function, sinfo)
    record.levelname = _LEVEL_NAMES.get(level, record.levelname)
    return record


def event_record(
    logger: str, level: int, event: str, fields: Mapping[str, object], *, stack: str = ""
) -> logging.LogRecord:
    """A record for a line that does not go through a logger."""
    record = own_record(logger, level, "", 0, event, (), None, sinfo=stack)
    head = {name: vars(record)[name] for name in ("name", "levelno", "levelname", "msg")}
    vars(record).update({**fields, **head})
    return record


def _bounded(
    record: logging.LogRecord,
    line: Callable[[dict[str, Plain], dict[str, str]], str],
    max_bytes: int,
) -> bytes:
    parts, below = dict(_parts(record)), dict(_below(record))
    for limit in _TEXT_LIMITS:
        cut_parts = {_cut(key, limit): _cut_plain(value, limit) for key, value in parts.items()}
        below_limit = limit * _TRACEBACK_LIMIT_FACTOR
        cut_below = {key: _cut(text, below_limit) for key, text in below.items()}
        data = line(cut_parts, cut_below).encode()
        if len(data) <= max_bytes:
            return data
    return line(dict(islice(cut_parts.items(), len(_HEAD))), {}).encode()


def _parts(record: logging.LogRecord) -> Iterator[tuple[str, Plain]]:
    """The line's four first parts, then its fields."""
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    yield "time", time.replace("+00:00", "Z")
    yield "level", record.levelname
    yield "logger", record.name
    try:
        yield "event", record.getMessage()
    except BaseException:  # noqa: ASYNC103, BLE001 - a message may not fit its arguments
        yield "event", f"{_plain(record.msg)} {_plain(record.args)}"  # noqa: ASYNC104 - no task's
    # Read here, in the thread and context that emits the record: a handler's own lines carry the
    # id of its job.
    job_id = current_job_id.get()
    if job_id is not None and "job_id" not in vars(record):
        yield "job_id", job_id
    for key, value in vars(record).items():
        if key not in RECORD_ATTRIBUTES:
            yield f"{key}_" if key in _OWN_KEYS else str(key), _plain(value)


def _below(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    """What is longer than a line."""
    if record.exc_text:  # made where the error was raised, or by another formatter
        yield "exception", record.exc_text
    elif record.exc_info and record.exc_info[1] is not None:
        yield "exception", describe(record.exc_info[1]).traceback
    if record.stack_info:
        yield "stack", record.stack_info


def _plain(value: object) -> Plain:
    """The value as it can stand in JSON; its repr when it cannot."""
    try:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str.__str__(value)  # a StrEnum's value, not its name
        if isinstance(value, int) and value.bit_length() <= 64:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        return str.__str__(repr(value))
    except BaseException:  # noqa: ASYNC103, BLE001 - a broken object must not break its line
        # Past the class's own class, which may be broken as well.
        name = type.__dict__["__name__"].__get__(type(value))
        return f"<{name} whose repr raises>"  # noqa: ASYNC104 - no checkpoint in there


def _cut_plain(value: Plain, limit: int) -> Plain:
    return _cut(value, limit) if isinstance(value, str) else value


def _cut(text: str, limit: int) -> str:
    """At most about ``limit`` characters, without the middle: a traceback's end says most.

    What UTF-8 cannot say (lone surrogates) is replaced by its escape.
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
    """Without control characters, line separators, and whatever else has no glyph."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
