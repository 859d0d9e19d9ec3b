"""`Decode` makes a value from JSON; `InvalidValuesError` is its refusal with several faults."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

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

    place: str  # the path from the value to it, like ``.items[0]``; empty for the value itself
    text: str


class InvalidValuesError(msgspec.ValidationError):
    """JSON that is not what a type takes, with all its faults."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = faults
        super().__init__(self.describe("$"))

    def describe(self, root: str) -> str:
        """The first faults in one line.

        Args:
            root: The place of the value.
        """
        texts = [f"{root}{each.place}: {each.text}" for each in self.faults[:_NAMED]]
        if len(self.faults) > _NAMED:
            texts.append(f"and {len(self.faults) - _NAMED} more")
        return "; ".join(texts)
