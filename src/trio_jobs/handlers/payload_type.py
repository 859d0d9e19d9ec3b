"""The type of a handler's payload: its annotation, decoder and JSON schema."""

import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import msgspec

from trio_jobs.error_text import describe
from trio_jobs.handlers.importing import HandlerError

# Makes a payload from JSON; raises `msgspec.MsgspecError` or `UnicodeError`, and nothing else.
Decode = Callable[[bytes], object]

# Classes, unions, Annotated, ...: no type covers all annotations.
PayloadType: TypeAlias = Any

_decode_anything = msgspec.json.Decoder().decode


class PayloadSchemas(NamedTuple):
    """The JSON schemas of payloads."""

    types: Mapping[str, Mapping[str, object]]  # by job type; an empty schema for any JSON
    components: Mapping[str, Mapping[str, object]]  # the schemas that these refer to, by name


def payload_type(
    function: Callable[..., object], parameter: inspect.Parameter | None
) -> PayloadType:
    """The type that annotates the payload's parameter; ``Any`` without one, and for ``object``.

    Raises:
        HandlerError: The annotation is text that cannot be resolved.
    """
    if parameter is None or parameter.annotation is parameter.empty:
        return Any
    annotation = parameter.annotation
    try:
        resolved = resolve(function, annotation)
    except Exception as error:  # to evaluate the user's text may raise anything
        raise HandlerError(
            f"has a payload annotated {annotation!r}, which cannot be resolved: {error}"
        ) from error
    return Any if resolved is object else resolved


def resolve(function: Callable[..., object], annotation: object) -> Any:  # noqa: ANN401
    """The type that an annotation stands for; raises any error of the annotation's text."""
    # Not with the others: the context's type may be imported for type checkers only.
    holder = SimpleNamespace(__annotations__={"parameter": annotation})
    return typing.get_type_hints(holder, _namespace(function), include_extras=True)["parameter"]


def _namespace(function: Callable[..., object]) -> dict[str, Any]:
    """The globals of the module in which a function's annotations were written."""
    while not hasattr(function, "__globals__"):
        if hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif hasattr(function, "func"):  # a partial
            function = function.func
        elif inspect.ismethod(method := getattr(function, "__call__", None)):  # noqa: B004
            function = method.__func__
        else:
            return vars(sys.modules[function.__module__])
    namespace: dict[str, Any] = inspect.unwrap(function).__globals__
    return namespace


def make_decoder(type: PayloadType) -> Decode:  # noqa: A002 - the field's name
    """Make the strict decoder for payloads of this type.

    Raises:
        HandlerError: JSON cannot be made into this type.
    """
    if type is Any:
        return _decode_anything
    try:
        decode = msgspec.json.Decoder(type).decode
        # The decoder takes an impossible type for a custom one, and would refuse each payload. Only
        # the making of a schema raises the error.
        _make_schemas([type], "{name}")
    except KeyError as error:
        raise HandlerError(
            f"has a payload of type {type!r}, in which two types have the same name"
        ) from error
    except Exception as error:  # msgspec inspects the user's classes, which may raise anything
        raise HandlerError(f"has a payload of type {type!r}: {error}") from error

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


def make_schemas(
    types: Mapping[str, PayloadType], *, ref_template: str = "#/$defs/{name}"
) -> PayloadSchemas:
    """The schemas of payload types by job type, and the components that these refer to.

    Args:
        types: The type of the payload, by job type.
        ref_template: How a schema refers to a component, given the component's name.

    Raises:
        TypeError: A type has no schema.
    """
    try:
        schemas, components = _make_schemas(types.values(), ref_template)
    except KeyError:
        # msgspec gives some different types one name, such as Größe and Grüße: it replaces letters
        # outside of ASCII. A number tells them apart.
        schemas, components = [], {}
        for number, type in enumerate(types.values(), 1):  # noqa: A001 - the field's name
            template = ref_template.format(name=f"{number}.{{name}}")
            [schema], own = _make_schemas([type], template)
            schemas.append(schema)
            components |= {f"{number}.{name}": each for name, each in own.items()}
    return PayloadSchemas(types=dict(zip(types, schemas, strict=True)), components=components)


def _make_schemas(
    types: Iterable[PayloadType], ref_template: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    schemas, components = msgspec.json.schema_components(
        tuple(types), schema_hook=_custom_schema, ref_template=ref_template
    )
    return list(schemas), components


def _custom_schema(type: PayloadType) -> dict[str, object]:  # noqa: A002
    if type is object:  # as in dict[str, object]; to msgspec an empty schema means no schema
        return {"description": "any JSON value"}
    text = f"{type!r} cannot be made from JSON; a dataclass, a TypedDict or a msgspec.Struct can"
    if hasattr(type, "model_validate"):  # a Pydantic model
        text += f". Or leave it out, and call {type.__name__}.model_validate() in the function"
    raise TypeError(text)
