"""`with_defaults`: decoded dataclasses have their defaults as attributes of their own.

msgspec leaves the default of a field in the class if the payload does not have the field, and
writes no field that the instance does not have: a handler's result would lack it.
"""

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import msgspec
from msgspec import inspect

from trio_jobs.handlers.annotations import Annotation
from trio_jobs.handlers.payload_faults import Decode


def with_defaults(decode: Decode, annotation: Annotation) -> Decode:
    """The decoder of a type, or one that completes the dataclasses in what it has made."""
    if not _has_defaults(inspect.type_info(annotation), seen=set()):
        return decode

    def decode_completely(payload: bytes) -> object:
        value = decode(payload)
        _complete(value)
        return value

    return decode_completely


def _has_defaults(type_: inspect.Type | inspect.Field, seen: set[int]) -> bool:
    """Whether a type has such dataclasses in it; types may contain themselves."""
    if id(type_) in seen:
        return False
    seen.add(id(type_))
    if isinstance(type_, inspect.DataclassType) and _defaults(type_.cls):
        return True
    parts = (getattr(type_, name) for name in type_.__struct_fields__)
    return any(_has_defaults(each, seen) for part in parts for each in _types(part))


def _types(part: object) -> list[inspect.Type | inspect.Field]:
    each = part if isinstance(part, tuple) else (part,)
    return [type_ for type_ in each if isinstance(type_, inspect.Type | inspect.Field)]


def _complete(decoded: object) -> None:
    values = [decoded]
    while values:
        value: Any = values.pop()
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            values += value
        elif isinstance(value, msgspec.Struct):
            values += (getattr(value, name) for name in value.__struct_fields__)
        elif is_dataclass(value):
            own = getattr(value, "__dict__", {})
            own |= {name: each for name, each in _defaults(type(value)).items() if name not in own}
            values += (getattr(value, each.name) for each in fields(value))
        elif hasattr(value, "__attrs_attrs__"):
            values += (getattr(value, each.name) for each in value.__attrs_attrs__)


def _defaults(class_: Any) -> dict[str, object]:  # noqa: ANN401 - a dataclass or an alias of one
    class_ = getattr(class_, "__origin__", class_)
    if "__dict__" not in dir(class_):
        return {}  # with slots, msgspec sets them
    return {each.name: each.default for each in fields(class_) if each.default is not MISSING}
