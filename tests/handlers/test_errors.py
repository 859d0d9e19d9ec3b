"""What a handler raised is shown as a bounded, readable text."""

import pytest

from tests.hostile_errors import HOSTILE
from trio_jobs.handlers import error_text
from trio_jobs.handlers.error_text import MAX_MESSAGE, MAX_TYPE, describe_error, describe_failure
from trio_jobs.job import JobError


class UnprintableError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise SystemExit(1)


@pytest.mark.parametrize(
    ("error", "type_", "message"),
    [
        (ValueError("no"), "ValueError", "no"),
        (KeyError("k"), "KeyError", "'k'"),
        (AssertionError(), "AssertionError", ""),
        (SystemExit(3), "SystemExit", "3"),
        (UnprintableError(), "UnprintableError", "<exception str() failed>"),
        (ValueError("a\x00b\x1b[1m\ud800\tc\nd"), "ValueError", "a�b�[1m�\tc\nd"),
        (
            ExceptionGroup("two", [ValueError("a"), ExceptionGroup("in", [KeyError("b")])]),
            "ExceptionGroup",
            "two (2 sub-exceptions): ValueError: a; KeyError: 'b'",
        ),
    ],
)
def test_an_error_is_described(error: BaseException, type_: str, message: str) -> None:
    described = describe_error(error)

    assert (described.type, described.message) == (type_, message)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x" * 10_000_000),
        ExceptionGroup("x" * 1000, [ValueError("y" * 10_000)] * 1000),
    ],
)
def test_a_long_text_is_cut(error: BaseException) -> None:
    message = describe_error(error).message

    assert len(message) == MAX_MESSAGE
    assert message.endswith("…")


def test_a_long_type_is_cut() -> None:
    error = type("E" * 1000, (Exception,), {})()

    assert len(describe_error(error).type) == MAX_TYPE


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_error_is_described_past_its_own_class(kind: str) -> None:
    make, type_, message = HOSTILE[kind]

    described = describe_error(make())

    assert type(described.message) is str
    assert (described.type, described.message[: len(message)]) == (type_, message)


def test_an_error_that_cannot_be_described_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise SystemExit

    monkeypatch.setattr(error_text, "readable", fail)

    described = describe_error(ValueError("x"))

    assert described == JobError(type="Exception", message="<the error could not be described>")


NO_LOOP = "no running event loop"


@pytest.mark.parametrize(
    ("error", "explained"),
    [
        (RuntimeError(NO_LOOP), True),
        (RuntimeError("There is no current event loop in thread 'x'."), True),
        (ExceptionGroup("g", [RuntimeError(NO_LOOP)]), True),
        (ValueError(NO_LOOP), False),
        (RuntimeError("there was no running event loop"), False),
    ],
)
def test_code_for_asyncio_is_told_where_it_belongs(error: Exception, explained: bool) -> None:
    with pytest.raises(type(error)) as raised:
        raise error

    for described in (describe_error(error), describe_failure(raised.value).error):
        hint = "code for asyncio goes into a plain function, which calls asyncio.run()"
        assert (hint in described.message) is explained
