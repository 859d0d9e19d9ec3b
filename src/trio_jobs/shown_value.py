"""`shown`: a wrong value, as a refusal shows it."""

from typing import Final

_MAX_SHOWN: Final = 80  # characters of a found value that a refusal repeats


def shown(value: object) -> str:
    """The value as a refusal shows it: its repr, without control characters, shortened."""
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # a very long 0x… integer, very deep dotted keys
        return f"a value of type {type(value).__name__} that is too large to show"


def cut(text: str) -> str:
    """Shorten a long text in the middle: its end may be a line number."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:40]}...{text[-30:]}"
