"""Payloads of Pydantic's types. Pydantic is imported only for an annotation that has one of them.

Pydantic's own validator takes the whole annotation, and reads the JSON itself. If msgspec made the
outer part and Pydantic the inner one, a strict model would get dates as texts and refuse them, and
constraints in `Annotated` would be lost.
"""

import dataclasses
import inspect
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from trio_jobs.handlers.annotations import Annotation
from trio_jobs.handlers.importing import HandlerError
from trio_jobs.handlers.payload_faults import JSON_TYPES, Decode, Fault, InvalidValuesError

# The packages of the constraints that Pydantic takes in `Annotated`.
_PACKAGES = frozenset({"pydantic", "pydantic_core", "annotated_types"})

# For each type of Pydantic's errors, the JSON type that it expects, in msgspec's words.
_EXPECTED = {
    "string_type": "str",
    "int_type": "int",
    "float_type": "float",
    "bool_type": "bool",
    "none_required": "null",
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "array"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "dataclass_type"), "object"),
}
_MISSING = frozenset({"missing", "missing_argument", "missing_keyword_only_argument"})
_UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})

# With more errors than this, a refusal names none. Pydantic can only describe all of them at once,
# which takes seconds for as many errors as one body can have.
_MAX_ERRORS = 1000

_decode_anything = msgspec.json.Decoder().decode


def has_pydantic(annotation: Annotation) -> bool:
    """Whether a part of this type is Pydantic's. If so, Pydantic decodes the whole type.

    Raises:
        HandlerError: A part is of Pydantic 1, or has constraints of msgspec's beside Pydantic's.
    """
    parts = [*_parts(annotation, {})]
    if not any(map(_is_pydantics, parts)):
        return False
    if any(isinstance(each, msgspec.Meta) for each in parts):
        raise HandlerError(
            f"has a payload of type {annotation!r}, in which Pydantic would pass over msgspec.Meta:"
            " use pydantic.Field"
        )
    return True


def _parts(annotation: Annotation, seen: dict[int, object]) -> Iterator[object]:
    """The types that a type is made of, and the constraints in `Annotated`.

    Args:
        annotation: The type.
        seen: The types so far, by ``id()``. The dict keeps them alive: Python gives the id of a
            type that is gone to another one.
    """
    if id(annotation) in seen:
        return
    seen[id(annotation)] = annotation
    yield annotation
    origin: object = typing.get_origin(annotation)
    if origin is typing.Literal:
        return
    if origin is typing.Annotated:
        yield from annotation.__metadata__
        yield from _parts(annotation.__origin__, seen)
        return
    inner = [*typing.get_args(annotation)]
    if origin is not None:
        inner.append(origin)
    elif hasattr(annotation, "__supertype__"):  # a NewType
        inner.append(annotation.__supertype__)
    elif hasattr(annotation, "__value__"):  # an alias made by ``type``
        inner.append(annotation.__value__)
    elif inspect.isclass(annotation) and not _is_pydantics(annotation):
        inner += _fields(annotation)
    for each in inner:
        yield from _parts(each, seen)


def _fields(type: type[Any]) -> list[Annotation]:  # noqa: A002
    """The types of the fields of a class that msgspec knows."""
    if {"__get_validators__", "__fields__"} <= {*dir(type)} or hasattr(type, "__pydantic_model__"):
        raise HandlerError(
            f"has a payload with {type.__name__}, which is a Pydantic 1 model: use Pydantic 2"
        )
    has_fields = dataclasses.is_dataclass(type) or any(
        hasattr(type, name)
        for name in ("__total__", "_fields", "__struct_fields__", "__attrs_attrs__")
    )
    if not has_fields:
        return []
    try:
        return [*typing.get_type_hints(type, include_extras=True).values()]
    except Exception:  # noqa: BLE001 - runs the user's annotations; msgspec or Pydantic reports it
        return []


