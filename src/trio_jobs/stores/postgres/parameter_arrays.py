"""Arrays as the database reads them, each made in one piece.

psycopg makes an array element by element, and asks for the type of each: for a round of many jobs
that took longer than all else. It also sends integers as the smallest type that has them, and the
database would prepare a statement anew for each combination.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import pq
from psycopg.adapt import Dumper

_Item = TypeVar("_Item")

_TEXT: Final = 25  # the database's numbers of these types
_TEXT_ARRAY: Final = 1009

# Dimensions, whether there are nulls, type, length, first index.
_HEAD: Final = struct.Struct("!5i")
_EMPTY_HEAD: Final = struct.Struct("!3i")
_LENGTH: Final = struct.Struct("!i")
_NULL: Final = b"\xff\xff\xff\xff"  # a length of -1

# An array without elements, for a column of nulls: the database fills it up.
EMPTY: Final = "{}"


class Texts:
    """An array of texts, in the binary format: as a text, it would have an escape for each quote.

    Args:
        texts: The texts; None for a null.
    """

    __slots__ = ("data",)

    def __init__(self, texts: Sequence[str | None]) -> None:
        head = _HEAD.pack(1, None in texts, _TEXT, len(texts), 1)
        pieces = [head if texts else _EMPTY_HEAD.pack(0, 0, _TEXT)]
        for text in texts:
            if text is None:
                pieces.append(_NULL)
            else:
                data = text.encode()
                pieces += (_LENGTH.pack(len(data)), data)
        self.data = b"".join(pieces)


class _TextsDumper(Dumper):
    format = pq.Format.BINARY
    oid = _TEXT_ARRAY

    def dump(self, obj: Texts) -> bytes:
        return obj.data


def register(connection: psycopg.AsyncConnection[Any]) -> None:
    """Let a connection take `Texts` as parameters."""
    connection.adapters.register_dumper(Texts, _TextsDumper)


def array(texts: Iterable[str]) -> str:
    """An array as a text, of elements as texts; those that need an escape have it already."""
    return "{" + ",".join(texts) + "}"


def column(items: Sequence[_Item], value: Callable[[_Item], object]) -> str:
    """The values of all items, as `array` takes them; `EMPTY` if all are None."""
    values = list(map(value, items))
    nulls = values.count(None)
    if nulls == len(values):
        return EMPTY
    if nulls:
        return array(["NULL" if each is None else str(each) for each in values])
    return array(map(str, values))


def text_column(items: Sequence[_Item], value: Callable[[_Item], str | None]) -> Texts:
    """The texts of all items; no element if all are None."""
    texts = list(map(value, items))
    return Texts([]) if texts.count(None) == len(texts) else Texts(texts)
