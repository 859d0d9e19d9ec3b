"""What a payload is for the parameters of a handler: a value, or an object with their names."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
# What is not annotated is what these are about.

import functools
import math
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from tests.handlers.support import message_of, process
from trio_jobs import PayloadError, open_jobs
from trio_jobs.api.validation import check_submission
from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.registry import HandlerRegistry


class Email(msgspec.Struct):
    """A payload."""

    to: str


class Model(BaseModel):
    """A payload of Pydantic's."""

    to: str
    times: int = Field(default=1, gt=0)


class Level(Enum):
    """Not plain JSON."""

    LOW = "low"


CLIENT = object()


def nothing():
    return "called"


def context_alone(job: JobContext):
    return job


def value(payload):
    return payload


def typed(email: Email, context: JobContext):
    return email.to


def copy(source: Path, target: Path | None = None):
    return [source.name, target is None or target.name]


def keyword(*, to: str):
    return to


def several(to: str, subject: str = "none", *, copies: list[str] | None = None):
    return [to, subject, copies]


def before_context(to: str, context: JobContext, subject: str):
    return [to, subject]


def arq(ctx, to: str, subject: str):
    return [to, subject]


def all_optional(to="you", times=1):
    return [to, times]


def struct_and_flag(email: Email, dry_run=False):
    return [email.to, dry_run]


def own_flag(email: Email, _dry_run=False):
    return [email.to, _dry_run]


def untyped(payload, job):
    return [payload, job]


def by_position(to, times=1, /, last=2):
    return [to, times, last]


def own_defaults(
    to: str,
    client=CLIENT,
    level: Level = Level.LOW,
    limit=math.inf,
    tags=[],  # noqa: B006
    more={"a": None},  # noqa: B006
):
    return [to, client is CLIENT, level, limit, tags is (own_defaults.__defaults__ or [])[-2]]


def limited(times: Annotated[int, msgspec.Meta(ge=1)], names: dict[str, Email]):
    return [times, names["a"].to]


def hostile(self, field_0, __struct_fields__, arguments=0):
    return [self, field_0, __struct_fields__, arguments]


class Example(NamedTuple):
    """A function, and what becomes of payloads."""

    function: Callable[..., object]
    called: dict[str, object]  # what the function returns, by payload
    refused: dict[str, str]  # the text of the refusal, by payload
    schema: dict[str, Any]
    spread: bool | None = None


