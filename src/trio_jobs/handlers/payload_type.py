"""What payloads a handler takes: their type, its decoder and its schema."""

import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

import msgspec

from trio_jobs.error_text import describe

Decode = Callable[[bytes], object]

# Whatever can annotate a parameter: classes, unions, Annotated, ... No type has them all.
PayloadType: TypeAlias = Any

_decode_anything = msgspec.json.Decoder().decode


class PayloadTypeError(Exception):
    """An annotation that payloads cannot be checked against; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadSchemas:
    """The JSON schemas of payloads.

    Attributes:
        types: By job type; an empty schema where anything goes.
        components: What those refer to, by name.
    """

    types: Mapping[str, Mapping[str, object]]
    components: Mapping[str, Mapping[str, object]]


def payload_type(
    function: Callable[..., object], parameter: inspect.Parameter | None
) -> PayloadType:
    """The type that a function asks for with the annotation of its payload's parameter.

    ``Any`` if there is none, or if it says ``object``: plain JSON values.

    Raises:
        PayloadTypeError: The annotation is text that cannot be resolved.
    """
    if parameter is None or parameter.annotation is parameter.empty:
        return Any
    annotation = parameter.annotation
    try:
        resolved = resolve(function, annotation)
    except Exception as error:  # whatever evaluating the user's text raises
        raise PayloadTypeError(
            f"has a payload annotated {annotation!r}, which cannot be resolved: {error}"
        ) from error
    return Any if resolved is object else resolved


def resolve(function: Callable[..., object], annotation: object) -> Any:  # noqa: ANN401
    """What an annotation of the function's stands for; raises whatever its text does."""
    # This parameter's alone: the context's type, for one, is often imported
    # for type checkers only.
    holder = SimpleNamespace(__annotations__={"parameter": annotation})
    return typing.get_type_hints(holder, _namespace(function), include_extras=True)["parameter"]


def make_decoder(type: PayloadType) -> Decode:  # noqa: A002  (the field's name)
    """A function that makes a payload of this type from JSON, strictly.

    It raises ``msgspec.MsgspecError`` or ``UnicodeError``, and nothing else.

    Raises:
        PayloadTypeError: Payloads of this type cannot be made from JSON.
    """
    if type is Any:
        return _decode_anything
    try:
        decode = msgspec.json.Decoder(type).decode
        # Types that it cannot make at all msgspec takes for custom ones here,
        # and every payload would be refused; their schema is where it says so.
        _make_schemas([type], "{name}")
    except KeyError as error:
        raise PayloadTypeError(
            f"has a payload of type {type!r}, in which two types have the same name"
        ) from error
    except Exception as error:  # the user's classes are inspected, and may raise anything
        raise PayloadTypeError(f"has a payload of type {type!r}: {error}") from error

    def decode_typed(payload: bytes) -> object:
        try:
            return decode(payload)
        except (msgspec.MsgspecError, UnicodeError):
            raise
        except BaseException as error:  # the user's __post_init__ may raise anything
            cause = describe(error).error
            raise msgspec.ValidationError(  # noqa: ASYNC104 - a user's, at no checkpoint
                f"cannot be decoded: {cause.type}: {cause.message}"
            ) from error

    return decode_typed


def make_schemas(
    types: Mapping[str, PayloadType], *, ref_template: str = "#/$defs/{name}"
) -> PayloadSchemas:
    """The schemas of payload types by job type, with those that they refer to.

    Args:
        types: The payload's type for each job type.
        ref_template: How a schema refers to a component, given its name.

    Raises:
        TypeError: One of the types has no schema.
    """
    try:
        schemas, components = _make_schemas(types.values(), ref_template)
    except KeyError:
        # Two different types would get the same name, as Größe and Grüße do. Apart, they are told
        # apart by a number.
        schemas, components = [], {}
        for number, type in enumerate(types.values(), 1):  # noqa: A001  (the field's name)
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
    if type is object:  # as in dict[str, object]; msgspec takes an empty schema for none
        return {"description": "any JSON value"}
    text = f"{type!r} cannot be made from JSON; a dataclass, a TypedDict or a msgspec.Struct can"
    if hasattr(type, "model_validate"):  # one of pydantic's
        text += f". Or leave it out, and call {type.__name__}.model_validate() in the function"
    raise TypeError(text)


def _namespace(function: Callable[..., object]) -> dict[str, Any]:
    """The globals that a function's annotations were written among."""
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
