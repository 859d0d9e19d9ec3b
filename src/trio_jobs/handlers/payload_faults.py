"""`Decode` makes a value from JSON; `PayloadError` says in a readable text why it does not."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from trio_jobs.error_text import readable
from trio_jobs.retries import GiveUp

# Python's own limit is some 990 levels on 3.11, and 9,998 on 3.13. Each version must be able to
# show jobs that another one has accepted.
MAX_DEPTH = 64

# Decoding raises these: neither bad UTF-8 nor deep nesting is a DecodeError.
JSON_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)

# The longest text of a fault, in characters.
_MAX_FAULT = 400

# The first half of a surrogate pair that lacks its second.
_HALF_OF_A_PAIR = re.compile(rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F])")

# Makes a value from JSON; raises `msgspec.MsgspecError` or `UnicodeError`, and nothing else.
Decode = Callable[[bytes], object]

# What msgspec's texts call the types of JSON's values, by the types that Python has for them.
JSON_TYPES = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    type(None): "null",
    list: "array",
    dict: "object",
}

# How many faults the text of a refusal describes at most.
_NAMED = 3


class Fault(NamedTuple):
    """One reason why a type does not take a value."""

    path: str  # the path from the value to it, like ``.items[0]``; empty for the value itself
    text: str


class InvalidValuesError(msgspec.ValidationError):
    """JSON that is not what a type takes, with all its faults."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = faults
        super().__init__(self.describe("$"))

    def describe(self, root: str) -> str:
        """The first faults in one line.

        Args:
            root: The path of the value.
        """
        texts = [f"{root}{each.path}: {each.text}" for each in self.faults[:_NAMED]]
        if len(self.faults) > _NAMED:
            texts.append(f"and {len(self.faults) - _NAMED} more")
        return "; ".join(texts)


class PayloadError(GiveUp, ValueError):
    """A submission with a fault; the text says which, and where.

    No retry policy gives its job another attempt: the same payload has the same fault.
    """


class TooDeepError(PayloadError):
    """JSON that is nested deeper than `MAX_DEPTH`."""

    def __init__(self) -> None:
        super().__init__(f"the JSON is nested deeper than {MAX_DEPTH} levels")


def json_fault(
    error: Exception, source: bytes, root: str = "$", *, whole: str = "the body"
) -> PayloadError:
    """The fault behind one of `JSON_ERRORS`, with its path in ``source``.

    Args:
        error: Raised by the decoding of ``source``.
        source: The JSON text.
        root: The path of this text in the submission.
        whole: What the text is, if it is the whole submission.
    """
    if isinstance(error, RecursionError):
        return TooDeepError()
    if isinstance(error, InvalidValuesError):
        return PayloadError(readable(error.describe(root), _MAX_FAULT))
    if isinstance(error, msgspec.ValidationError):
        # "Expected `str`, got `null` - at `$.type`" → "$.type: expected str, got null"
        # From the right: the text may quote a key of the client's, which may contain " - at $".
        text, at, path = str(error).replace("`", "").rpartition(" - at $")
        text, path = (text, path) if at else (path, "")
        fault = f"{root}{path}: {text[:1].lower()}{text[1:]}"
        # The client's key may be as long as a body.
        return PayloadError(readable(fault, _MAX_FAULT))
    what = whole if root == "$" else root
    if not source.strip():
        return PayloadError(f"{what} is empty; JSON was expected")
    # msgspec looks for the second half beyond the end of the string, and reports truncated input.
    if "truncated" in str(error) and (half := _HALF_OF_A_PAIR.search(source)):
        return PayloadError(
            f"{what} is not valid JSON: {half[1].decode()} is half of a surrogate pair"
        )
    return PayloadError(f"{what} is not valid JSON: {error}")