def members(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """The schema of an object with these members."""
    return {
        "type": "object" if required else ["object", "null"],
        "properties": properties,
        "required": [*required],
        "additionalProperties": False,
    }


TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
EMAIL = {"$ref": "#/$defs/Email"}
UNKNOWN = "$.payload: object contains unknown field "
MISSING = "$.payload: object missing required field "

EXAMPLES = {
    "nothing": Example(
        nothing,
        called={"null": "called", "{}": "called"},
        refused={"[]": "$.payload: expected object | null, got array", '{"a": 1}': UNKNOWN + "a"},
        schema=members({}),
    ),
    "the context alone": Example(
        context_alone,
        called={"null": "ctx", "{}": "ctx"},
        refused={"1": "$.payload: expected object | null, got int", '{"job": 1}': UNKNOWN + "job"},
        schema=members({}),
    ),
    "a value": Example(
        value,
        called={"1": 1, "null": None, '{"payload": 1}': {"payload": 1}},
        refused={},
        schema={},
    ),
    "a value, spread": Example(
        value,
        called={'{"payload": 1}': 1, '{"payload": null}': None},
        refused={"1": "$.payload: expected object, got int", "{}": MISSING + "payload"},
        schema=members({"payload": {}}, "payload"),
        spread=True,
    ),
    "a typed value": Example(
        typed,
        called={'{"to": "a"}': "a"},
        refused={'{"to": 1}': "$.payload.to: expected str, got int"},
        schema=EMAIL,
    ),
    "a typed value, spread": Example(
        typed,
        called={'{"email": {"to": "a"}}': "a"},
        refused={
            '{"to": "a"}': UNKNOWN + "to",
            '{"email": {"to": 1}}': "$.payload.email.to: expected str, got int",
            '{"email": {}}': "$.payload.email: object missing required field to",
            '{"email": {"to": "a"}, "context": 1}': UNKNOWN + "context",
        },
        schema=members({"email": EMAIL}, "email"),
        spread=True,
    ),
    "a value by keyword": Example(
        keyword,
        called={'"a"': "a"},
        refused={'{"to": "a"}': "$.payload: expected str, got object"},
        schema=TEXT,
    ),
    "several": Example(
        several,
        called={
            '{"to": "a"}': ["a", "none", None],
            '{"copies": ["b"], "subject": "s", "to": "a"}': ["a", "s", ["b"]],
            '{"to": "a", "copies": null}': ["a", "none", None],
            '{"to": "a", "to": "b"}': ["b", "none", None],
        },
        refused={
            "{}": MISSING + "to",
            "null": "$.payload: expected object, got null",
            '"a"': "$.payload: expected object, got str",
            '["a", "s"]': "$.payload: expected object, got array",
            '{"to": "a", "other": 1}': UNKNOWN + "other",
            '{"to": "a", "subject": null}': "$.payload.subject: expected str, got null",
            '{"to": "a", "copies": [1]}': "$.payload.copies[0]: expected str, got int",
        },
        schema=members(
            {
                "to": TEXT,
                "subject": {**TEXT, "default": "none"},
                "copies": {
                    "anyOf": [{"type": "array", "items": TEXT}, {"type": "null"}],
                    "default": None,
                },
            },
            "to",
        ),
    ),
    "the context between": Example(
        before_context,
        called={'{"to": "a", "subject": "s"}': ["a", "s"]},
        refused={'{"to": "a", "subject": "s", "context": {}}': UNKNOWN + "context"},
        schema=members({"to": TEXT, "subject": TEXT}, "to", "subject"),
    ),
    "the context in front": Example(
        arq,
        called={'{"to": "a", "subject": "s"}': ["a", "s"]},
        refused={'{"to": "a"}': MISSING + "subject"},
        schema=members({"to": TEXT, "subject": TEXT}, "to", "subject"),
    ),
    "all optional": Example(
        all_optional,
        called={"null": ["you", 1], "{}": ["you", 1], '{"times": 2}': ["you", 2]},
        refused={"[]": "$.payload: expected object | null, got array"},
        schema=members({"to": {"default": "you"}, "times": {"default": 1}}),
    ),
    "a Struct and a flag": Example(
        struct_and_flag,
        called={
            '{"email": {"to": "a"}, "dry_run": true}': ["a", True],
            '{"email": {"to": "a"}}': ["a", False],
        },
        refused={'{"to": "a"}': UNKNOWN + "to"},
        schema=members({"email": EMAIL, "dry_run": {"default": False}}, "email"),
    ),
    "a Struct and a flag, not spread": Example(
        struct_and_flag,
        called={'{"to": "a"}': ["a", False]},
        refused={'{"email": {"to": "a"}}': MISSING + "to"},
        schema=EMAIL,
        spread=False,
    ),
    "a flag of its own": Example(
        own_flag,
        called={'{"to": "a"}': ["a", False]},
        refused={'{"email": {"to": "a"}}': MISSING + "to"},
        schema=EMAIL,
    ),
    "a flag of a partial": Example(
        functools.partial(struct_and_flag, dry_run=True),
        called={'{"to": "a"}': ["a", True]},
        refused={'{"email": {"to": "a"}}': MISSING + "to"},
        schema=EMAIL,
    ),
    "a value of a partial": Example(
        functools.partial(several, "a"),
        called={'{"subject": "s"}': ["a", "s", None], "null": ["a", "none", None]},
        refused={'{"to": "b"}': UNKNOWN + "to"},
        schema=members(
            {
                "subject": {**TEXT, "default": "none"},
                "copies": {
                    "anyOf": [{"type": "array", "items": TEXT}, {"type": "null"}],
                    "default": None,
                },
            }
        ),
    ),
    "two without annotation": Example(
        untyped,
        called={'{"payload": 1, "job": 2}': [1, 2]},
        refused={"1": "$.payload: expected object, got int", '{"to": "a"}': UNKNOWN + "to"},
        schema=members({"payload": {}, "job": {}}, "payload", "job"),
    ),
    "by position": Example(
        by_position,
        called={'{"to": 1}': [1, 1, 2], '{"last": 3, "times": 2, "to": 1}': [1, 2, 3]},
        refused={'{"times": 1}': MISSING + "to"},
        schema=members({"to": {}, "times": {"default": 1}, "last": {"default": 2}}, "to"),
    ),
    "defaults that are no JSON": Example(
        own_defaults,
        called={
            '{"to": "a"}': ["a", True, Level.LOW, math.inf, True],
            '{"to": "a", "level": "low", "limit": 1}': ["a", True, Level.LOW, 1, True],
        },
        refused={'{"to": "a", "level": "high"}': "$.payload.level: invalid enum value 'high'"},
        schema=members(
            {
                "to": TEXT,
                "client": {},
                "level": {"$ref": "#/$defs/Level"},
                "limit": {},
                "tags": {"default": []},
                "more": {"default": {"a": None}},
            },
            "to",
        ),
    ),
    "paths": Example(
        copy,
        called={'{"source": "a/b"}': ["b", True], '{"source": "", "target": "c/d"}': ["", "d"]},
        refused={
            '{"source": 1}': "$.payload.source: expected str, got int",
            '{"source": "a", "target": {}}': "$.payload.target: expected str, got object",
        },
        schema=members(
            {
                "source": {**TEXT, "format": "path"},
                "target": {
                    "anyOf": [{**TEXT, "format": "path"}, {"type": "null"}],
                    "default": None,
                },
            },
            "source",
        ),
    ),
    "types within": Example(
        limited,
        called={'{"times": 1, "names": {"a": {"to": "b"}}}': [1, "b"]},
        refused={
            '{"times": 0, "names": {}}': "$.payload.times: expected int >= 1",
            '{"times": 1, "names": {"a": {}}}': (
                "$.payload.names[...]: object missing required field to"
            ),
        },
        schema=members(
            {
                "times": {**NUMBER, "minimum": 1},
                "names": {"type": "object", "additionalProperties": EMAIL},
            },
            "times",
            "names",
        ),
    ),
    "names that classes have": Example(
        hostile,
        called={'{"self": 1, "field_0": 2, "__struct_fields__": 3}': [1, 2, 3, 0]},
        refused={'{"self": 1, "field_0": 2}': MISSING + "__struct_fields__"},
        schema=members(
            {"self": {}, "field_0": {}, "__struct_fields__": {}, "arguments": {"default": 0}},
            "self",
            "field_0",
            "__struct_fields__",
        ),
    ),
}

each_example = pytest.mark.parametrize("name", EXAMPLES)


def handler_of(example: Example) -> Handler:
    """The handler of an example; async, as only those get a context."""
    function = example.function

    @functools.wraps(function)
    async def is_async(*args: object, **kwargs: object) -> object:
        return function(*args, **kwargs)

    return Handler.of(is_async, spread=example.spread)


@each_example
async def test_a_handler_gets_the_arguments_of_a_good_payload(name: str) -> None:
    example = EXAMPLES[name]
    handler = handler_of(example)
    context = ["ctx"] if handler.takes_context else []

    for payload, returned in example.called.items():
        check_submission("test", payload.encode(), HandlerRegistry({"test": handler}))
        assert await handler.call(handler.decode(payload.encode()), *context) == returned


@each_example
def test_another_payload_is_refused_with_the_place(name: str) -> None:
    example = EXAMPLES[name]
    handlers = HandlerRegistry({"test": handler_of(example)})

    for payload, text in example.refused.items():
        with pytest.raises(PayloadError) as refusal:
            check_submission("test", payload.encode(), handlers)
        assert str(refusal.value) == text


@each_example
def test_the_schema_has_the_parameters(name: str) -> None:
    example = EXAMPLES[name]

    schemas = HandlerRegistry({"test": handler_of(example)}).schemas()

    assert schemas.types["test"] == example.schema
    complete = {**schemas.types["test"], "$defs": dict(schemas.components)}
    for payload in example.called:
        jsonschema.validate(msgspec.json.decode(payload), complete)
    for payload in example.refused:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(msgspec.json.decode(payload), complete)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "low", "", 0.5]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abx"), inner, max_size=2)
    ),
    max_leaves=4,
)
TYPES = st.sampled_from(
    [
        "",
        ": int",
        ": str",
        ": bool",
        ": float",
        ": None",
        ": list[int]",
        ": dict[str, int]",
        ": int | None",
        ": Email",
        ": Level",
        ": Path",
        ": Annotated[int, Meta(ge=1)]",
        ": Annotated[int, Field(gt=0)]",
        ": Annotated[list[int], Field(min_length=1)]",
        ": Model",
        ": dict[str, Model] | int",
    ]
)
DEFAULTS = st.sampled_from(["", " = None", " = 1", " = []", " = object()"])


