"""What a refusal says: one bounded line, whatever was found."""

import difflib
import re
from collections.abc import Mapping
from typing import Final

_LONGEST: Final = 80  # characters of anything found that a message repeats

# How much of two names is the same, from 0 to 1. With less, http.port resembles http.certfile, and
# the hint is nonsense.
_ALIKE: Final = 0.7


class ConfigError(Exception):
    """A mistake in the configuration; ``str()`` is the whole one-line message for its author."""


def shown(value: object) -> str:
    """The value as a message shows it: its repr, so without control characters, and cut."""
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # TOML's hexadecimal integers and dotted keys are endless
        return f"a value of type {type(value).__name__} that is too large to show"


def shown_name(name: str) -> str:
    """A key or a variable as it is written, in quotes if it is an unusual one."""
    return cut(name) if re.fullmatch(r"[A-Za-z0-9_-]+", name) else shown(name)


def cut(text: str) -> str:
    """The text without the middle of what is too long: its end may be where the line number is."""
    return text if len(text) <= _LONGEST else f"{text[:40]}...{text[-30:]}"


def hint(name: str, known: Mapping[str, str]) -> str:
    """The end of a refusal: the known name that this one resembles; nothing if it resembles none.

    Args:
        name: What was found.
        known: The names to show, by the names to compare with.
    """
    near = difflib.get_close_matches(name[:_LONGEST], known, n=1, cutoff=_ALIKE)
    return f", the nearest is {known[near[0]]}" if near else ""
