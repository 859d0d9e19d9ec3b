"""Dataclasses of a payload: a result that has one in it has all of its fields."""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
import pytest

from trio_jobs import Handler, open_jobs
from trio_jobs.handlers.value_type import make_value_type

T = TypeVar("T")


@dataclass
class Tree:
    """A type that contains itself."""

    name: str
    height: int = 2
    trees: "list[Tree] | None" = None


@dataclass(frozen=True)
class Frozen:
    """Without required fields, and with one that nobody gives."""

    x: int = 1
    y: tuple[int, ...] = ()
    made: int = field(default=9, init=False)


@dataclass(slots=True)
class Slots:
    """msgspec sets the defaults of such a class."""

    tree: Tree
    x: int = 3


@dataclass
class Box(Generic[T]):
    """A generic class."""

    inside: T
    size: int = 5


class Struct(msgspec.Struct):
    """With dataclasses deep inside."""

    slots: dict[str, Slots]
    frozen: tuple[Frozen, ...] = ()


@dataclass
class Computed:
    """A field that the class's own code sets."""

    a: int
    twice: int = 0

    def __post_init__(self) -> None:
        self.twice = 2 * self.a


LEAF = {"name": "leaf", "height": 2, "trees": None}


@pytest.mark.parametrize(
    ("annotation", "payload", "written"),
    [
        (Tree, {"name": "a", "trees": [{"name": "leaf"}]}, LEAF | {"name": "a", "trees": [LEAF]}),
        (Tree | None, {"name": "leaf"}, LEAF),
        (Frozen, {}, {"x": 1, "y": [], "made": 9}),
        (Frozen, {"x": 5}, {"x": 5, "y": [], "made": 9}),
        (Slots, {"tree": {"name": "leaf"}}, {"tree": LEAF, "x": 3}),
        (Box[int], {"inside": 1}, {"inside": 1, "size": 5}),
        (list[Box[Tree]], [{"inside": {"name": "leaf"}}], [{"inside": LEAF, "size": 5}]),
        (
            Struct,
            {"slots": {"a": {"tree": {"name": "leaf"}}}, "frozen": [{}]},
            {
                "slots": {"a": {"tree": LEAF, "x": 3}},
                "frozen": [{"x": 1, "y": [], "made": 9}],
            },
        ),
        (Computed, {"a": 2}, {"a": 2, "twice": 4}),
    ],
)
def test_all_fields_of_a_decoded_dataclass_are_written(
    annotation: Any,  # noqa: ANN401 - a type
    payload: object,
    written: object,
) -> None:
    decode = make_value_type(annotation).decode

    value = decode(msgspec.json.encode(payload))

    assert msgspec.json.decode(msgspec.json.encode(value)) == written


def one(box: Box[int]) -> Box[int]:
    return box


async def several(box: Box[int], frozen: Frozen) -> list[object]:
    return [box, frozen]


async def test_handler_that_returns_its_payload_returns_the_defaults() -> None:
    box, frozen = {"inside": 1, "size": 5}, {"x": 1, "y": [], "made": 9}
    handlers = {
        "thread": one,
        "process": Handler.of(one, run="process"),
        "several": several,
    }

    async with open_jobs(handlers) as jobs:
        ids = [jobs.submit(type_, {"inside": 1}).id for type_ in ("thread", "process")]
        ids.append(jobs.submit("several", {"box": {"inside": 1}, "frozen": {}}).id)

        assert [await jobs.result(each) for each in ids] == [box, box, [box, frozen]]
