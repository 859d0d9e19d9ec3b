"""What a client sends for a job: type, payload, key and time, checked as far as a client can."""

import math
import re
import uuid
from datetime import datetime

import msgspec

from trio_jobs.json_encoding import ResultError, encode_result

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def submission(
    type_: str,
    payload: object,
    *,
    key: str | None = None,
    delay: float | None = None,
    run_at: datetime | None = None,
) -> dict[str, object]:
    """A job for `msgspec.json.encode`, as the server takes it.

    Raises:
        ValueError: JSON has no form for the payload, or the delay is no number.
    """
    item: dict[str, object] = {"type": type_, "payload": encode_payload(payload)}
    if key is not None:
        item["key"] = checked_key(key)
    if delay is not None:
        if not math.isfinite(delay):
            raise ValueError(f"delay must be a number of seconds, got {delay!r}")
        item["delay"] = delay
    if run_at is not None:
        item["run_at"] = run_at
    return item


def encode_payload(payload: object) -> msgspec.Raw:
    """A payload as JSON, by the rules for results of handlers.

    Raises:
        ValueError: JSON has no form for it.
    """
    try:
        # How long it may be is the server's to say.
        return msgspec.Raw(encode_result(payload, max_bytes=2**40, what="payload"))
    except ResultError as error:
        raise ValueError(str(error)) from error


def make_key(_number: int = 0) -> str:
    """A key of its own."""
    return uuid.uuid4().hex


def checked_key(key: str) -> str:
    """The key.

    Raises:
        ValueError: No header can have it.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"key must be 1 to 255 visible ASCII characters, got {key!r}")
    return key
