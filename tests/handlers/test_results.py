"""A result is JSON that can always be shown, or the job has failed and says why."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import pytest

from tests.handlers.support import process
from trio_jobs.job import Ending, Outcome


async def ending_with(result: object, *, max_result_bytes: int = 1_000_000) -> Ending:
    async def handler(_payload: object) -> object:
        return result

    return await process(handler, max_result_bytes=max_result_bytes)


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
    ],
)
async def test_a_result_is_kept_as_json(result: object, encoded: bytes) -> None:
    ending = await ending_with(result)

    assert (ending.outcome, ending.result) == (Outcome.SUCCEEDED, encoded)


def make_cycle() -> object:
    cycle: list[object] = []
    cycle.append(cycle)
    return cycle


def make_deep() -> object:
    deep: list[object] = []
    for _ in range(30_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(object, "the result is not serialisable: ", id="object"),
        pytest.param(lambda: {1j}, "the result is not serialisable: ", id="set"),
        pytest.param(lambda: 10**5000, "the result is not serialisable: ", id="integer"),
        pytest.param(lambda: msgspec.Raw(b"{"), "the result is not serialisable: ", id="raw"),
        pytest.param(make_cycle, "the result is cyclic or nested too deep", id="cycle"),
        pytest.param(make_deep, "the result is cyclic or nested too deep", id="deep"),
        pytest.param(
            lambda: "\ud800", "the result holds text that is not valid Unicode: ", id="surrogate"
        ),
        pytest.param(
            lambda: {"a": [math.nan]}, "the result holds NaN or an infinity", id="nan inside"
        ),
        *(
            pytest.param(
                lambda key=key: [{key: 1}],
                "the result holds NaN or an infinity",
                id=f"key {key}",
            )
            for key in (math.nan, math.inf, -math.inf)
        ),
        pytest.param(lambda: math.inf, "the result holds NaN or an infinity", id="infinity"),
        pytest.param(
            lambda: "x" * 50_000_000,
            "the result is 50000002 bytes of JSON, more than 1000000",
            id="large",
        ),
    ],
)
async def test_a_result_that_cannot_be_kept_fails_the_job(
    make: Callable[[], object], message: str
) -> None:
    ending = await ending_with(make())

    assert ending.outcome is Outcome.FAILED
    assert ending.error is not None
    assert ending.error.type == "ResultError"
    assert ending.error.message.startswith(message)


@pytest.mark.parametrize(("length", "outcome"), [(8, "succeeded"), (9, "failed")])
async def test_a_result_may_be_as_large_as_the_limit(length: int, outcome: str) -> None:
    ending = await ending_with("x" * length, max_result_bytes=10)  # and two quotes

    assert ending.outcome == outcome