@given(
    payload=JSON_VALUES,
    parameters=st.lists(
        st.tuples(st.sampled_from("ab"), TYPES, DEFAULTS),
        max_size=2,
        unique_by=lambda each: each[0],
    ),
    spread=st.sampled_from([None, True]),
)
def test_a_payload_that_the_schema_accepts_is_decoded_and_taken(
    payload: object, parameters: list[tuple[str, str, str]], spread: bool | None
) -> None:
    in_order = sorted(map("".join, parameters), key=lambda each: " = " in each)
    namespace: dict[str, Any] = {**globals(), "Meta": msgspec.Meta}
    exec(f"def f({', '.join(in_order)}): return 'called'", namespace)  # noqa: S102
    handler = Handler.of(namespace["f"], spread=spread)
    schemas = HandlerRegistry({"test": handler}).schemas()
    schema = {**schemas.types["test"], "$defs": dict(schemas.components)}
    is_valid = jsonschema.Draft202012Validator(schema).is_valid(payload)

    try:
        decoded = handler.decode(msgspec.json.encode(payload))
    except msgspec.ValidationError:
        assert not is_valid
    else:
        # Pydantic takes more than its schema: a number in a text, for example.
        assert is_valid or any(each.is_pydantics for each in handler.payload_type.values)
        assert handler.call(decoded) == "called"


