"""A handler's result as JSON, encoded once, when its job ends: what is kept can always be shown."""

import math
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
    UUIDs, enums and decimals text; bytes base64.

    Raises:
        ResultError: It is not serialisable, holds NaN or an infinity (JSON has
            neither; nor as a key), is cyclic or nested too deep, is not valid Unicode, or is
            too large.
    """
    if result is None:
        return _NULL
    try:
        encoded = _encode(result)
        # First of all: what follows takes several times as long.
        if len(encoded) > max_bytes:
            raise ResultError(f"the {what} is {len(encoded)} bytes of JSON, more than {max_bytes}")
        # Once back: a `msgspec.Raw` in a result is copied unseen, and a number
        # may be too large for a reader. What is stored never breaks a GET.
        _decode(encoded)
        if any(trace in encoded for trace in _TRACES) and _has_non_finite(
            msgspec.to_builtins(result)
        ):
            raise ResultError(f"the {what} holds NaN or an infinity, which JSON has not")
    except RecursionError:
        raise ResultError(f"the {what} is cyclic or nested too deep") from None
    except UnicodeError as error:
        raise ResultError(f"the {what} holds text that is not valid Unicode: {error}") from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise ResultError(f"the {what} is not serialisable: {error}") from None
    return encoded


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
