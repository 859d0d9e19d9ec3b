"""Payloads of Pydantic's types: what they become, the words of refusals, schemas, results."""

import dataclasses
import subprocess
import sys
import typing
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar

import jsonschema
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
import trio
from annotated_types import Gt, Len
from fastapi import Depends, Query, Security
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, EmailStr, Field
from typing_extensions import TypeAliasType, TypedDict

from tests.handlers import pydantic_tasks
from tests.handlers.support import able_to_import_tests, in_process, message_of, process
from tests.support import running_pool
from trio_jobs import Outcome, PayloadError, open_jobs
from trio_jobs.api.validation import check_submission
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.importing import HandlerError
from trio_jobs.handlers.registry import HandlerRegistry

if sys.version_info < (3, 14):
    import pydantic.v1


class Email(BaseModel):
    """An email."""

    to: str
    copies: list[str] = []
    priority: int = Field(default=1, gt=0)


class Strict(BaseModel):
    """Takes no texts as numbers, and no fields that it does not know."""

    model_config = ConfigDict(strict=True, extra="forbid")

    on: date
    count: int = 0


class Aliased(BaseModel):
    """Has other names in JSON."""

    model_config = ConfigDict(populate_by_name=False)

    first_name: str = Field(alias="firstName")
    last_name: str = Field(validation_alias=AliasChoices("lastName", "surname"), default="")


class Node(BaseModel):
    """Refers to itself."""

    children: "list[Node]" = []


class Cat(BaseModel):
    """One of several."""

    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    """One of several."""

    kind: Literal["dog"]
    name: str


class Numbers(pydantic.RootModel[list[int]]):
    """A list."""


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """A generic model."""

    items: list[T]


@pydantic.dataclasses.dataclass
class Point:
    """A dataclass of Pydantic's."""

    x: Annotated[int, Field(gt=3)]


@dataclasses.dataclass
class Wide:
    """Has fields of types that are made anew each time that somebody asks for them."""

    a: "list[int]"
    b: "list[str]"
    c: "dict[str, list[float]]"
    d: "Annotated[int, Field(gt=3)]"


@dataclasses.dataclass
class Letter:
    """A dataclass with a model in it."""

    email: Email
    stamps: Annotated[int, Field(ge=0)] = 1


class Envelope(TypedDict):
    """A TypedDict with a model in it."""

    email: Email


class Pair(NamedTuple):
    """A NamedTuple with a constraint in it."""

    left: Annotated[int, Gt(3)]


EmailList = NewType("EmailList", list[Email])
Emails = TypeAliasType("Emails", list[Email])


class AtLeast(type(Field())):  # type: ignore[misc]
    """A constraint as FastAPI derives its own."""


def double(value: int) -> int:
    return 2 * value


def no_seven(value: int) -> int:
    if value == 7:
        raise ValueError("no  seven,\nplease")
    assert value != 8
    if value == 9:
        raise KeyError("nine")
    return value


def handler_of(annotation: object, *more: object) -> Handler:
    """A handler of one payload, or with the names a, b, c."""

    def take_one(payload: object) -> object:
        return payload

    def take_two(a: object, b: object) -> object:
        return [a, b]

    function: Callable[..., object] = take_two if more else take_one
    for name, each in zip(function.__annotations__, [annotation, *more], strict=False):
        function.__annotations__[name] = each
    return Handler.of(function)


