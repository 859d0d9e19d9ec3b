"""Durations and job ids on the command line."""

import re
from argparse import ArgumentTypeError
from collections.abc import Mapping
from typing import Final

# Seconds.
_UNITS: Final[Mapping[str, float]] = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhd]?)")
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def seconds_of(text: str) -> float:
    """The seconds of ``90``, ``1.5``, ``30s``, ``15m``, ``1h``, ``7d``.

    Raises:
        ArgumentTypeError: It is none of these.
    """
    if match := _DURATION.fullmatch(text):
        return float(match[1]) * _UNITS[match[2]]
    raise ArgumentTypeError(f"expected a time such as 90, 1.5, 30s, 15m, 1h or 7d, got {text!r}")


def job_id(text: str) -> str:
    """A job's id.

    Raises:
        ArgumentTypeError: It is none, and might lead to another path of the server.
    """
    if _ID.fullmatch(text):
        return text.lower()
    raise ArgumentTypeError(f"expected the id of a job, got {text!r}")
