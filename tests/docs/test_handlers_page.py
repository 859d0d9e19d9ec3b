"""The tables of results are true, line by line."""

import math
import re
from array import array
from collections import ChainMap, Counter, OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import ip_address
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, Field

from tests.docs.test_references import rows_of
from trio_jobs.json_encoding import ResultError, encode_result


@dataclass
class Email:
    """The page's."""

    to: str


class Model(BaseModel):
    """The page's."""

    to: str = Field(alias="toYou")


class Point(NamedTuple):
    """The page's."""

    x: int
    y: int


class Name(str):
    """The page's."""

    __slots__ = ()


class Meters(int):
    """The page's."""


class Size(Enum):
    """The page's."""

    LARGE = "large"


NAMES: dict[str, object] = {
    each.__name__: each
    for each in (
        *(array, ChainMap, Counter, OrderedDict, deque, date, datetime, timedelta, Decimal),
        *(Fraction, ip_address, PurePosixPath, SimpleNamespace, UUID),
        *(Email, Model, Point, Name, Meters, Size),
    )
} | {"math": math, "re": re, "UTC": UTC, "MappingProxyType": MappingProxyType}

# What may stand in a cell beside values: names of classes.
NO_VALUES = {"Sequence", "Set", "Mapping", "msgspec.Struct", "NamedTuple", "Enum", "json"}
NO_VALUES |= {"str", "int", "float"}


def values_in(cell: str) -> list[object]:
    """The values of the expressions in a cell."""
    before_colon = re.split(r"`: (?:a|an|not) ", cell)[0]
    expressions = re.findall(r"`([^`]+)`?", before_colon)
    return [eval(each, dict(NAMES)) for each in expressions if each not in NO_VALUES]  # noqa: S307


def table(*, of_the_refused: bool) -> list[tuple[str, str]]:
    """The lines of one of the two tables, which stand behind the function's."""
    rows = [(row[0], row[1]) for row in rows_of("handlers.md")]
    start = next(n for n, row in enumerate(rows) if row[0] == "`None`")
    middle = next(n for n, row in enumerate(rows) if row[0].startswith("`Fraction"))
    return rows[middle:] if of_the_refused else rows[start:middle]


@pytest.mark.parametrize(("returned", "result"), table(of_the_refused=False))
def test_a_result_is_what_the_page_says(returned: str, result: str) -> None:
    values = values_in(returned)

    assert values
    for value in values:
        encoded = encode_result(value, max_bytes=1000)
        expected = re.match("`([^`]+)`", result)
        if expected is None:
            assert result == "an array"
            assert isinstance(msgspec.json.decode(encoded), list)
        else:
            assert encoded.decode() == expected[1]


@pytest.mark.parametrize(("refused", "instead"), table(of_the_refused=True))
def test_a_result_is_refused_as_the_page_says(refused: str, instead: str) -> None:
    # Types as values here, unlike above.
    refused_values = [eval(each, dict(NAMES)) for each in re.findall("`([^`]+)`", refused)]  # noqa: S307

    assert refused_values
    for value in refused_values:
        with pytest.raises(ResultError):
            encode_result(value, max_bytes=1000)
    for value in values_in(instead):
        assert encode_result(value, max_bytes=1000)


def test_the_tables_are_whole() -> None:
    assert len(table(of_the_refused=False)) == 22
    assert len(table(of_the_refused=True)) == 12
