"""What handlers may ask for, and what a failure tells a retry policy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile_errors import HOSTILE, make_wide
from trio_jobs.retries import (
    MAX_DELAY,
    Cause,
    GiveUp,
    ProcessDied,
    Retry,
    Snooze,
    causes_of,
    class_name,
)

HERE = __name__


def kinds(error: BaseException) -> tuple[str, ...]:
    [cause] = causes_of(error)
    return cause.kinds


def test_a_cause_has_the_names_of_the_classes_that_it_belongs_to() -> None:
    class LocalError(ConnectionResetError):
        pass

    assert kinds(LocalError()) == (
        f"{HERE}.test_a_cause_has_the_names_of_the_classes_that_it_belongs_to.<locals>.LocalError",
        "builtins.ConnectionResetError",
        "builtins.ConnectionError",
        "builtins.OSError",
        "builtins.Exception",
        "builtins.BaseException",
    )


def test_a_class_of_the_same_name_is_another() -> None:
    class TimeoutError(Exception):  # noqa: A001 - that is what is tested
        pass

    assert "builtins.TimeoutError" not in kinds(TimeoutError())


def test_the_programs_own_classes_have_one_name_in_the_server_and_in_its_children() -> None:
    in_child = type("Refused", (Exception,), {"__module__": "__mp_main__"})

    assert class_name(in_child) == "__main__.Refused"


@pytest.mark.parametrize("value", [0, 0.0, 1, 2.5, MAX_DELAY])
def test_a_handler_names_the_seconds(value: float) -> None:
    assert causes_of(Retry(value)) == causes_of(Retry(after=value))
    [retry], [snooze] = causes_of(Retry(value)), causes_of(Snooze(value))
    assert (retry.wish, retry.seconds) == ("retry", value)
    assert (snooze.wish, snooze.seconds) == ("snooze", value)


WRONG = [-1, -0.001, math.nan, math.inf, -math.inf, True, False, "5", [5], MAX_DELAY + 1, 10**400]


@pytest.mark.parametrize("value", WRONG)
def test_no_number_of_seconds_is_refused_where_it_is_written(value: object) -> None:
    with pytest.raises(ValueError, match=r"^after must be a number of seconds from 0 to 315619200"):
        Retry(after=value)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(
        ValueError, match=r"^seconds must be a number of seconds from 0 to 31561920"
    ):
        Snooze(value)  # type: ignore[arg-type]  # that is what is tested


def test_retry_without_a_time_leaves_it_to_the_policy() -> None:
    for asked in (Retry(), Retry(None)):
        [cause] = causes_of(asked)
        assert (cause.wish, cause.seconds) == ("retry", None)


class BusyError(Retry):
    """A retry of its own."""

    after = 30


class PatientError(Snooze):
    """Has no time."""

    def __init__(self) -> None:
        pass


class LateError(Retry):
    """Has a time that is none."""

    after = math.nan


class LeavingError(Snooze):
    """Leaves when it is asked for its time."""

    def __init__(self) -> None:
        pass

    @property
    def seconds(self) -> float:  # type: ignore[override]
        raise SystemExit("no time")


class BothError(GiveUp, Retry):
    """Wants both."""


@pytest.mark.parametrize(
    ("error", "wish", "seconds"),
    [
        (BusyError(), "retry", 30),
        (BusyError(after=5), "retry", 5),
        (PatientError(), None, None),
        (LateError(), None, None),
        (LeavingError(), None, None),
        (GiveUp("no such customer"), "give_up", None),
        (BothError(), "give_up", None),
        (ProcessDied(), None, None),
        (SystemExit(1), None, None),
    ],
)
def test_a_subclass_asks_for_the_same_if_its_time_is_valid(
    error: BaseException, wish: str | None, seconds: float | None
) -> None:
    [cause] = causes_of(error)

    assert (cause.wish, cause.seconds) == (wish, seconds)
    assert cause.kinds[-1] == "builtins.BaseException"


def test_a_group_has_each_of_its_different_members_once() -> None:
    inner = ExceptionGroup("in", [OSError(1), OSError(2), Retry(5), Retry(5), Retry(6)])
    group = BaseExceptionGroup("out", [inner, KeyError(), ExceptionGroup("in", [OSError(3)])])

    found = sorted((each.kinds[0].rpartition(".")[2], each.seconds) for each in causes_of(group))

    assert found == [("KeyError", None), ("OSError", None), ("Retry", 5.0), ("Retry", 6.0)]


@pytest.mark.parametrize("kind", HOSTILE)
def test_classes_that_lie_about_themselves_cannot_hide(kind: str) -> None:
    make, _, _ = HOSTILE[kind]

    causes = causes_of(make())

    assert causes
    assert all("builtins.Exception" in each.kinds for each in causes)


def test_a_group_without_end_and_one_of_very_many_have_all_their_causes() -> None:
    assert kinds(make_wide())[0] == "builtins.ValueError"
    errors = [OSError(), *(ValueError() for _ in range(100_000))]
    assert len(causes_of(ExceptionGroup("many", errors))) == 2


class LoudText:
    """Raises when it is asked for its text."""

    def __str__(self) -> str:
        raise SystemExit("no text")

    __format__ = __repr__ = __str__  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (LoudText(), "<unknown>.E"),
        (3, "<unknown>.E"),
        ("\ud800", "?.E"),
        ("m" * 10_000, "m" * 300),
    ],
    ids=["loud", "number", "surrogate", "long"],
)
def test_a_name_is_readable_and_short(module: object, name: str) -> None:
    named = type("E", (Exception,), {"__module__": module})

    assert class_name(named) == name
    assert kinds(named())[0] == name


def test_more_classes_than_can_be_sent_are_not_known() -> None:
    many = [type(f"{'E' * 200}{n}", (Exception,), {})() for n in range(1000)]

    assert causes_of(ExceptionGroup("many", many)) == (Cause(()),)


@given(st.recursive(st.sampled_from([OSError(), KeyError(), Retry(1)]), st.lists, max_leaves=20))
def test_causes_are_those_of_the_leaves(tree: object) -> None:
    leaves = []

    def group_of(node: object) -> Exception:
        if isinstance(node, Exception):
            leaves.append(node)
            return node
        assert isinstance(node, list)
        return ExceptionGroup("g", [group_of(each) for each in node] or [group_of(KeyError())])

    causes = causes_of(group_of(tree))

    assert set(causes) == {cause for leaf in leaves for cause in causes_of(leaf)}
    assert len(causes) == len(set(causes))
