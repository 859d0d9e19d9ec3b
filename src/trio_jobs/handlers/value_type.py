"""`ValueType`: the type of one parameter's value, with its decoder and its JSON schema."""

import inspect
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, NamedTuple

import msgspec

from trio_jobs.error_text import describe
from trio_jobs.handlers.annotations import Annotation
from trio_jobs.handlers.dataclass_defaults import with_defaults
from trio_jobs.handlers.importing import HandlerError
from trio_jobs.handlers.payload_faults import JSON_TYPES, Decode
from trio_jobs.handlers.pydantic_types import (
    has_pydantic,
    make_pydantic_decoder,
    pydantic_schemas,
)

# The one decoder for all JSON values, known by its identity.
decode_anything = msgspec.json.Decoder().decode


class ValueType(NamedTuple):
    """The type of one parameter's value."""

    annotation: Annotation  # `Any` for any JSON
    decode: Decode
    is_pydantics: bool = False  # whether Pydantic makes the value


def make_value_type(annotation: Annotation) -> ValueType:
    """Make the strict decoder for values of an annotation's type.

    Raises:
        HandlerError: JSON cannot be made into this type.
    """
    if annotation is Any or annotation is object:
        return ValueType(Any, decode_anything)
    if has_pydantic(annotation):
        decode = make_pydantic_decoder(annotation)
        pydantic_schemas([annotation], "{name}")  # raises for types that are incomplete
        return ValueType(annotation, guarded(decode), is_pydantics=True)
    try:
        decode = make_decoder(annotation)
        # The decoder takes an impossible type for a custom one, and would refuse each payload. Only
        # the making of a schema raises the error.
        msgspec_schemas([annotation], "{name}")
        decode = with_defaults(decode, annotation)
    except KeyError as error:
        raise HandlerError(
            f"has a payload of type {annotation!r}, in which two types have the same name"
        ) from error
    except Exception as error:  # msgspec inspects the user's classes, which may raise anything
        raise HandlerError(f"has a payload of type {annotation!r}: {error}") from error
    return ValueType(annotation, guarded(decode))


def make_decoder(annotation: Annotation) -> Decode:
    """Make msgspec's decoder of a type; a path is JSON text."""
    return msgspec.json.Decoder(annotation, dec_hook=_make_path).decode


def guarded(decode: Decode) -> Decode:
    """A decoder that raises what `Decode` says, whatever the user's classes raise."""

    def decode_typed(payload: bytes) -> object:
        try:
            return decode(payload)
        except (msgspec.MsgspecError, UnicodeError):
            raise
        except BaseException as error:  # the user's __post_init__ may raise anything
            cause = describe(error)
            raise msgspec.ValidationError(  # noqa: ASYNC104 - the user's, at no checkpoint
                f"cannot be decoded: {cause.type}: {cause.message}"
            ) from error

    return decode_typed


def decode_as(encoded: bytes, annotation: Annotation) -> object:
    """Make a value of a type from JSON.

    Raises:
        msgspec.ValidationError: The JSON is not of this type.
    """
    if annotation is not Any and has_pydantic(annotation):
        return make_pydantic_decoder(annotation)(encoded)
    return make_decoder(annotation)(encoded)


def msgspec_schemas(
    annotations: Iterable[Annotation], ref_template: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schemas of types, and by name the components that these refer to.

    Raises:
        KeyError: msgspec gives two of these types the same name.
        TypeError: A type has no schema.
    """
    schemas, components = msgspec.json.schema_components(
        tuple(annotations), schema_hook=_custom_schema, ref_template=ref_template
    )
    return list(schemas), components


def _custom_schema(type: Annotation) -> dict[str, object]:  # noqa: A002 - msgspec's name
    if type is object:  # as in dict[str, object]; to msgspec an empty schema means no schema
        return {"description": "any JSON value"}
    if _is_path(type):
        return {"type": "string", "format": "path"}
    raise TypeError(
        f"{type!r} cannot be made from JSON; use a msgspec.Struct, a dataclass or a Pydantic model"
    )


def _is_path(type: Annotation) -> bool:  # noqa: A002
    return inspect.isclass(type) and issubclass(type, PurePath)


def _make_path(type: Annotation, value: object) -> object:  # noqa: A002
    """Make a path; msgspec calls this for each type that it does not know.

    Raises:
        TypeError: The value is no text. msgspec adds its place.
    """
    if not _is_path(type):
        return value  # msgspec refuses it
    if not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{JSON_TYPES[value.__class__]}`")
    return type(value)
