"""Admission as JSON, and what a client is told of those that are refused."""

import re

import msgspec

from trio_jobs.api.error_handlers import Problem
from trio_jobs.api.validation import (
    JSON_ERRORS,
    MAX_DEPTH,
    PayloadError,
    TooDeepError,
    check_submission,
    json_fault,
)
from trio_jobs.handlers.registry import HandlerRegistry, UnknownTypeError
from trio_jobs.pool.admission import JobSpec

# Parsing many submissions gives way to other tasks after about a millisecond:
# an item takes as long as this many bytes of it, and the time is up after so many.
ITEM_COST = 100
TURN_COST = 100_000


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    type: str
    payload: msgspec.Raw = msgspec.Raw(b"")


_decode_envelope = msgspec.json.Decoder(_Envelope).decode

# All but their values of the shortest submissions that have a key twice.
_REPEATED = b'{"type":"","type":""}'
_REPEATED_WITH_PAYLOAD = b'{"type":"","type":"","payload":}'

_KEY = re.compile(rb'\s*[{,]\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:\s*')
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_END = re.compile(rb"\s*}")


def parse_submission(body: bytes, handlers: HandlerRegistry) -> JobSpec:
    """One job's submission from ``{"type": …, "payload": …}``.

    Raises:
        Problem: 400, with what is wrong and where.
    """
    try:
        envelope = _decode_envelope(body)
    except JSON_ERRORS as error:
        raise json_problem(error, body) from None
    # A Raw is a view into the whole body; what is kept is the payload alone.
    payload = bytes(envelope.payload)
    least = len(_REPEATED_WITH_PAYLOAD if payload else _REPEATED)
    if len(body) - len(envelope.type) - len(payload) >= least and _repeats_a_key(body, payload):
        raise Problem(400, "$: object contains a field more than once")
    payload = payload or b"null"
    try:
        # Also because a Raw has only been skimmed: bad UTF-8 and 1e999 pass.
        check_submission(envelope.type, payload, handlers)
    except UnknownTypeError as error:
        raise Problem(400, str(error), types=error.types) from None
    except PayloadError as error:
        raise _problem(error) from None
    return JobSpec(envelope.type, payload)


def json_problem(error: Exception, body: bytes) -> Problem:
    """What a client is told of one of `JSON_ERRORS` in a whole body."""
    return _problem(json_fault(error, body))


def _repeats_a_key(body: bytes, payload: bytes) -> bool:
    """Whether a submission, which has been decoded, has a key twice: msgspec takes the last one."""
    seen: set[str] = set()
    end = 0
    while key := _KEY.match(body, end):
        name: str = msgspec.json.decode(key[1])
        if name in seen:
            return True
        seen.add(name)
        if name == "type":
            value = _STRING.match(body, key.end())
            end = value.end() if value else len(body)
        elif body.startswith(payload, key.end()):
            end = key.end() + len(payload)
        else:
            return True  # another payload, before the one that was taken
    # What is not the end is the rest of another payload, which begins like the one that was taken.
    return _END.match(body, end) is None


def _problem(error: PayloadError) -> Problem:
    if isinstance(error, TooDeepError):
        return Problem(400, str(error), limit=MAX_DEPTH)
    return Problem(400, str(error))