@pytest.mark.parametrize(
    ("annotation", "payload", "decoded"),
    [
        (Email, '{"to": "a"}', Email(to="a")),
        (Email | None, "null", None),
        (list[Email], '[{"to": "a"}]', [Email(to="a")]),
        (dict[str, Email], '{"a": {"to": "a"}}', {"a": Email(to="a")}),
        (Strict, '{"on": "2026-01-02"}', Strict(on=date(2026, 1, 2))),
        (Node, '{"children": [{}]}', Node(children=[Node()])),
        (Numbers, "[1]", Numbers([1])),
        (Page[Email], '{"items": [{"to": "a"}]}', Page[Email](items=[Email(to="a")])),
        (Cat | Dog, '{"kind": "dog", "name": "a"}', Dog(kind="dog", name="a")),
        (Point, '{"x": 4}', Point(4)),
        (Letter, '{"email": {"to": "a"}}', Letter(Email(to="a"))),
        (Envelope, '{"email": {"to": "a"}}', {"email": Email(to="a")}),
        (Pair, '{"left": 4}', Pair(4)),
        (list[Wide], '[{"a": [], "b": [], "c": {}, "d": "4"}]', [Wide([], [], {}, 4)]),
        (EmailList, '[{"to": "a"}]', [Email(to="a")]),
        (Emails, '[{"to": "a"}]', [Email(to="a")]),
        (Annotated[int, Field(gt=3)], '"4"', 4),
        (Annotated[int, AfterValidator(double)], "2", 4),
        (Annotated[list[int], Len(1)], "[1]", [1]),
        (EmailStr, '"a@example.com"', "a@example.com"),
        (pydantic.HttpUrl, '"http://a/"', pydantic.HttpUrl("http://a/")),
        (pydantic.Json[list[int]], '"[1]"', [1]),
    ],
)
def test_a_payload_becomes_what_pydantic_makes_of_it(
    annotation: object, payload: str, decoded: object
) -> None:
    handler = handler_of(annotation)

    check_submission("test", payload.encode(), HandlerRegistry({"test": handler}))
    assert handler.decode(payload.encode()) == decoded


MISSING = "object missing required field "
UNKNOWN = "object contains unknown field "


@pytest.mark.parametrize(
    ("annotation", "payload", "text"),
    [
        (Email, "{}", f"$.payload: {MISSING}to"),
        (Email, '{"to": 5}', "$.payload.to: expected str, got int"),
        (Email, '{"to": null}', "$.payload.to: expected str, got null"),
        (Email, '{"to": true}', "$.payload.to: expected str, got bool"),
        (Email, '{"to": 1.5}', "$.payload.to: expected str, got float"),
        (Email, "[]", "$.payload: expected object, got array"),
        (Email, "null", "$.payload: expected object, got null"),
        (Email, '{"to": "a", "copies": {}}', "$.payload.copies: expected array, got object"),
        (Email, '{"to": "a", "copies": ["b", 1]}', "$.payload.copies[1]: expected str, got int"),
        (
            Email,
            '{"to": 5, "priority": 0}',
            "$.payload.to: expected str, got int; $.payload.priority: input should be greater than",
        ),
        (
            Email,
            '{"copies": [1, 2, 3, 4]}',
            (
                f"$.payload: {MISSING}to; $.payload.copies[0]: expected str, got int;"
                " $.payload.copies[1]: expected str, got int; and 2 more"
            ),
        ),
        (
            Email,
            '{"to": "a", "priority": "high"}',
            "$.payload.priority: input should be a valid integer, unable to parse string as an",
        ),
        (Strict, '{"on": "2026-01-02", "more": {}}', f"$.payload: {UNKNOWN}more"),
        (Strict, '{"on": "2026-01-02", "count": "1"}', "$.payload.count: expected int, got str"),
        (
            Strict,
            '{"on": "2026-13-02"}',
            "$.payload.on: input should be a valid date in the format YYYY-MM-DD, month value is",
        ),
        (Aliased, '{"first_name": "a"}', f"$.payload: {MISSING}firstName"),
        (Aliased, '{"firstName": 1}', "$.payload.firstName: expected str, got int"),
        (Aliased, '{"firstName": "a", "surname": 1}', "$.payload.surname: expected str, got int"),
        (Numbers, '[1, "x", null]', None),
        (Node, '{"children": [{"children": 1}]}', "$.payload.children[0].children: expected array"),
        (Point, '{"x": 1}', "$.payload.x: input should be greater than 3"),
        (Point, "{}", f"$.payload: {MISSING}x"),
        (Letter, '{"email": {}, "stamps": -1}', f"$.payload.email: {MISSING}to; $.payload.stamps:"),
        (Envelope, '{"email": {}}', f"$.payload.email: {MISSING}to"),
        (Pair, "[1]", "$.payload[0]: input should be greater than 3"),
        (tuple[int, Email], "[1]", "$.payload: array is too short"),
        (dict[int, Email], '{"x": {}}', "$.payload.x: input should be a valid integer"),
        (Annotated[int, Field(gt=3)], "3", "$.payload: input should be greater than 3"),
        (Annotated[int, AtLeast(gt=3)], "2", "$.payload: input should be greater than 3"),
        (Annotated[list[int], Len(1)], "[]", "$.payload: list should have at least 1 item after"),
        (Annotated[int, AfterValidator(no_seven)], "7", "$.payload: no seven, please"),
        (Annotated[int, AfterValidator(no_seven)], "8", "$.payload: "),
        (
            Annotated[int, AfterValidator(no_seven)],
            "9",
            "$.payload: cannot be decoded: KeyError: 'nine'",
        ),
        (pydantic.UUID4, "1", "$.payload: UUID input should be a string, bytes or UUID object"),
        (EmailStr, '"a"', "$.payload: value is not a valid email address: An email address must"),
        # A union's branches are no part of the place.
        (
            Cat | Dog,
            '{"kind": "dog"}',
            "$.payload.kind: input should be 'cat'; $.payload: object m",
        ),
        (
            Email | int,
            '"x"',
            "$.payload: expected object, got str; $.payload: input should be a va",
        ),
        (list[Email] | int, '[{"to": 1}]', "$.payload[0].to: expected str, got int; $.payload: "),
        (
            Annotated[Cat | Dog, Field(discriminator="kind")],
            '{"kind": "dog"}',
            f"$.payload: {MISSING}name",
        ),
        (Email | int, "1e999", "$.payload: number out of range"),
        (Email, '{"to": "\\ud800"}', "$.payload is not valid JSON: \\ud800 is half of a"),
        (Email, "[" * 65 + "]" * 65, "the JSON is nested deeper than 64 levels"),
    ],
)
def test_a_refusal_names_the_place_in_the_words_of_all_refusals(
    annotation: object, payload: str, text: str | None
) -> None:
    handlers = HandlerRegistry({"test": handler_of(annotation)})

    with pytest.raises(PayloadError) as refusal:
        check_submission("test", payload.encode(), handlers)

    expected = text or "$.payload[1]: input should be a valid integer, unable to parse"
    assert str(refusal.value).startswith(expected)


