"""A traceback can be made of anything that is raised, and has an end."""

import contextlib

import pytest

from tests.hostile_errors import HOSTILE
from trio_jobs.tracebacks import traceback_text


def fail(error: BaseException) -> None:
    raise error


def raised(error: BaseException) -> BaseException:
    with contextlib.suppress(BaseException):
        fail(error)
    return error


def test_traceback_is_pythons_own_with_causes_and_members() -> None:
    group = ExceptionGroup("two", [ValueError("a"), KeyError("b")])
    group.__cause__ = OSError("c")

    text = traceback_text(raised(group))

    assert text.startswith("OSError: c\n\nThe above exception was the direct cause")
    assert "| ExceptionGroup: two (2 sub-exceptions)" in text
    assert "| KeyError: 'b'" in text


@pytest.mark.parametrize("kind", HOSTILE)
def test_traceback_of_any_error_has_its_frames(kind: str) -> None:
    make, _, _ = HOSTILE[kind]

    text = traceback_text(raised(make()))

    assert "raise error" in text
    assert len(text) < 10_000


def test_causes_that_go_round_are_shown_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert traceback_text(first).count("ValueError: second") == 1
