"""The JSON schemas of the handlers' payloads."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import UNSET

from trio_jobs.handlers.annotations import Annotation
from trio_jobs.handlers.payload_type import PayloadType
from trio_jobs.handlers.pydantic_types import pydantic_schemas
from trio_jobs.handlers.value_type import ValueType, msgspec_schemas

_Schema = dict[str, Any]


class PayloadSchemas(NamedTuple):
    """The JSON schemas of payloads."""

    types: Mapping[str, Mapping[str, object]]  # by job type; an empty schema for any JSON
    components: Mapping[str, Mapping[str, object]]  # the schemas that these refer to, by name


def make_schemas(types: Mapping[str, PayloadType], *, ref_template: str) -> PayloadSchemas:
    """The schemas of payloads by job type, and the components that these refer to.

    Args:
        types: The type of the payload, by job type.
        ref_template: How a schema refers to a component, given the component's name.
    """
    schemas, components = _schemas_of(
        [value for each in types.values() for value in each.values], ref_template
    )
    in_order = iter(schemas)
    return PayloadSchemas(
        types={name: _payload_schema(each, in_order) for name, each in types.items()},
        components=components,
    )


def _schemas_of(
    types: Sequence[ValueType], ref_template: str
) -> tuple[list[_Schema], dict[str, _Schema]]:
    """The schemas of values in the same order, and the components that these refer to."""
    ours, components = _msgspec_schemas(
        [each.annotation for each in types if not each.is_pydantics], ref_template
    )
    theirs = [each.annotation for each in types if each.is_pydantics]
    made, more = pydantic_schemas(theirs, ref_template)
    number = 1
    while components.keys() & more.keys():
        number += 1
        made, more = pydantic_schemas(theirs, _numbered(ref_template, number))
        more = {f"{number}.{name}": each for name, each in more.items()}
    by_us, by_pydantic = iter(ours), iter(made)
    return [next(by_pydantic if each.is_pydantics else by_us) for each in types], components | more


def _msgspec_schemas(
    annotations: Sequence[Annotation], ref_template: str
) -> tuple[list[_Schema], dict[str, _Schema]]:
    try:
        return msgspec_schemas(annotations, ref_template)
    except KeyError:
        # msgspec gives some different types one name, such as Größe and Grüße: it replaces letters
        # outside of ASCII. A number tells them apart.
        schemas: list[_Schema] = []
        components: dict[str, _Schema] = {}
        for number, annotation in enumerate(annotations, 1):
            [schema], own = msgspec_schemas([annotation], _numbered(ref_template, number))
            schemas.append(schema)
            components |= {f"{number}.{name}": each for name, each in own.items()}
        return schemas, components


def _numbered(ref_template: str, number: int) -> str:
    return ref_template.format(name=f"{number}.{{name}}")


def _payload_schema(type: PayloadType, schemas: Iterator[_Schema]) -> _Schema:  # noqa: A002
    """The schema of a payload, made of the next ones: those of its values."""
    if type.value is not None:
        return next(schemas)
    properties = {each.name: next(schemas) for each in type.arguments}
    for each in type.arguments:
        if each.default is not UNSET:
            properties[each.name] = {**properties[each.name], "default": each.default}
    required = [each.name for each in type.arguments if each.required]
    return {
        "type": "object" if required else ["object", "null"],
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
