"""The checks of a submission, from HTTP and from Python: every shape of bad JSON fails here."""

import re

import msgspec

from trio_jobs.error_text import readable
from trio_jobs.handlers.payload_faults import InvalidValuesError
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.json_encoding import ResultError, encode_result

# Python's own limit is some 990 levels on 3.11, and 9,998 on 3.13. Each version must be able to
# show jobs that another one has accepted.
MAX_DEPTH = 64
# Bytes. A level takes two, so JSON of no more bytes is not deeper.
_SHALLOW = 2 * MAX_DEPTH

# Decoding raises these: neither bad UTF-8 nor deep nesting is a DecodeError.
JSON_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)

# The longest text of a fault, in characters.
_MAX_FAULT = 400

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
# The first half of a surrogate pair that lacks its second.
_HALF_OF_A_PAIR = re.compile(rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F])")
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))


class PayloadError(ValueError):
    """A submission with a fault; the text says which, and where."""


class TooDeepError(PayloadError):
    """JSON that is nested deeper than `MAX_DEPTH`."""

    def __init__(self) -> None:
        super().__init__(f"the JSON is nested deeper than {MAX_DEPTH} levels")


def check_type(type: object) -> None:  # noqa: A002
    """Check a job type that was not read from JSON.

    Raises:
        PayloadError: The type is no string, or not valid Unicode.
    """
    try:
        if not isinstance(type, str):
            msgspec.convert(type, str)  # raises the error that JSON would
        elif not type.isascii():
            type.encode()
    except msgspec.ValidationError as error:
        raise json_fault(error, b"", "$.type") from None
    except UnicodeError as error:
        raise PayloadError(f"$.type is not valid Unicode: {error}") from None


def check_submission(type: str, payload: bytes, handlers: HandlerRegistry) -> None:  # noqa: A002
    """Check that a handler can be called with this submission.

    Raises:
        PayloadError: The type is empty; or the payload is nested too deep, is
            not JSON, or does not fit the handler's payload type.
        UnknownTypeError: The type has no handler.
    """
    if not type:
        raise PayloadError("$.type must be a non-empty string")
    if len(payload) > _SHALLOW:
        check_depth(payload)
    try:
        handlers.validate(type, payload)
    except JSON_ERRORS as error:
        raise json_fault(error, payload, "$.payload") from None


def encode_payload(payload: object, *, max_bytes: int) -> bytes:
    """A payload as JSON, by the rules for results.

    Raises:
        PayloadError: JSON cannot express it, or it has more than ``max_bytes``.
    """
    try:
        return encode_result(payload, max_bytes=max_bytes, what="payload")
    except ResultError as error:
        raise PayloadError(str(error)) from error


def json_fault(
    error: Exception, source: bytes, root: str = "$", *, whole: str = "the body"
) -> PayloadError:
    """The fault behind one of `JSON_ERRORS`, with its place in ``source``.

    Args:
        error: Raised by the decoding of ``source``.
        source: The JSON text.
        root: The place of this text in the submission.
        whole: What the text is, if it is the whole submission.
    """
    if isinstance(error, RecursionError):
        return TooDeepError()
    if isinstance(error, InvalidValuesError):
        return PayloadError(readable(error.describe(root), _MAX_FAULT))
    if isinstance(error, msgspec.ValidationError):
        # "Expected `str`, got `null` - at `$.type`" → "$.type: expected str, got null"
        # From the right: the text may quote a key of the client's, which may contain " - at $".
        text, at, place = str(error).replace("`", "").rpartition(" - at $")
        text, place = (text, place) if at else (place, "")
        fault = f"{root}{place}: {text[:1].lower()}{text[1:]}"
        # The client's key may be as long as a body.
        return PayloadError(readable(fault, _MAX_FAULT))
    what = whole if root == "$" else root
    if not source.strip():
        return PayloadError(f"{what} is empty; JSON was expected")
    # msgspec looks for the second half beyond the end of the string, and reports truncated input.
    if "truncated" in str(error) and (half := _HALF_OF_A_PAIR.search(source)):
        return PayloadError(
            f"{what} is not valid JSON: {half[1].decode()} is half of a surrogate pair"
        )
    return PayloadError(f"{what} is not valid JSON: {error}")


def check_depth(text: bytes) -> None:
    """Check the nesting of JSON.

    Raises:
        TooDeepError: It is deeper than `MAX_DEPTH`.
    """
    if len(text) <= _SHALLOW or text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", text).translate(_BRACKETS, _NOT_BRACKETS)
    # Each round removes the innermost level.
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise TooDeepError
