"""`LogFormatter`: the lines of the command's log, for the logging that a program has set up."""

import logging
from typing import Literal

from trio_jobs.logs.lines import RENDERERS


class LogFormatter(logging.Formatter):
    """Formats records as the command does: the event's name, then all of its fields.

    The formatters of `logging` leave out fields that their format does not name,
    and with them which job a line is about. Give this one to any handler::

        handler = logging.StreamHandler()
        handler.setFormatter(LogFormatter())
        logging.basicConfig(level="INFO", handlers=[handler])

    Args:
        line_format: ``text``, with a traceback on the lines below; or ``json``,
            one object a line.

    Raises:
        ValueError: There is no such format.
    """

    def __init__(self, line_format: Literal["text", "json"] = "text") -> None:
        super().__init__()
        if line_format not in RENDERERS:
            known = ", ".join(map(repr, RENDERERS))
            raise ValueError(f"line_format must be one of {known}, got {line_format!r}")
        self._render = RENDERERS[line_format]

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, without the line's end."""
        return self._render(record).decode().removesuffix("\n")
