"""What payloads are taken, whichever way they come: every shape of bad JSON is refused here."""

import re

import msgspec

from trio_jobs.error_text import readable
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.json_encoding import ResultError, encode_result

# Python's own limit differs from version to version (some 990 on 3.11, 9,998
# on 3.13), and what one accepts another must be able to show.
MAX_DEPTH = 64

# What decoding raises: neither bad UTF-8 nor deep nesting is a DecodeError.
JSON_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)

# Characters of what a client is told of a fault.
_MAX_FAULT = 400

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
# An escape that a second one must follow, and does not.
_HALF_OF_A_PAIR = re.compile(rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F])")
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))


class PayloadError(ValueError):
    """A payload, or the whole submission, that is refused; the text says where and why."""


class TooDeepError(PayloadError):
    """JSON that is nested deeper than `MAX_DEPTH`."""

    def __init__(self) -> None:
        super().__init__(f"the JSON is nested deeper than {MAX_DEPTH} levels")


def check_type(type: object) -> None:  # noqa: A002
    """Refuse what cannot be a job's type, where it has not been read from JSON.

    Raises:
        PayloadError: It is no string, or not valid Unicode.
    """
    try:
        if not isinstance(type, str):
            msgspec.convert(type, str)  # which refuses it in the words for JSON
        elif not type.isascii():
            type.encode()
    except msgspec.ValidationError as error:
        raise json_fault(error, b"", "$.type") from None
    except UnicodeError as error:
        raise PayloadError(f"$.type is not valid Unicode: {error}") from None


def check_submission(type: str, payload: bytes, handlers: HandlerRegistry) -> None:  # noqa: A002
    """Refuse what no handler could be called with.

    Raises:
        PayloadError: The type is empty; or the payload is nested too deep, is
            not JSON, or not what the type's handler takes.
        UnknownTypeError: There is no handler for this type.
    """
    if not type:
        raise PayloadError("$.type must be a non-empty string")
    check_depth(payload)
    try:
        handlers.validate(type, payload)
    except JSON_ERRORS as error:
        raise json_fault(error, payload, "$.payload") from None


def encode_payload(payload: object, *, max_bytes: int) -> bytes:
    """A payload as JSON, converted as results are.

    Raises:
        PayloadError: It is not serialisable, or has more than ``max_bytes``.
    """
    try:
        return encode_result(payload, max_bytes=max_bytes, what="payload")
    except ResultError as error:
        raise PayloadError(str(error)) from error


def json_fault(error: Exception, source: bytes, root: str = "$") -> PayloadError:
    """One of `JSON_ERRORS`, raised by decoding ``source``, told with the place of the fault."""
    if isinstance(error, RecursionError):
        return TooDeepError()
    if isinstance(error, msgspec.ValidationError):
        # "Expected `str`, got `null` - at `$.type`" → "$.type: expected str, got null"
        # From the right: the text may name a key of the client's, with anything in it.
        text, at, place = str(error).replace("`", "").rpartition(" - at $")
        text, place = (text, place) if at else (place, "")
        fault = f"{root}{place}: {text[:1].lower()}{text[1:]}"
        # It may name a key that the client has sent, which is as long as the client likes.
        return PayloadError(readable(fault, _MAX_FAULT))
    what = "the body" if root == "$" else root
    if not source.strip():
        return PayloadError(f"{what} is empty; JSON was expected")
    # msgspec looks for the second half beyond the end of the string, and says that it was cut off.
    if "truncated" in str(error) and (half := _HALF_OF_A_PAIR.search(source)):
        return PayloadError(
            f"{what} is not valid JSON: {half[1].decode()} is half of a surrogate pair"
        )
    return PayloadError(f"{what} is not valid JSON: {error}")


def check_depth(text: bytes) -> None:
    """Refuse JSON that is nested deeper than `MAX_DEPTH`.

    Raises:
        TooDeepError: It is.
    """
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", text).translate(_BRACKETS, _NOT_BRACKETS)
    # Each round takes the innermost level away.
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise TooDeepError
