"""`PayloadType`: a handler's payload is the value of one parameter, or an object with several."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

import msgspec

from trio_jobs.handlers.annotations import Annotation, resolve
from trio_jobs.handlers.dataclass_defaults import with_defaults
from trio_jobs.handlers.importing import HandlerError
from trio_jobs.handlers.payload_faults import Decode, Fault, InvalidValuesError
from trio_jobs.handlers.value_type import ValueType, guarded, make_decoder, make_value_type

# FastAPI puts another value in the place of these; a handler would get them as they are.
_FIELD = ("pydantic.fields", "FieldInfo")
_DEPENDENCY = ("fastapi.params", "Depends")


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A member of a payload that is spread over several parameters.

    Attributes:
        name: The name of the parameter and of the member.
        type: The type of the value.
        required: Whether the parameter has no default.
        default: The default that the schema shows. ``UNSET`` for none, and for one that is not
            plain JSON.
    """

    name: str
    type: ValueType
    required: bool
    default: object


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadType:
    """The type of a handler's payload.

    Attributes:
        value: The type of the one parameter whose value the payload is; None if it is spread.
        arguments: The members of a spread payload.
        decode: Makes the payload from JSON: the value, or a dict of the arguments that are there.
            Raises ``msgspec.MsgspecError`` or ``UnicodeError``.
    """

    value: ValueType | None
    arguments: tuple[Argument, ...]
    decode: Decode

    @property
    def values(self) -> tuple[ValueType, ...]:
        """The types of all values in it."""
        return tuple(each.type for each in self.arguments) if self.value is None else (self.value,)


def payload_type(
    function: Callable[..., object], parameters: Sequence[Parameter], *, spread: bool
) -> PayloadType:
    """The type of a payload for these parameters.

    Args:
        function: The function, in whose module the annotations are resolved.
        parameters: The parameters that the payload is for; none if the function has no signature.
        spread: Whether the payload is an object with their names. Else it is the first one's value.

    Raises:
        HandlerError: An annotation is text that cannot be resolved, or a type that JSON cannot be
            made into.
    """
    annotations = [_annotation(function, each) for each in parameters]
    for parameter, annotation in zip(parameters, annotations, strict=True):
        _check_locationholders(parameter, annotation)
    types = [make_value_type(each) for each in annotations]
    if not spread:
        value = types[0] if types else make_value_type(Any)
        return PayloadType(value=value, arguments=(), decode=value.decode)
    arguments = tuple(
        Argument(
            name=each.name,
            type=type_,
            required=each.default is each.empty,
            default=each.default if _is_plain_json(each.default) else msgspec.UNSET,
        )
        for each, type_ in zip(parameters, types, strict=True)
    )
    return PayloadType(value=None, arguments=arguments, decode=_object_decoder(arguments))


def _check_locationholders(parameter: Parameter, annotation: Annotation) -> None:
    name = parameter.name
    for each in (parameter.default, *getattr(annotation, "__metadata__", ())):
        if _is_a(each, _DEPENDENCY):
            raise HandlerError(
                f"has {type(each).__name__}() for {name!r}, which FastAPI alone resolves: open it"
                " in a lifespan, or call it in the function"
            )
    if _is_a(parameter.default, _FIELD):
        raise HandlerError(
            f"has {type(parameter.default).__name__}() as the default of {name!r},"
            " and would get that object itself: write constraints into Annotated"
        )


def _is_a(value: object, class_: tuple[str, str]) -> bool:
    """Whether a value is of this class, which is known by its module and its name alone."""
    return any((each.__module__, each.__name__) == class_ for each in type(value).__mro__)


def _annotation(function: Callable[..., object], parameter: Parameter) -> Annotation:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return Any
    try:
        return resolve(function, annotation)
    except Exception as error:  # to evaluate the user's text may raise anything
        raise HandlerError(
            f"has a payload annotated {annotation!r}, which cannot be resolved: {error}"
        ) from error


def _object_decoder(arguments: Sequence[Argument]) -> Decode:
    """A decoder for objects with these members, and no others; ``null`` is an empty object."""
    # Fields of its own names: a parameter may be called like an attribute of each Struct.
    names = {f"field_{number}": each.name for number, each in enumerate(arguments)}
    fields: list[Any] = []
    for field, each in zip(names, arguments, strict=True):
        annotation = msgspec.Raw if each.type.is_pydantics else each.type.annotation
        fields.append((field, annotation) if each.required else (field, annotation, msgspec.UNSET))
    by_pydantic = {each.name: each.type.decode for each in arguments if each.type.is_pydantics}
    members: Any = msgspec.defstruct(
        "Arguments", fields, kw_only=True, forbid_unknown_fields=True, rename=names
    )
    is_optional = not any(each.required for each in arguments)
    members = members | None if is_optional else members
    decode = with_defaults(make_decoder(members), members)

    def decode_members(payload: bytes) -> dict[str, object]:
        found = decode(payload)
        given = {name: getattr(found, field, msgspec.UNSET) for field, name in names.items()}
        given = {name: each for name, each in given.items() if each is not msgspec.UNSET}
        return _decode_further(given, by_pydantic) if by_pydantic else given

    return guarded(decode_members)


def _decode_further(members: dict[str, Any], decoders: Mapping[str, Decode]) -> dict[str, object]:
    """Decode the members that have a decoder of their own.

    Raises:
        InvalidValuesError: Some cannot be decoded.
    """
    faults: list[Fault] = []
    for name, decode in decoders.items():
        if name in members:
            try:
                members[name] = decode(bytes(members[name]))
            except InvalidValuesError as error:
                faults += (Fault(f".{name}{path}", text) for path, text in error.faults)
    if faults:
        raise InvalidValuesError(faults)
    return members


def _is_plain_json(default: object) -> bool:
    if type(default) is float:
        return math.isfinite(default)
    if type(default) is list:
        return all(map(_is_plain_json, default))
    if type(default) is dict:
        return all(type(key) is str for key in default) and all(
            map(_is_plain_json, default.values())
        )
    return default is None or type(default) in {bool, int, str}