def test_a_refusal_is_short_however_many_faults_there_are() -> None:
    handlers = HandlerRegistry({"test": handler_of(list[Email])})

    for count, text in {
        1000: "and 997 more",
        1001: "$.payload: 1001 values are wrong, too many to name one",
    }.items():
        with pytest.raises(PayloadError) as refusal:
            check_submission("test", b"[%s]" % b",".join([b'{"to": 1}'] * count), handlers)
        assert str(refusal.value).rpartition("; ")[2] == text


def test_several_parameters_of_both_kinds_are_decoded_and_refused_together() -> None:
    handler = handler_of(Email, Annotated[int, Field(gt=3)])
    handlers = HandlerRegistry({"test": handler})

    assert handler.decode(b'{"a": {"to": "b"}, "b": "4"}') == {"a": Email(to="b"), "b": 4}
    for payload, text in {
        b"{}": f"$.payload: {MISSING}a",
        b'{"a": {}, "b": 3}': (
            f"$.payload.a: {MISSING}to; $.payload.b: input should be greater than 3"
        ),
        b'{"a": {}, "b": 4, "c": 1}': f"$.payload: {UNKNOWN}c",
    }.items():
        with pytest.raises(PayloadError) as refusal:
            check_submission("test", payload, handlers)
        assert str(refusal.value) == text


def test_parameters_of_msgspecs_stay_strict_beside_pydantics() -> None:
    handler = handler_of(Email, list[int])

    with pytest.raises(
        msgspec.ValidationError, match=r"Expected `int`, got `str` - at `\$.b\[0\]`"
    ):
        handler.decode(b'{"a": {"to": "b"}, "b": ["4"]}')


class Struct(msgspec.Struct):
    """A Struct with a model in it."""

    email: Email


class Incomplete(BaseModel):
    """Refers to what is not there."""

    other: "NotThere"  # type: ignore[name-defined]  # noqa: F821


class WithFunction(BaseModel):
    """Has a field that JSON cannot be made into."""

    function: Callable[[], int]


