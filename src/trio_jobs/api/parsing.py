"""Submissions as JSON: every shape of hostile JSON is refused here, on every Python alike."""

import re

import msgspec

from trio_jobs.admission import Submission
from trio_jobs.api.problems import Problem
from trio_jobs.handlers import Handlers, UnknownTypeError

# Python's own limit differs from version to version (some 990 on 3.11, 9,998
# on 3.13), and what one accepts another must be able to show.
MAX_DEPTH = 64

# What decoding raises: neither bad UTF-8 nor deep nesting is a DecodeError.
JSON_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)

# Parsing many submissions gives way to other tasks after about a millisecond:
# an item takes as long as this many bytes of it, and the time is up after so many.
ITEM_COST = 100
TURN_COST = 100_000

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def parse_submission(body: bytes, handlers: Handlers) -> Submission:
    """One job's submission from ``{"type": …, "payload": …}``.

    Raises:
        Problem: 400, with what is wrong and where.
    """
    try:
        envelope = _decode_envelope(body)
    except JSON_ERRORS as error:
        raise json_problem(error) from None
    if not envelope.type:
        raise Problem(400, "$.type must be a non-empty string")
    # A Raw is a view into the whole body; what is kept is the payload alone.
    payload = bytes(envelope.payload)
    check_depth(payload)
    try:
        # Also because a Raw has only been skimmed: bad UTF-8 and 1e999 pass.
        handlers.find(envelope.type).decode(payload)
    except UnknownTypeError as error:
        raise Problem(400, str(error), types=error.types) from None
    except JSON_ERRORS as error:
        raise json_problem(error, "$.payload") from None
    return Submission(envelope.type, payload)


def json_problem(error: Exception, root: str = "$") -> Problem:
    """What a client is told of one of `JSON_ERRORS`."""
    if isinstance(error, RecursionError):
        return _too_deep()
    if isinstance(error, msgspec.ValidationError):
        # "Expected `str`, got `null` - at `$.type`" → "$.type: expected str, got null"
        text, _, place = str(error).replace("`", "").partition(" - at $")
        return Problem(400, f"{root}{place}: {text[:1].lower()}{text[1:]}")
    what = "the body" if root == "$" else root
    return Problem(400, f"{what} is not valid JSON: {error}")


def check_depth(text: bytes) -> None:
    """Refuse JSON that is nested deeper than `MAX_DEPTH`.

    Raises:
        Problem: 400.
    """
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", text).translate(_BRACKETS, _NOT_BRACKETS)
    # Each round takes the innermost level away.
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise _too_deep()


def _too_deep() -> Problem:
    return Problem(400, f"the JSON is nested deeper than {MAX_DEPTH} levels", limit=MAX_DEPTH)
