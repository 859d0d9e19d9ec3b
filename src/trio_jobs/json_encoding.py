"""A handler's result as JSON, encoded once, when its job ends: what is kept can always be shown."""

import math
from collections import UserString
from collections.abc import Callable, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from pathlib import PurePath
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_NULL = b"null"

# What msgspec makes of NaN and infinities, without a word: null of values, texts of keys.
_TRACES = (_NULL, b'"nan"', b'"inf"', b'"-inf"')


class ResultError(Exception):
    """A result that cannot be kept as JSON; the text says why."""


def encode_result(result: object, *, max_bytes: int, what: str = "result") -> bytes:
    """The result, or ``what`` it is instead, as JSON, at most ``max_bytes`` of it.

    Beside plain JSON values msgspec's own conversions hold: dataclasses,
    Structs and attrs classes become objects; sets and tuples arrays; dates,
    UUIDs, enums and decimals text; bytes base64. What else has one obvious
    form in JSON is converted here: other mappings, sequences and sets, views of
    dicts, paths, subclasses of str, int, float and bytes; and keys as Python's
    own json does it.

    Raises:
        ResultError: It is not serialisable, holds NaN or an infinity (JSON has
            neither; nor as a key), is cyclic or nested too deep, is not valid Unicode, or is
            too large.
    """
    if result is None:
        return _NULL
    try:
        converted: Callable[[object], object] = _nothing
        try:
            encoded = _encode(result)
        except TypeError:
            conversions = _Conversions(max_bytes)
            encoded = msgspec.json.encode(result, enc_hook=conversions.convert)
            converted = conversions.converted
        # First of all: what follows takes several times as long.
        if len(encoded) > max_bytes:
            raise ResultError(f"the {what} is {len(encoded)} bytes of JSON, more than {max_bytes}")
        # Once back: a `msgspec.Raw` in a result is copied unseen, and a number
        # may be too large for a reader. What is stored never breaks a GET.
        _decode(encoded)
        if any(trace in encoded for trace in _TRACES) and _has_non_finite(
            msgspec.to_builtins(result, enc_hook=converted)
        ):
            raise ResultError(f"the {what} holds NaN or an infinity, which JSON has not")
    except RecursionError:
        raise ResultError(f"the {what} is cyclic or nested too deep") from None
    except UnicodeError as error:
        raise ResultError(f"the {what} holds text that is not valid Unicode: {error}") from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise ResultError(f"the {what} is not serialisable: {error}") from None
    return encoded


def _nothing(_: object) -> object:
    return None  # of a `msgspec.Raw`, which holds no number of Python's


class _Conversions:
    """Converts what has a form in JSON, but none of msgspec's: each value once, for good.

    To convert may run the user's code.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._made: dict[int, tuple[object, object]] = {}  # by identity; the values stay alive

    def convert(self, value: object) -> object:
        """The value as one that msgspec knows; keys that are no text come here as well."""
        if isinstance(value, range) and len(value) > self._max_bytes:
            raise TypeError(f"a range of {len(value)} numbers is too large")
        converted = _convert(value)
        self._made[id(value)] = value, converted
        return converted

    def converted(self, value: object) -> object:
        """What `convert` has made of the value; None of what it was not asked for."""
        _, converted = self._made.get(id(value), (value, None))
        return converted


def _convert(value: object) -> object:
    name = type(value).__qualname__
    match value:
        case True | False | None:  # only as a key it comes here
            return {True: "true", False: "false", None: "null"}[value]
        case tuple() | list() | dict() | set() | frozenset():  # as above
            raise TypeError(f"a {name} cannot be a key")
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case bytes():
            return bytes.__getitem__(value, slice(None))
        case PurePath() | UserString():
            return str(value)
        case Mapping():
            return dict(value)
        case Sequence() | AbstractSet() | ValuesView():
            return list(value)
    raise TypeError(f"{name} has no one form in JSON; convert it first")


def _has_non_finite(result: object) -> bool:
    values: list[Any] = [result]
    while values:
        value = values.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                return True
        elif isinstance(value, dict):
            values += value
            values += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            values += value
    return False
