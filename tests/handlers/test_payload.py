"""A payload is what the annotation of the handler's first parameter says."""

from __future__ import annotations

import functools
from collections.abc import Callable  # noqa: TC003  (a test has msgspec resolve it)
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypedDict

import attrs
import msgspec
import pytest

from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.importing import HandlerError
from trio_jobs.handlers.registry import HandlerRegistry

if TYPE_CHECKING:
    from trio_jobs.handlers.context import JobContext


class Email(msgspec.Struct):
    """A Struct."""

    to: str
    copies: list[str] = []


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int


class Options(TypedDict):
    """A TypedDict."""

    depth: int


@attrs.define
class Size:
    """An attrs class."""

    width: int


class Node(msgspec.Struct):
    """A type that refers to itself."""

    children: list[Node] = []


Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]


async def take_email(payload: Email) -> None: ...
async def take_point(payload: Point) -> None: ...
async def take_options(payload: Options) -> None: ...
async def take_size(payload: Size) -> None: ...
async def take_numbers(payload: list[int]) -> None: ...
async def take_number(payload: int) -> None: ...
async def take_union(payload: int | str | None) -> None: ...
async def take_literal(payload: Literal["a", "b"]) -> None: ...
async def take_percent(payload: Percent) -> None: ...
async def take_time(payload: datetime) -> None: ...
async def take_path(payload: Path) -> None: ...
async def take_paths(payload: dict[str, list[PurePosixPath] | None]) -> None: ...
async def take_node(payload: Node) -> None: ...
async def take_objects(payload: dict[str, object]) -> None: ...
def in_a_thread(payload: Email) -> None: ...


async def with_context(payload: Email, context: JobContext) -> None: ...


async def with_unresolvable_return(payload: Email) -> NotThere: ...  # type: ignore[name-defined]  # noqa: F821


class Method:
    """Has methods that are handlers."""

    async def method(self, payload: Email) -> None: ...

    async def __call__(self, payload: Email) -> None: ...


@functools.wraps(take_email)
async def wrapper(*args: Any, **kwargs: Any) -> None: ...  # noqa: ANN401


@pytest.mark.parametrize(
    ("function", "payload", "decoded"),
    [
        (take_email, b'{"to": "a"}', Email(to="a")),
        (take_point, b'{"x": 1, "y": 2}', Point(1, 2)),
        (take_options, b'{"depth": 1}', {"depth": 1}),
        (take_size, b'{"width": 3}', Size(3)),
        (take_numbers, b"[1, 2]", [1, 2]),
        (take_number, b"1" * 30, int("1" * 30)),
        (take_union, b"null", None),
        (take_union, b'"x"', "x"),
        (take_literal, b'"b"', "b"),
        (take_percent, b"100", 100),
        (take_time, b'"2026-11-25T12:00:00"', datetime(2026, 11, 25, 12)),  # noqa: DTZ001
        (take_path, b'"a/b"', Path("a/b")),
        (take_paths, b'{"a": ["/b"], "c": null}', {"a": [PurePosixPath("/b")], "c": None}),
        (take_node, b'{"children": [{}]}', Node([Node()])),
        (take_objects, b'{"a": [1, null]}', {"a": [1, None]}),
        (in_a_thread, b'{"to": "a"}', Email(to="a")),
        (with_context, b'{"to": "a"}', Email(to="a")),
        (with_unresolvable_return, b'{"to": "a"}', Email(to="a")),
        (Method().method, b'{"to": "a"}', Email(to="a")),
        (Method(), b'{"to": "a"}', Email(to="a")),
        (functools.partial(take_email), b'{"to": "a"}', Email(to="a")),
        (wrapper, b'{"to": "a"}', Email(to="a")),
    ],
)
def test_a_payload_becomes_what_the_annotation_says(
    function: Callable[..., object], payload: bytes, decoded: object
) -> None:
    assert Handler.of(function).decode(payload) == decoded


@pytest.mark.parametrize(
    ("function", "payload", "message"),
    [
        (take_email, b'{"to": 5}', "Expected `str`, got `int` - at `$.to`"),
        (take_email, b"{}", "Object missing required field `to`"),
        (take_numbers, b'[1, "2"]', "Expected `int`, got `str` - at `$[1]`"),
        (take_number, b"1.0", "Expected `int`, got `float`"),
        (take_number, b"true", "Expected `int`, got `bool`"),
        (take_number, b'"1"', "Expected `int`, got `str`"),
        (take_number, b"1" * 5000, "Integer value out of range"),
        (take_percent, b"101", "Expected `int` <= 100"),
        (take_literal, b'"c"', "Invalid enum value 'c'"),
        (take_path, b"5", "Expected `str`, got `int`"),
        (take_path, b"null", "Expected `str`, got `null`"),
        (take_paths, b'{"a": ["/b", [1.5]]}', "Expected `str`, got `array` - at `$[...][1]`"),
    ],
)
def test_a_payload_of_another_type_is_refused_with_its_place(
    function: Callable[..., object], payload: bytes, message: str
) -> None:
    with pytest.raises(msgspec.ValidationError) as refusal:
        Handler.of(function).decode(payload)

    assert str(refusal.value) == message


