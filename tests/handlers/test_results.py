"""A result is JSON that can always be shown, or the job has failed and says why."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

import msgspec
import pytest

from tests.handlers.support import process
from trio_jobs import Ending, Outcome


async def ending_with(result: object, *, max_result_bytes: int = 1_000_000) -> Ending:
    async def handler(_payload: object) -> object:
        return result

    return await process(handler, max_result_bytes=max_result_bytes)


class MyFloat(float):
    """A number of somebody's, as numpy's are."""


@dataclass
class Answer:
    """A result."""

    text: str


@pytest.mark.parametrize(
    ("result", "encoded"),
    [
        (None, b"null"),
        ({"a": [1, 2.5, True, None, "x"]}, b'{"a":[1,2.5,true,null,"x"]}'),
        (Answer("yes"), b'{"text":"yes"}'),
        ({1}, b"[1]"),
        ({"nan": None, 1.5: "inf"}, b'{"nan":null,"1.5":"inf"}'),
        (datetime(2026, 11, 25, tzinfo=UTC), b'"2026-11-25T00:00:00Z"'),
        (b"ab", b'"YWI="'),
        (10**30, b"1" + b"0" * 30),
        ([msgspec.Raw(b"[1]"), None], b"[[1],null]"),
        ([msgspec.Raw(b"[1]"), deque([None])], b"[[1],[null]]"),
    ],
)
async def test_a_result_is_kept_as_json(result: object, encoded: bytes) -> None:
    ending = await ending_with(result)

    assert (ending.outcome, ending.result) == (Outcome.SUCCEEDED, encoded)


@pytest.mark.parametrize("run", ["async", "thread"])
async def test_what_is_converted_is_looked_at_once_and_where_the_handler_runs(run: str) -> None:
    looked_at_in: list[threading.Thread] = []

    class Lazy(Sequence[object]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> object:  # type: ignore[override]
            if index == 0:
                looked_at_in.append(threading.current_thread())
                return None  # what NaN would be written as
            raise IndexError

    def plain(_payload: object) -> object:
        return Lazy()

    async def in_the_loop(payload: object) -> object:
        return plain(payload)

    ending = await process(plain if run == "thread" else in_the_loop)

    assert ending.result == b"[null]"
    in_main = [each is threading.main_thread() for each in looked_at_in]
    assert in_main == [run == "async"]


async def test_a_conversion_that_raises_fails_the_job() -> None:
    class Broken(Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            raise OSError("gone")

        def __iter__(self) -> Iterator[str]:
            return iter("a")

        def __len__(self) -> int:
            return 1

    ending = await ending_with({"in": Broken()})

    assert ending.error is not None
    assert (ending.error.type, ending.error.message) == ("OSError", "gone")


def make_cyclic_deque() -> object:
    cycle: deque[object] = deque()
    cycle.append(cycle)
    return cycle


def make_cycle() -> object:
    cycle: list[object] = []
    cycle.append(cycle)
    return cycle


def make_deep() -> object:
    deep: list[object] = []
    for _ in range(30_000):
        deep = [deep]
    return deep


NO_JSON = "the result is not serialisable: "
NOT_FINITE = "the result holds NaN or an infinity"
TOO_DEEP = "the result is cyclic or nested too deep"

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "object": (object, NO_JSON),
    "set": (lambda: {1j}, NO_JSON),
    "integer": (lambda: 10**5000, NO_JSON),
    "raw": (lambda: msgspec.Raw(b"{"), NO_JSON),
    "fraction": (
        lambda: Fraction(1, 2),
        NO_JSON + "Fraction has no one form in JSON; convert it first",
    ),
    "tuple as a key": (lambda: {(1, 2): 3}, NO_JSON + "a tuple cannot be a key"),
    "range": (lambda: [range(10**12)], NO_JSON + "a range of 1000000000000 numbers is too large"),
    "larger range": (lambda: [range(10**30)], NO_JSON),
    "cycle": (make_cycle, TOO_DEEP),
    "cyclic deque": (make_cyclic_deque, TOO_DEEP),
    "deep": (make_deep, TOO_DEEP),
    "surrogate": (lambda: "\ud800", "the result holds text that is not valid Unicode: "),
    "infinity": (lambda: math.inf, NOT_FINITE),
    "nan inside": (lambda: {"a": [math.nan]}, NOT_FINITE),
    "nan of own": (lambda: deque([MyFloat("nan")]), NOT_FINITE),
    "nan as a key": (lambda: [{math.nan: 1}], NOT_FINITE),
    "infinity as a key": (lambda: [{math.inf: 1}], NOT_FINITE),
    "-infinity as a key": (lambda: [{-math.inf: 1}], NOT_FINITE),
    "large": (lambda: "x" * 50_000_000, "the result is 50000002 bytes of JSON, more than 1000000"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_result_that_cannot_be_kept_fails_the_job(kind: str) -> None:
    make, message = REFUSED[kind]

    ending = await ending_with(make())

    assert ending.outcome is Outcome.FAILED
    assert ending.error is not None
    assert ending.error.type == "ResultError"
    assert ending.error.message.startswith(message)


@pytest.mark.parametrize(("length", "outcome"), [(8, "succeeded"), (9, "failed")])
async def test_a_result_may_be_as_large_as_the_limit(length: int, outcome: str) -> None:
    ending = await ending_with("x" * length, max_result_bytes=10)  # and two quotes

    assert ending.outcome == outcome
