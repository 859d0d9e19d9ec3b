"""Submissions as JSON, and what a client is told of those that are refused."""

import msgspec

from trio_jobs.admission import Submission
from trio_jobs.api.problems import Problem
from trio_jobs.handlers import Handlers, UnknownTypeError
from trio_jobs.payloads import (
    JSON_ERRORS,
    MAX_DEPTH,
    PayloadError,
    TooDeepError,
    check_submission,
    json_fault,
)

# Parsing many submissions gives way to other tasks after about a millisecond:
# an item takes as long as this many bytes of it, and the time is up after so many.
ITEM_COST = 100
TURN_COST = 100_000


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
    # A Raw is a view into the whole body; what is kept is the payload alone.
    payload = bytes(envelope.payload)
    try:
        # Also because a Raw has only been skimmed: bad UTF-8 and 1e999 pass.
        check_submission(envelope.type, payload, handlers)
    except UnknownTypeError as error:
        raise Problem(400, str(error), types=error.types) from None
    except PayloadError as error:
        raise _problem(error) from None
    return Submission(envelope.type, payload)


def json_problem(error: Exception) -> Problem:
    """What a client is told of one of `JSON_ERRORS` in a whole body."""
    return _problem(json_fault(error))


def _problem(error: PayloadError) -> Problem:
    if isinstance(error, TooDeepError):
        return Problem(400, str(error), limit=MAX_DEPTH)
    return Problem(400, str(error))