async def any_payload(payload: Any) -> None: ...  # noqa: ANN401
async def object_payload(payload: object) -> None: ...


def test_without_annotation_a_payload_is_plain_json() -> None:
    for function in (any_payload, object_payload, lambda payload: payload, len):
        assert Handler.of(function).decode(b'{"a": [1, 2.5, "x", null]}') == {
            "a": [1, 2.5, "x", None]
        }


class Custom:
    """Nothing that JSON can be made into."""


class Holder(msgspec.Struct):
    """Has a field that JSON cannot be made into."""

    custom: Custom


async def take_missing(payload: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def take_custom(payload: Custom) -> None: ...
async def take_customs(payload: list[Custom]) -> None: ...
async def take_holder(payload: Holder) -> None: ...
async def take_callable(payload: Callable[[], None]) -> None: ...
async def take_untagged(payload: Email | Node) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            take_missing,
            "annotated 'Missing', which cannot be resolved: name 'Missing' is not defined",
        ),
        (
            take_custom,
            "cannot be made from JSON; use a msgspec.Struct, a dataclass or a Pydantic model",
        ),
        (take_customs, "'tests.handlers.test_payload.Custom'> cannot be made from JSON"),
        (take_holder, "'tests.handlers.test_payload.Custom'> cannot be made from JSON"),
        (take_callable, "cannot be made from JSON"),
        (take_untagged, "all Struct types must be tagged"),
    ],
)
def test_an_annotation_that_payloads_cannot_be_checked_against_is_refused(
    function: Callable[..., object], message: str
) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(function)

    assert str(refusal.value).startswith("has a payload ")
    assert message in str(refusal.value)


class Raising(msgspec.Struct):
    """Refuses what it is made from, in several ways."""

    kind: str

    def __post_init__(self) -> None:
        def recurse() -> NoReturn:
            recurse()

        match self.kind:
            case "value":
                raise ValueError("no such kind")
            case "key":
                raise KeyError("k")
            case "exit":
                raise SystemExit(3)
            case "recursion":
                recurse()


async def take_raising(payload: Raising) -> None: ...


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("value", "no such kind"),
        ("key", "cannot be decoded: KeyError: 'k'"),
        ("exit", "cannot be decoded: SystemExit: 3"),
        ("recursion", "cannot be decoded: RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_whatever_a_payloads_class_raises_refuses_the_payload(kind: str, message: str) -> None:
    decode = Handler.of(take_raising).decode

    with pytest.raises(msgspec.ValidationError) as refusal:
        decode(b'{"kind": "%s"}' % kind.encode())

    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("payload", [b"{", b'"\xff"', b""])
def test_what_is_no_json_raises_what_callers_expect(payload: bytes) -> None:
    for function in (take_email, any_payload):
        with pytest.raises((msgspec.DecodeError, UnicodeError)):
            Handler.of(function).decode(payload)


def test_each_type_has_a_schema() -> None:
    handlers = HandlerRegistry(
        {
            "email": Handler.of(take_email),
            "numbers": Handler.of(take_numbers),
            "objects": Handler.of(take_objects),
            "any": Handler.of(any_payload),
        }
    )

    schemas = handlers.schemas(ref_template="#/components/schemas/{name}")

    assert schemas.types == {
        "email": {"$ref": "#/components/schemas/Email"},
        "numbers": {"type": "array", "items": {"type": "integer"}},
        "objects": {"type": "object", "additionalProperties": {"description": "any JSON value"}},
        "any": {},
    }
    assert schemas.components["Email"] == {
        "title": "Email",
        "description": "A Struct.",
        "type": "object",
        "properties": {
            "to": {"type": "string"},
            "copies": {"type": "array", "items": {"type": "string"}, "default": []},
        },
        "required": ["to"],
    }


def test_types_whose_names_become_the_same_have_a_schema_each() -> None:
    one, other = (msgspec.defstruct("P", [("value", each)]) for each in (int, str))

    async def take(payload: object) -> None: ...

    async def take_other(payload: object) -> None: ...

    take.__annotations__["payload"], take_other.__annotations__["payload"] = one, other
    handlers = HandlerRegistry({"a": Handler.of(take), "b": Handler.of(take_other)})

    schemas = handlers.schemas()

    names = [str(schemas.types[each]["$ref"]).removeprefix("#/$defs/") for each in "ab"]
    assert len(set(names)) == 2
    types = [schemas.components[name]["properties"]["value"] for name in names]  # type: ignore[index]
    assert types == [{"type": "integer"}, {"type": "string"}]


def test_a_payload_in_which_two_types_get_the_same_name_is_refused_or_told_apart() -> None:
    one, other = (msgspec.defstruct("P", [("value", each)]) for each in (int, str))
    both = msgspec.defstruct("Both", [("one", one), ("other", other)])

    def take(payload: object) -> None: ...

    take.__annotations__["payload"] = both
    if version("msgspec") < "0.23":
        with pytest.raises(HandlerError, match="in which two types have the same name"):
            Handler.of(take)
    else:
        described = HandlerRegistry({"a": Handler.of(take)}).describe_payloads()
        assert '{"value":{"type":"integer"}}' in described
        assert '{"value":{"type":"string"}}' in described