class Unknown:
    """Nothing that JSON can be made into."""


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (
            Struct,
            "Unable to generate pydantic-core schema for <class 'tests.handlers.test_pydantic.",
        ),
        (Incomplete, "is not fully defined; you should define"),
        (WithFunction, "Cannot generate a JsonSchema for core_schema.CallableSchema"),
        (dict[str, Email | Unknown], "Unable to generate pydantic-core schema for <class 'tests."),
        (
            Annotated[list[Email], msgspec.Meta(min_length=1)],
            "in which Pydantic would pass over msgspec.Meta: use pydantic.Field",
        ),
    ],
)
def test_a_type_that_pydantic_cannot_make_is_refused_in_one_line(
    annotation: object, message: str
) -> None:
    with pytest.raises(HandlerError) as refusal:
        handler_of(annotation)

    assert str(refusal.value).startswith("has a payload of type ")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "https" not in str(refusal.value)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Pydantic takes it from 3.12 on")
def test_a_typed_dict_of_an_old_python_is_refused() -> None:
    class Old(typing.TypedDict):
        email: Email

    with pytest.raises(HandlerError, match=r"use `typing_extensions.TypedDict` instead of"):
        handler_of(Old)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Pydantic 1 is not there any more")
def test_a_model_of_pydantic_1_is_refused() -> None:
    class Old(pydantic.v1.BaseModel):
        to: str

    for annotation in (Old, list[Old], Old | None):
        with pytest.raises(HandlerError, match="Old, which is a Pydantic 1 model: use Pydantic 2"):
            handler_of(annotation)


def test_emails_without_their_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "email_validator", None)

    with pytest.raises(HandlerError, match=r"email-validator is not installed, run `pip install"):
        handler_of(list[EmailStr])


def field_as_default(n: int = Field(gt=3)) -> int:
    return n


def field_among_others(to: str, n: int = Field(3, gt=0)) -> object:
    return [to, n]


@pytest.mark.parametrize("function", [field_as_default, field_among_others])
def test_a_constraint_in_the_place_of_the_default_is_refused(
    function: Callable[..., object],
) -> None:
    with pytest.raises(HandlerError, match=r"has FieldInfo\(\) as the default of 'n', and would"):
        Handler.of(function)


def open_session() -> str:
    return "a session"


def dependency_as_default(to: str, session: str = Depends(open_session)) -> object:
    return [to, session]


def dependency_as_annotation(to: str, session: Annotated[str, Security(open_session)]) -> object:
    return [to, session]


def dependency_alone(session: Annotated[object, Depends(open_session)]) -> object:
    return session


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (dependency_as_default, "Depends"),
        (dependency_as_annotation, "Security"),
        (dependency_alone, "Depends"),
    ],
)
def test_a_dependency_of_fastapis_is_refused_and_is_no_payload(
    function: Callable[..., object], kind: str
) -> None:
    text = rf"has {kind}\(\) for 'session', which FastAPI alone resolves: open it in a lifespan"

    with pytest.raises(HandlerError, match=text):
        Handler.of(function)


def test_a_constraint_that_fastapi_calls_a_query_is_one() -> None:
    def page(number: Annotated[int, Query(gt=0)]) -> int:
        return number

    handler = Handler.of(page)

    assert handler.call(handler.decode(b"1")) == 1
    with pytest.raises(msgspec.ValidationError):
        handler.decode(b"0")


def test_a_default_that_is_pydantics_value_is_none_of_these() -> None:
    address = pydantic.HttpUrl("http://a")

    def fetch(url: pydantic.HttpUrl = address, *, n: int = 1) -> object:
        return [url, n]

    handler = Handler.of(fetch)

    assert handler.call(handler.decode(b"{}")) == [address, 1]


def schema_of(handlers: dict[str, Handler], name: str) -> dict[str, Any]:
    """The complete schema of a type's payload."""
    schemas = HandlerRegistry(handlers).schemas()
    return {**schemas.types[name], "$defs": dict(schemas.components)}


@pytest.mark.parametrize("names", [("struct", "model"), ("struct", "model", "other")])
def test_types_of_one_name_have_a_schema_each(names: tuple[str, ...]) -> None:
    struct: Any = msgspec.defstruct("Email", [("address", str)])
    other_model = pydantic.create_model("Email", number=(int, ...))
    all_handlers = {
        "struct": handler_of(struct),
        "model": handler_of(Email),
        "other": handler_of(other_model, list[struct]),
    }
    handlers = {name: all_handlers[name] for name in names}
    good = {
        "struct": {"address": "a"},
        "model": {"to": "a"},
        "other": {"a": {"number": 1}, "b": [{"address": "a"}]},
    }

    for name in names:
        schema = schema_of(handlers, name)
        jsonschema.validate(good[name], schema)
        for bad in ({}, {"a": {"to": "a"}, "b": []}):
            assert not jsonschema.Draft202012Validator(schema).is_valid(bad)


