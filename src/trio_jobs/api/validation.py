"""The checks of a submission, from HTTP and from Python: every shape of bad JSON fails here."""

import re

import msgspec

from trio_jobs.handlers.payload_faults import (
    JSON_ERRORS,
    MAX_DEPTH,
    PayloadError,
    TooDeepError,
    json_fault,
)
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.json_encoding import ResultError, encode_result

# Bytes. A level takes two, so JSON of no more bytes is not deeper.
_SHALLOW = 2 * MAX_DEPTH

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))


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
