"""`Idempotency-Key`: a client's name for a submission, under which it may repeat the request."""

import hashlib
import re

from quart import request

from trio_jobs.api.error_handlers import Problem
from trio_jobs.job import IdempotencyKey

KEY = "Idempotency-Key"
_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")


def read_key(body: bytes) -> IdempotencyKey | None:
    """The current request's idempotency key.

    Raises:
        Problem: 400, there are several, or it has other characters than it may.
    """
    texts = request.headers.getlist(KEY)
    if not texts:
        return None
    if len(texts) > 1 or not _VISIBLE.fullmatch(texts[0]):
        raise Problem(400, f"{KEY} must be one value of 1 to 255 visible ASCII characters")
    return IdempotencyKey(text=texts[0], digest=hashlib.sha256(body).digest())


def refuse_key() -> None:
    """Take no key for many jobs: a client that repeats them must not count on it.

    Raises:
        Problem: 400, the current request has one.
    """
    if KEY in request.headers:
        raise Problem(400, f"{KEY} is for POST /jobs only: it names one job")
