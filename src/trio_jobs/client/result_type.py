"""Makes a result of the type that the caller names."""

import inspect
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, TypeVar, overload

import msgspec

_Result = TypeVar("_Result")


@overload
def make_decoder(type: type[_Result]) -> Callable[[bytes | msgspec.Raw], _Result]: ...


@overload
def make_decoder(type: Any) -> Callable[[bytes | msgspec.Raw], Any]: ...  # noqa: ANN401


def make_decoder(type: Any) -> Callable[[bytes | msgspec.Raw], Any]:  # noqa: A002
    """A function from the JSON of a result to its value.

    Args:
        type: Anything that msgspec can read, such as a ``Struct`` or ``list[int]``; and models of
            Pydantic, also as parts, such as in ``list[Model]``.

    Returns:
        The function. It raises msgspec.ValidationError if the JSON is not of this type.
    """
    return msgspec.json.Decoder(type, dec_hook=_make).decode


def _make(type: Any, value: object) -> object:  # noqa: A002, ANN401
    """Make a value of a type that msgspec does not know; a ValueError becomes msgspec's."""
    if hasattr(type, "model_validate_json"):
        # By JSON, since a strict model refuses a date that is text already.
        return type.model_validate_json(msgspec.json.encode(value))
    if inspect.isclass(type) and issubclass(type, PurePath) and isinstance(value, str):
        return type(value)
    return value  # msgspec refuses it
