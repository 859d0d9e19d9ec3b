"""Encodes a value as strict JSON of bounded size. A result is encoded once, when its job ends."""

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

# msgspec turns NaN and infinities into these without an error: values into null, keys into texts.
_TRACES = (_NULL, b'"nan"', b'"inf"', b'"-inf"')


class ResultError(Exception):
    """A result that cannot be kept as JSON; the text says why."""


def encode_result(result: object, *, max_bytes: int, what: str = "result") -> bytes:
    """Encode a result, or another value that the messages call ``what``.

    msgspec converts dataclasses, Structs and attrs classes to objects; sets and tuples to arrays;
    dates, UUIDs and decimals to text; an enum to its value; bytes to base64. Pydantic converts its
    models, with aliases. This function converts other types that have one obvious form in JSON:
    other mappings, sequences and sets, views of dicts, paths, subclasses of str, int, float and
    bytes; keys as Python's ``json`` does.

    Raises:
        ResultError: The value has more than ``max_bytes`` of JSON, has no form in JSON, holds NaN
            or an infinity (as a key, too), is cyclic or nested too deep, or is not valid Unicode.
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
        # First, because the following checks take several times as long.
        if len(encoded) > max_bytes:
            raise ResultError(f"the {what} is {len(encoded)} bytes of JSON, more than {max_bytes}")
        # Decode it once: msgspec copies a `msgspec.Raw` unseen, and writes numbers that are too
        # large for a reader. A stored result must not break a GET.
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
    return None  # for a `msgspec.Raw`, which holds no float


class _Conversions:
    """Converts each value that msgspec does not know, and only once: that may run user code."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._made: dict[int, tuple[object, object]] = {}  # by identity; keeps the values alive

    def convert(self, value: object) -> object:
        """Convert a value, or a key that is no text."""
        if isinstance(value, range) and len(value) > self._max_bytes:
            raise TypeError(f"a range of {len(value)} numbers is too large")
        converted = _convert(value)
        self._made[id(value)] = value, converted
        return converted

    def converted(self, value: object) -> object:
        """The earlier result of `convert`; None for other values."""
        _, converted = self._made.get(id(value), (value, None))
        return converted


def _convert(value: object) -> object:
    name = type(value).__qualname__
    if hasattr(type(value), "__pydantic_serializer__"):
        return value.model_dump(mode="json", by_alias=True)  # type: ignore[attr-defined]
    match value:
        case True | False | None:  # a key
            return {True: "true", False: "false", None: "null"}[value]
        case tuple() | list() | dict() | set() | frozenset():
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
