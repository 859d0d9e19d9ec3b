"""Submissions as JSON: every shape of hostile JSON is refused here, on every Python alike."""

import re

import msgspec

from trio_jobs.admission import Submission
from trio_jobs.api.problems import Problem
from trio_jobs.handlers import Handlers, UnknownTypeError

# Python's own limit differs from version to version (some 990 on 3.11, 9,998
# on 3.13), and what one accepts another must be able to show.
MAX_DEPTH = 64

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
    except msgspec.ValidationError as error:
        raise Problem(400, _in_words(error)) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Problem(400, f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None
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
    except msgspec.ValidationError as error:
        raise Problem(400, _in_words(error, "$.payload")) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Problem(400, f"$.payload is not valid JSON: {error}") from None
    return Submission(envelope.type, payload)


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


def _in_words(error: msgspec.ValidationError, root: str = "$") -> str:
    # "Expected `str`, got `null` - at `$.type`" → "$.type: expected str, got null"
    text, _, place = str(error).replace("`", "").partition(" - at $")
    return f"{root}{place}: {text[:1].lower()}{text[1:]}"