class Report:
    """Made of its payload."""

    def __init__(self, email: "Email", copies: int = 1) -> None:
        self.values = [email.to, copies]


def test_a_class_is_a_handler_that_makes_an_instance() -> None:
    handler = Handler.of(Report)

    made = handler.call(handler.decode(b'{"email": {"to": "a"}}'))

    assert isinstance(made, Report)
    assert made.values == ["a", 1]


def test_a_function_without_parameters_is_not_spread_either_way() -> None:
    for spread in (None, True, False):
        handler = Handler.of(nothing, spread=spread)
        assert handler.call(handler.decode(b"null")) == "called"


async def test_python_submits_the_same_objects() -> None:
    async def send(to: str, subject: str = "none") -> list[str]:
        return [to, subject]

    async with open_jobs({"send": send}) as jobs:
        assert await jobs.result(jobs.submit("send", {"to": "a"}).id) == ["a", "none"]
        with pytest.raises(PayloadError, match=r"\$\.payload: expected object, got null"):
            jobs.submit("send")


async def test_a_thread_gets_several_arguments() -> None:
    ending = await process(Handler.of(several), b'{"to": "a", "subject": "s"}')

    assert ending.result == b'["a","s",null]'


def first(job: JobContext, to: str, times=1):
    return [job.type, to, times]


def by_name(to, times=1, *, ctx):
    return [ctx.type, to, times]


@pytest.mark.parametrize("function", [first, by_name])
async def test_a_plain_function_gets_the_context_wherever_it_stands(
    function: Callable[..., object],
) -> None:
    ending = await process(Handler.of(function), b'{"to": "a"}')

    assert ending.result == b'["test","a",1]'


async def test_a_wrong_call_of_a_decorator_fails_the_job() -> None:
    @functools.wraps(several)
    def other_names(one, two):
        raise NotImplementedError

    ending = await process(Handler.of(other_names), b'{"to": "a"}')

    assert "unexpected keyword argument 'to'" in message_of(ending)
