"""Lines of ``POST /jobs/pipe``: `Line` to the server, and `LineAnswer` and `End` from it."""

from collections.abc import Iterable

import msgspec

from trio_jobs.client.job_view import JobError
from trio_jobs.client.result import Result

_CANCEL = b'{"cancel":true}\n'
LINES_EACH_TO_CANCEL = 2


class Line(msgspec.Struct, frozen=True, gc=False):
    """One job to submit.

    Attributes:
        number: The record's number, which the answer has.
        text: The submission, a JSON object without a key.
        key: Its key: the same line may be sent again.
    """

    number: int
    text: bytes
    key: str

    def encode(self) -> bytes:
        """The line with its key, as it is sent."""
        rest = self.text.replace(b"\n", b" ").strip()[1:]
        comma = b"" if rest.lstrip().startswith(b"}") else b","
        return b'{"key":' + msgspec.json.encode(self.key) + comma + rest + b"\n"


class LineAnswer(msgspec.Struct, frozen=True, gc=False):
    """The end of one job.

    Attributes:
        number: That of its `Line`.
        text: The server's line; its ``line`` counts within one request.
        result: The same, decoded; its ``line`` is the number.
    """

    number: int
    text: bytes
    result: Result[object]


class Heard(msgspec.Struct, gc=False, omit_defaults=True):
    """A line from the server: the end of a job, or of the answer if ``end`` is there."""

    line: int = 0
    id: str | None = None
    key: str | None = None
    outcome: str = ""  # none: it has not completed
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: JobError | None = None
    replayed: bool = False
    end: str | None = None
    retry_after: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether it answers its line: the job has ended, or there will never be one."""
        return bool(self.outcome) and self.retry_after is None

    def about(self, line: Line, text: bytes) -> LineAnswer:
        """The answer to a line.

        Args:
            line: The line.
            text: What this was decoded from.
        """
        return LineAnswer(
            number=line.number,
            text=text,
            result=Result(
                line=line.number,
                outcome=self.outcome,
                id=self.id,
                key=line.key,
                error=self.error,
                replayed=self.replayed,
                json=bytes(self.result) if self.outcome == "succeeded" else None,
            ),
        )


def refused(line: Line, message: str) -> LineAnswer:
    """The answer to a line that ends the answer of the server instead of having one there."""
    error = JobError(type="Refused", message=message)
    heard = Heard(line=1, key=line.key, outcome="refused", error=error)
    return heard.about(line, msgspec.json.encode(heard))


def body_of(lines: Iterable[Line], *, cancel: bool) -> bytes:
    """The body of a request.

    Args:
        lines: What to submit.
        cancel: Whether the server shall cancel these jobs. A line that cancels follows each of
            them: a job that waits for room holds up the lines behind it.
    """
    after = _CANCEL if cancel else b""
    return b"".join([line.encode() + after for line in lines])
