"""Parses a submission from JSON, and refuses a bad one with a Problem."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace
from quart import request

from trio_jobs.api.due import SECONDS, check_due
from trio_jobs.api.keys import make_key
from trio_jobs.api.validation import check_depth, check_submission
from trio_jobs.handlers.payload_faults import (
    JSON_ERRORS,
    MAX_DEPTH,
    PayloadError,
    TooDeepError,
    json_fault,
)
from trio_jobs.handlers.registry import HandlerRegistry, UnknownTypeError
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.problem_details import Problem
from trio_jobs.shown_value import shown

KEY = "Idempotency-Key"

# A route that parses many submissions checkpoints about once a millisecond: when their costs
# reach TURN_COST. The cost of a submission is its number of bytes plus ITEM_COST.
ITEM_COST = 100
TURN_COST = 100_000


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    type: str
    payload: msgspec.Raw = msgspec.Raw(b"")
    delay: msgspec.Raw = msgspec.Raw(b"")
    run_at: msgspec.Raw = msgspec.Raw(b"")


class _Item(_Envelope, forbid_unknown_fields=True, frozen=True, gc=False):
    key: str | msgspec.UnsetType = msgspec.UNSET


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_item = msgspec.json.Decoder(_Item).decode


# The type of a line without one. By identity: a client can send any text.
_NO_TYPE = "(none)"


class _Line(_Item, forbid_unknown_fields=True, frozen=True, gc=False):
    type: str = _NO_TYPE


_decode_line = msgspec.json.Decoder(_Line).decode

# The shortest bodies with a repeated key, without their values. A body that has fewer bytes
# beside its values repeats no key.
_REPEATED = b'{"type":"","type":""}'
_REPEATED_WITH_PAYLOAD = b'{"type":"","type":"","payload":}'

_KEY = re.compile(rb'\s*[{,]\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:\s*')
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_SCALAR = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[-+.0-9eE]+')
_END = re.compile(rb"\s*}")

# RFC 3339, section 5.6; msgspec checks the numbers, and takes an offset without a colon as well.
_A_TIME = "a time of RFC 3339 with a time zone, such as 2026-12-01T08:00:00Z"
_DATE_TIME = re.compile(r".{10}[Tt ].*(?:[Zz]|[+-][0-9]{2}:[0-9]{2})")


def parse_submission(
    body: bytes,
    handlers: HandlerRegistry,
    now: Callable[[], datetime],
    *,
    key: str | None = None,
    submitted_by: str | None = None,
) -> JobSpec:
    """The submission in ``{"type": …, "payload": …}``, checked.

    It may have one of two more members: ``delay`` in seconds, or ``run_at``, a time of RFC 3339.

    Args:
        body: The JSON.
        handlers: Those that there are.
        now: The wall clock, as an aware UTC time.
        key: The text of its idempotency key, checked; None if it has none.
        submitted_by: The name of the client, if it has one.

    Raises:
        Problem: 400, with the fault and its path.
    """
    try:
        envelope = _decode_envelope(body)
    except JSON_ERRORS as error:
        raise json_problem(error, body) from None
    return _check(envelope, body, handlers, now, key, submitted_by)


def parse_item(
    body: bytes,
    handlers: HandlerRegistry,
    now: Callable[[], datetime],
    *,
    submitted_by: str | None = None,
    default_type: str | None = None,
) -> JobSpec:
    """The submission in an item of a batch, or in a line of a stream; see `parse_submission`.

    It may have one more member: ``key``, its idempotency key. With ``default_type``, it may lack
    its type.
    """
    try:
        item = _decode_item(body) if default_type is None else _decode_line(body)
    except JSON_ERRORS as error:
        raise _problem(json_fault(error, body, whole="the submission")) from None
    if default_type is not None and item.type is _NO_TYPE:
        item = replace(item, type=default_type)
    key = None if item.key is msgspec.UNSET else item.key
    return _check(item, body, handlers, now, key, submitted_by)


def _check(
    envelope: _Envelope,
    body: bytes,
    handlers: HandlerRegistry,
    now: Callable[[], datetime],
    key: str | None,
    submitted_by: str | None,
) -> JobSpec:
    # A copy: a Raw would keep the whole body in memory with the job.
    payload = bytes(envelope.payload)
    given = due = None
    if envelope.delay or envelope.run_at:
        given, due = _due(bytes(envelope.delay), bytes(envelope.run_at), now())
    least = len(_REPEATED_WITH_PAYLOAD if payload else _REPEATED)
    # The type may come from elsewhere; then its length says nothing, and a key is always looked at.
    beside = len(body) - len(envelope.type) - len(payload)
    # `type`: `isinstance` calls a method of the class's metaclass.
    if (beside >= least or type(envelope) is _Line) and _repeats_a_key(body, payload):
        raise Problem(400, "$: object contains a field more than once")
    payload = payload or b"null"
    try:
        check_submission(envelope.type, payload, handlers)
    except UnknownTypeError as error:
        raise Problem(400, str(error), types=error.types) from None
    except PayloadError as error:
        raise _problem(error) from None
    spec = JobSpec(envelope.type, payload, due, submitted_by=submitted_by)
    if key is None:
        return spec
    try:
        return replace(spec, key=make_key(key, spec, given, root="$."))
    except PayloadError as error:
        raise _problem(error) from None


def json_problem(error: Exception, body: bytes) -> Problem:
    """The refusal of a body whose decoding raised one of `JSON_ERRORS`."""
    return _problem(json_fault(error, body))


def refuse_key() -> None:
    """Refuse an idempotency key on a request with many jobs, where it prevents no duplicates.

    Raises:
        Problem: 400, the current request has an idempotency key.
    """
    if KEY in request.headers:
        raise Problem(
            400, f'{KEY} is for POST /jobs only: here each job may have a key of its own, "key"'
        )


def _due(
    delay: bytes, run_at: bytes, now: datetime
) -> tuple[float | datetime | None, float | datetime | None]:
    """When the job may begin, from the JSON of two values; empty JSON if one is not given.

    Returns:
        The time as given, and as `check_due` returns it.
    """
    try:
        seconds: Any = _value(delay, "$.delay", SECONDS) if delay else None
        date = _date(run_at) if run_at else None
        due = check_due(seconds, date, now=now, root="$.")
    except PayloadError as error:
        raise _problem(error) from None
    return date if seconds is None else seconds, due


def _date(run_at: bytes) -> datetime:
    value = _value(run_at, "$.run_at", _A_TIME)
    if isinstance(value, str) and _DATE_TIME.fullmatch(value):
        with suppress(msgspec.ValidationError):
            return msgspec.convert(value, datetime)
    raise PayloadError(f"$.run_at must be {_A_TIME}, got {shown(value)}")


def _value(json: bytes, path: str, wanted: str) -> object:
    check_depth(json)
    try:
        value = msgspec.json.decode(json)
    except JSON_ERRORS as error:
        raise json_fault(error, json, path) from None
    if value is None:
        raise PayloadError(f"{path} must be {wanted}, got null")
    return value


def _repeats_a_key(body: bytes, payload: bytes) -> bool:
    """Whether a decoded submission has a key twice; msgspec silently takes the last one."""
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
        elif name in ("delay", "run_at", "key"):
            value = _SCALAR.match(body, key.end())
            end = value.end() if value else len(body)
        elif body.startswith(payload, key.end()):
            end = key.end() + len(payload)
        else:
            return True  # another payload comes before the one that msgspec took
    # If the body goes on here, `payload` has matched the beginning of an earlier payload.
    return _END.match(body, end) is None


def _problem(error: PayloadError) -> Problem:
    if isinstance(error, TooDeepError):
        return Problem(400, str(error), limit=MAX_DEPTH)
    return Problem(400, str(error))
