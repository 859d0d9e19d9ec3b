"""`PipeAnswer`: reads the answer to one ``POST /jobs/pipe``."""

from collections.abc import Sequence

import msgspec

from trio_jobs.client.pipe_lines import LINES_EACH_TO_CANCEL, Heard, Line, LineAnswer, refused

_decode = msgspec.json.Decoder(Heard).decode


class BrokenOffError(Exception):
    """An answer has ended before all of its lines were answered."""


class PipeAnswer:
    """The answer to some lines, as it arrives.

    The answer is complete only if its last line has arrived, whatever the HTTP status. Two kinds of
    lines do not count as an answer, so that the client asks again: a line without an outcome, when
    the server stopped before the job completed; and a line with ``retry_after``, when the buffer
    has no room for the job yet.

    Args:
        lines: What was sent, in order.
        cancel: Whether lines that cancel were sent among them.

    Attributes:
        blank_lines: How many there were. The first one comes with the head; the others say that
            the server is still there.
        garbled: A text that is not a line of a pipe; None if there was none. Another server has
            answered, such as a proxy, and the caller stops reading.
    """

    def __init__(self, lines: Sequence[Line], *, cancel: bool) -> None:
        step = LINES_EACH_TO_CANCEL if cancel else 1
        self._unanswered = {1 + step * index: line for index, line in enumerate(lines)}
        self._rest = bytearray()  # the bytes of a line whose end has not arrived
        self._end: str | None = None
        self.blank_lines = 0
        self.garbled: bytes | None = None

    def feed(self, piece: bytes) -> list[LineAnswer]:
        """The answers that this piece of the body completes."""
        self._rest += piece
        if b"\n" not in piece:
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return [answer for line in lines if (answer := self._read(line)) is not None]

    def broken_off(self) -> BrokenOffError:
        """Why lines may have been left unanswered, once nothing more arrives."""
        if self.garbled is not None:
            return BrokenOffError(f"no line of a pipe: {self.garbled[:100]!r}")
        how = "without its last line" if self._end is None else f"with {self._end!r}"
        return BrokenOffError(f"the answer ended {how}, {len(self._unanswered)} lines unanswered")

    def _read(self, text: bytes) -> LineAnswer | None:
        if not text.strip():
            self.blank_lines += 1
            return None
        try:
            heard = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.garbled = text
            return None
        if heard.end is not None:
            self._end = heard.end
            if heard.end != "too long" or heard.line not in self._unanswered:
                return None
            return refused(
                self._unanswered.pop(heard.line), "the line is longer than the server allows"
            )
        if not heard.is_final or heard.line not in self._unanswered:
            return None
        return heard.about(self._unanswered.pop(heard.line), text)
