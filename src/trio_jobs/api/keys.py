"""Idempotency keys of submissions: the check, and the digest."""

import hashlib
import re
from datetime import datetime

import msgspec

from trio_jobs.handlers.payload_faults import PayloadError
from trio_jobs.job import IdempotencyKey
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.shown_value import shown

VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")


def make_key(
    text: object, spec: JobSpec, due: float | datetime | None, *, root: str = ""
) -> IdempotencyKey:
    """The key of a submission; its digest is of the type, the time as given, and the payload.

    Args:
        text: The name that the client gives it.
        spec: The submission.
        due: The time as given; a repetition has the same, even if it is past by then.
        root: What stands before the name in the text of a fault, such as ``$.``.

    Raises:
        PayloadError: The text is no key.
    """
    if not isinstance(text, str) or not VISIBLE.fullmatch(text):
        found = shown(text)
        raise PayloadError(f"{root}key must be 1 to 255 visible ASCII characters, got {found}")
    time = due if due is None else due.timestamp() if isinstance(due, datetime) else float(due)
    head = msgspec.json.encode([spec.type, time, isinstance(due, datetime)])
    return IdempotencyKey(text=text, digest=hashlib.sha256(head + spec.payload).digest())
