"""`ValueType`: the type of one parameter's value, with its decoder and its JSON schema."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from trio_jobs.error_text import describe
from trio_jobs.handlers.annotations import Annotation
from trio_jobs.handlers.importing import HandlerError

# Makes a value from JSON; raises `msgspec.MsgspecError` or `UnicodeError`, and nothing else.
Decode = Callable[[bytes], object]


# The one decoder for all JSON values, known by its identity.
decode_anything = msgspec.json.Decoder().decode


class ValueType(NamedTuple):
    """The type of one parameter's value."""

    annotation: Annotation  # `Any` for any JSON
    decode: Decode


def make_value_type(annotation: Annotation) -> ValueType:
    """Make the strict decoder for values of an annotation's type.

    Raises:
        HandlerError: JSON cannot be made into this type.
    """
    if annotation is Any or annotation is object:
        return ValueType(Any, decode_anything)
    try:
        decode = msgspec.json.Decoder(annotation).decode
        # The decoder takes an impossible type for a custom one, and would refuse each payload. Only
        # the making of a schema raises the error.
        msgspec_schemas([annotation], "{name}")
    except KeyError as error:
        raise HandlerError(
            f"has a payload of type {annotation!r}, in which two types have the same name"
        ) from error
    except Exception as error:  # msgspec inspects the user's classes, which may raise anything
        raise HandlerError(f"has a payload of type {annotation!r}: {error}") from error
    return ValueType(annotation, guarded(decode))


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
    text = f"{type!r} cannot be made from JSON; a dataclass, a TypedDict or a msgspec.Struct can"
    if hasattr(type, "model_validate"):  # a Pydantic model
        text += f". Or leave it out, and call {type.__name__}.model_validate() in the function"
    raise TypeError(text)
