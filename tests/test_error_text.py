"""Any exception is described by readable texts of bounded size."""

import contextlib

import pytest

from tests.hostile_errors import HOSTILE
from trio_jobs.error_text import MAX_MESSAGE, MAX_TYPE, describe
from trio_jobs.retries import GiveUp, Retry, Snooze, causes_of


class UnprintableError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise SystemExit(1)


def fail(error: BaseException) -> None:
    raise error


def raised(error: BaseException) -> BaseException:
    with contextlib.suppress(BaseException):
        fail(error)
    return error


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
def test_error_has_a_type_and_a_message(error: BaseException, type_: str, message: str) -> None:
    described = describe(error)

    assert (described.type, described.message) == (type_, message)


def test_traceback_shows_half_of_a_surrogate_pair_by_its_number() -> None:
    described = describe(raised(OSError(2, "no such file", "\udcfc")))
    noted = ValueError("a")
    noted.add_note("about \udcfc")

    assert described.traceback.endswith("[Errno 2] no such file: '\\udcfc'\n")
    assert describe(raised(noted)).traceback.endswith("ValueError: a\nabout \\udcfc\n")


@pytest.mark.parametrize("kind", HOSTILE)
def test_error_whose_own_code_fails_has_them_as_well(kind: str) -> None:
    make, type_, message = HOSTILE[kind]

    described = describe(raised(make()))

    assert type(described.message) is str
    assert (described.type, described.message) == (type_, message)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x" * 10_000_000),
        ExceptionGroup("x" * 1000, [ValueError("y" * 10_000)] * 1000),
    ],
)
def test_long_text_is_cut(error: BaseException) -> None:
    message = describe(error).message

    assert len(message) == MAX_MESSAGE
    assert message.endswith("…")


def test_long_type_is_cut() -> None:
    error = type("E" * 1000, (Exception,), {})()

    assert len(describe(error).type) == MAX_TYPE


def test_group_that_is_far_too_large_has_its_first_members_and_its_frames() -> None:
    described = describe(raised(ExceptionGroup("large", [ValueError("a")] * 100_000)))

    assert described.message.startswith("large (100000 sub-exceptions): ValueError: a; ")
    assert "raise error" in described.traceback
    assert len(described.traceback) < 1_000


def test_traceback_is_pythons_own_with_causes_and_members() -> None:
    group = ExceptionGroup("two", [ValueError("a"), KeyError("b")])
    group.__cause__ = OSError("c")

    text = describe(raised(group)).traceback

    assert text.startswith("OSError: c\n\nThe above exception was the direct cause")
    assert "| ExceptionGroup: two (2 sub-exceptions)" in text
    assert "| KeyError: 'b'" in text


def retry_from(error: BaseException | None) -> Retry:
    retry = Retry(after=5)
    retry.__cause__ = error
    return retry


def retry_within(error: BaseException) -> BaseException:
    try:
        fail(error)
    except BaseException:  # noqa: BLE001 - any error
        return raised(Retry())
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "type_", "message"),
    [
        (retry_from(OSError("busy")), "OSError", "busy"),
        (retry_within(SystemExit("busy")), "SystemExit", "busy"),
        (retry_from(retry_from(OSError("both"))), "OSError", "both"),
        (retry_from(None), "Retry", "the handler asks for another attempt"),
        (
            retry_from(ExceptionGroup("g", [ValueError("a")])),
            "ExceptionGroup",
            "g (1 sub-exception): ValueError: a",
        ),
        (
            ExceptionGroup("g", [retry_from(OSError("busy")), KeyError("k")]),
            "ExceptionGroup",
            "g (2 sub-exceptions): OSError: busy; KeyError: 'k'",
        ),
        (Snooze(5), "Snooze", "the handler asks to run later"),
        (GiveUp("no such customer"), "GiveUp", "no such customer"),
    ],
    ids=repr,
)
def test_a_retry_has_the_type_and_the_message_of_what_it_was_raised_from(
    error: BaseException, type_: str, message: str
) -> None:
    described = describe(error)

    assert (described.type, described.message) == (type_, message)
    assert described.causes == causes_of(error)


def test_retries_from_each_other_have_an_end() -> None:
    first, second = retry_from(None), retry_from(None)
    first.__cause__, second.__cause__ = second, first

    assert describe(first).type == "Retry"


def test_a_retry_that_hides_its_context_has_its_own_text() -> None:
    try:
        fail(OSError("busy"))
    except OSError:
        with pytest.raises(Retry) as caught:
            raise Retry from None

    assert describe(caught.value).type == "Retry"


@pytest.mark.parametrize("kind", HOSTILE)
def test_error_that_cannot_be_described_has_its_causes(kind: str) -> None:
    error = HOSTILE[kind][0]()

    assert describe(error).causes == causes_of(error) != ()


def test_causes_that_form_a_circle_are_shown_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert describe(first).traceback.count("ValueError: second") == 1
