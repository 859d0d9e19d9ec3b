"""The ``Date`` header of an answer, formatted once a second."""

import time
from functools import lru_cache
from wsgiref.handlers import format_date_time


def date_header() -> tuple[bytes, bytes]:
    """Name and value, for the present second."""
    return _formatted(int(time.time()))


@lru_cache(maxsize=1)
def _formatted(second: int) -> tuple[bytes, bytes]:
    return b"date", format_date_time(second).encode("ascii")