def _is_pydantics(part: object) -> bool:
    if hasattr(part, "__get_pydantic_core_schema__") or hasattr(part, "__pydantic_decorators__"):
        return True
    if inspect.isclass(part):
        return False
    # All bases: FastAPI's Body is derived from a class of Pydantic's.
    return any(each.__module__.partition(".")[0] in _PACKAGES for each in type(part).__mro__)


def make_pydantic_decoder(annotation: Annotation) -> Decode:
    """A decoder by Pydantic; raises `InvalidValuesError`, and what the user's validators raise.

    Raises:
        HandlerError: Pydantic cannot make this type; the text is Pydantic's.
    """
    try:
        from pydantic import TypeAdapter, ValidationError

        adapter = TypeAdapter(annotation)
    except Exception as error:  # Pydantic runs the user's code
        raise _refusal(annotation, error) from error

    def decode(payload: bytes) -> object:
        try:
            return adapter.validate_json(payload)
        except ValidationError as error:
            value = _decode_anything(payload)  # raises if it is no JSON at all
            if error.error_count() > _MAX_ERRORS:
                text = f"{error.error_count()} values are wrong, too many to name one"
                raise InvalidValuesError([Fault("", text)]) from None
            errors = error.errors(include_url=False, include_context=False)
            faults = dict.fromkeys(_fault(each, value) for each in errors)  # each once
            raise InvalidValuesError([*faults]) from error

    return decode


def pydantic_schemas(
    annotations: Iterable[Annotation], ref_template: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schemas of types, and by name the components that these refer to.

    Raises:
        HandlerError: A type has no schema; the text is Pydantic's.
    """
    annotations = [*annotations]
    if not annotations:
        return [], {}
    try:
        from pydantic import TypeAdapter
        from pydantic.json_schema import GenerateJsonSchema

        class Generator(GenerateJsonSchema):
            # A default that JSON has no form for is left out, as in other schemas: no warning.
            ignored_warning_kinds = frozenset(  # type: ignore[assignment]
                {"skipped-choice", "non-serializable-default"}
            )

        adapters = enumerate(map(TypeAdapter, annotations))
        schemas, more = TypeAdapter.json_schemas(
            [(number, "validation", each) for number, each in adapters],
            ref_template=ref_template.replace("{name}", "{model}"),
            schema_generator=Generator,
        )
    except Exception as error:  # Pydantic runs the user's code
        raise _refusal(annotations[0], error) from error
    in_order = [schemas[number, "validation"] for number in range(len(annotations))]
    return in_order, more.get("$defs", {})


def _refusal(annotation: Annotation, error: Exception) -> HandlerError:
    # The first paragraph alone: the others give advice on Pydantic, and a link.
    text = " ".join(str(error).partition("\n\n")[0].split())
    return HandlerError(f"has a payload of type {annotation!r}: {text}")


def _fault(error: Mapping[str, Any], value: object) -> Fault:
    """One of Pydantic's errors, in the words of msgspec's.

    Args:
        error: The error.
        value: The value that was refused.
    """
    kind, location = error["type"], error["loc"]
    if kind in _MISSING and isinstance(location[-1], int):
        text = "array is too short"
    elif kind in _MISSING:
        text = f"object missing required field {location[-1]}"
    elif kind in _UNKNOWN:
        location, text = location[:-1], f"object contains unknown field {location[-1]}"
    elif kind in _EXPECTED:
        text = f"expected {_EXPECTED[kind]}, got {JSON_TYPES.get(type(error['input']), 'str')}"
    else:
        text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        text = " ".join(text.split())
        if text[1:2].islower():  # not an abbreviation, such as URL
            text = text[0].lower() + text[1:]
    return Fault(_path(location, value), text)


def _path(location: Sequence[str | int], value: object) -> str:
    """The path to a part of a value, without steps that JSON does not have: a union's branches."""
    path = ""
    for each in location:
        if isinstance(value, list) and isinstance(each, int) and each < len(value):
            path += f"[{each}]"
            value = value[each]
        elif isinstance(value, dict) and each in value:
            path += f".{each}"
            value = value[each]
    return path
