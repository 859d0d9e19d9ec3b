"""The lines of a pipe beyond submissions: its answers, its end, and the request to cancel."""

from collections import Counter
from contextlib import suppress

import msgspec

from trio_jobs.api.keys import VISIBLE
from trio_jobs.handlers.payload_faults import JSON_ERRORS
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.hidden_values import hide_values
from trio_jobs.job import Job, JobError, Outcome

NOT_COMPLETED = "not_completed"
REFUSED = "refused"
# The counts of the last line, in this order.
_COUNTED = (*Outcome, REFUSED, NOT_COMPLETED)

_encode = msgspec.json.Encoder().encode


class InputLine(msgspec.Struct, frozen=True, gc=False):
    """The line of a client that an answer is for.

    Attributes:
        number: Its number in the body, from 1.
        key: The idempotency key in it.
    """

    number: int
    key: str | None = None


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    line: int
    key: str | None = None
    id: str | None = None
    outcome: str | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: JobError | None = None
    retry_after: int | None = None
    replayed: bool = False


class _Key(msgspec.Struct, frozen=True, gc=False):
    key: str


class _Cancel(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    cancel: bool


_decode_key = msgspec.json.Decoder(_Key).decode
_decode_cancel = msgspec.json.Decoder(_Cancel).decode


def key_in(text: bytes) -> str | None:
    """The idempotency key in a line that is no submission; None if it has none."""
    with suppress(*JSON_ERRORS):
        key = _decode_key(text).key
        return key if VISIBLE.fullmatch(key) else None
    return None


def is_cancel(text: bytes) -> bool:
    """Whether a line asks to cancel all jobs of its pipe that are under way."""
    if b'"cancel"' in text:
        with suppress(*JSON_ERRORS):
            return _decode_cancel(text).cancel
    return False


def completed_line(
    line: InputLine, job: Job, handlers: HandlerRegistry, *, replayed: bool
) -> bytes:
    """The answer about a job that has completed, as far as clients may see it."""
    ending = job.ending
    assert ending is not None  # noqa: S101  (for the type checker)
    result = ending.result
    if result is not None and handlers.hides and (hide := handlers.hidden(job.type)):
        result = hide_values(result, hide)
    return _encode_line(
        _Answer(
            line=line.number,
            key=line.key,
            id=job.id,
            outcome=ending.outcome,
            result=msgspec.UNSET if result is None else msgspec.Raw(result),
            error=ending.error,
            replayed=replayed,
        )
    )


def incomplete_line(line: InputLine, job_id: str, *, replayed: bool) -> bytes:
    """The answer about a job whose end the pipe does not tell."""
    return _encode_line(_Answer(line=line.number, key=line.key, id=job_id, replayed=replayed))


def refused_line(line: InputLine, kind: str, message: str, retry_after: int | None = None) -> bytes:
    """The answer to a line that is refused.

    Args:
        line: The line.
        kind: Why, in a word.
        message: Why, for the client to act on.
        retry_after: After how many seconds the same line may be taken; None if never.
    """
    error = JobError(type=kind, message=message)
    return _encode_line(
        _Answer(
            line=line.number,
            key=line.key,
            outcome=REFUSED,
            error=error,
            retry_after=retry_after,
        )
    )


def end_line(why: str, lines: int, counts: Counter[str], **members: object) -> bytes:
    """The last line.

    Args:
        why: Why the pipe takes no more lines.
        lines: How many it has looked at.
        counts: How many of them had each outcome.
        members: What else it says.
    """
    counted = {name: counts[name] for name in _COUNTED if counts[name]}
    return _encode_line({"end": why, "lines": lines, **counted, **members})


def _encode_line(value: object) -> bytes:
    return _encode(value) + b"\n"