def test_the_schema_has_constraints_aliases_and_descriptions() -> None:
    schema = schema_of({"test": handler_of(Aliased, Annotated[int, Field(gt=3)])}, "test")

    assert schema["properties"]["a"] == {"$ref": "#/$defs/Aliased"}
    assert schema["properties"]["b"] == {"type": "integer", "exclusiveMinimum": 3}
    assert schema["$defs"]["Aliased"]["description"] == "Has other names in JSON."
    assert "firstName" in schema["$defs"]["Aliased"]["properties"]


class WithDefault(BaseModel):
    """Has a default that is no JSON."""

    thing: Any = Unknown()


def test_a_default_that_is_no_json_gives_no_warning() -> None:
    schema = schema_of({"test": handler_of(WithDefault)}, "test")

    assert "default" not in schema["$defs"]["WithDefault"]["properties"]["thing"]


def send(aliased: Aliased, copies: int = 1) -> list[Any]:
    return [aliased, {"copies": copies, "point": Point(4)}]


@pytest.mark.parametrize("run", ["thread", "async"])
async def test_models_go_there_and_back(run: str) -> None:
    async def send_async(aliased: Aliased, copies: int = 1) -> list[Any]:
        return send(aliased, copies)

    functions = {"send": send if run == "thread" else send_async}
    async with open_jobs(functions) as jobs:
        model = Aliased(firstName="Ann")
        job = jobs.submit("send", {"aliased": model, "copies": 2})

        result = await jobs.result(job.id)

        assert result[0] == {"firstName": "Ann", "last_name": ""}
        assert result[1] == {"copies": 2, "point": {"x": 4}}


async def test_a_result_is_read_as_a_model() -> None:
    def find() -> Email:
        return Email(to="a")

    async with open_jobs({"find": find}) as jobs:
        job = jobs.submit("find")

        assert await jobs.result(job.id, type=Email) == Email(to="a")
        assert await jobs.result(job.id, type=Email | None) == Email(to="a")
        with pytest.raises(msgspec.ValidationError, match=r"^\$: object missing required field x$"):
            await jobs.result(job.id, type=Point)


class Broken(BaseModel):
    """Cannot be written as JSON."""

    value: Any = None
    number: float = 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Broken(value=Unknown()),
            "the result is not serialisable: Unable to serialize unknown type: ",
        ),
        (Broken(number=float("inf")), "the result holds NaN or an infinity, which JSON has not"),
    ],
)
async def test_a_model_that_is_no_json_fails_its_job(model: Broken, message: str) -> None:
    ending = await process(lambda _payload: model)

    assert ending.outcome is Outcome.FAILED
    assert message_of(ending).startswith(message)


@pytest.mark.system
async def test_a_child_decodes_and_encodes_models() -> None:
    functions = {
        "label": in_process(pydantic_tasks.label),
        "has_trio": in_process(pydantic_tasks.has_trio),
    }
    async with running_pool(functions, processes=1) as pool:
        parcel = b'{"recipient": "Ann", "weight": "1.5"}'
        jobs = [
            pool.submit("label", b'{"parcel": %s, "copies": 2}' % parcel),
            pool.submit("has_trio", parcel),
        ]

    results = [ending.result for ending in map(pool.ending, jobs) if ending is not None]
    assert results == [b'[{"theText":"Ann, 1.5 kg"},{"theText":"Ann, 1.5 kg"}]', b"false"]


WITHOUT = """
import sys
import msgspec
from trio_jobs import Handler, open_jobs

class Email(msgspec.Struct):
    to: str

def send(email: Email, copies: list[int] = []): ...

Handler.of(send)
print(sorted({"pydantic", "annotated_types"} & set(sys.modules)))
"""


@pytest.mark.system
async def test_a_program_without_pydantics_types_does_not_import_it() -> None:
    with trio.fail_after(30):
        finished = await trio.run_process(
            [sys.executable, "-c", WITHOUT],
            env=able_to_import_tests(),
            capture_stdout=True,
            stderr=subprocess.STDOUT,
        )

    assert finished.stdout == b"[]\n"
