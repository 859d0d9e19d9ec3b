"""What user code takes from the server is put back, and one line says so."""

import logging
from functools import partial

import pytest

from trio_jobs.takeovers import Takeovers, TakesBackBeforeWaiting


class Thing:
    """Something of the server's that can be taken."""

    def __init__(self) -> None:
        self.taken = False
        self.looks = 0

    def intact(self) -> bool:
        """Whether it is there."""
        self.looks += 1
        return not self.taken

    def put_back(self) -> None:
        """Have it again."""
        self.taken = False


@pytest.fixture
def takeovers() -> Takeovers:
    return Takeovers()


def added(takeovers: Takeovers, what: str, *, costly: bool = False) -> Thing:
    """A thing that is held."""
    thing = Thing()
    takeovers.add(what, intact=thing.intact, put_back=thing.put_back, costly=costly)
    return thing


def test_nothing_is_said_while_all_is_there(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    thing = added(takeovers, "thing")

    takeovers.check(module="shop")

    assert thing.looks == 1
    assert not caplog.records


def test_what_was_taken_is_put_back_and_one_line_names_it_and_the_module(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = (added(takeovers, name) for name in ("first", "second", "third"))
    first.taken = third.taken = True

    takeovers.check(module="shop")

    assert not any(thing.taken for thing in (first, second, third))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert (record.msg, record.__dict__["what"]) == ("taken_back", "first,third")
    assert record.__dict__["module_name"] == "shop"


def test_line_names_the_types_that_ran_meanwhile(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    added(takeovers, "thing").taken = True

    takeovers.check(job_types=lambda: ["resize", "email", "resize"])

    [record] = caplog.records
    assert record.__dict__["job_types"] == "email,resize"


def test_what_is_taken_again_and_again_is_told_ever_more_seldom_and_anybody_new_at_once(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    thing = added(takeovers, "thing")
    for turn in range(1, 1001):
        thing.taken = True
        takeovers.check(job_types=partial(list, ["new"] if turn == 700 else ["usual"]))
        assert not thing.taken

    told = [(vars(each).get("times", 1), vars(each)["job_types"]) for each in caplog.records]
    assert told == sorted([*((2**n, "usual") for n in range(10)), (700, "new")])


def test_part_that_can_never_be_put_back_is_told_ever_more_seldom(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("no way")

    takeovers.add("broken", intact=lambda: False, put_back=fail)
    for _ in range(1000):
        takeovers.check()

    assert len(caplog.records) == 10


def test_part_that_cannot_be_put_back_is_told_and_keeps_no_other_from_it(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("no way")

    takeovers.add("broken", intact=lambda: False, put_back=fail)
    other = added(takeovers, "other")
    other.taken = True

    takeovers.check()

    assert not other.taken
    told, warned = caplog.records
    assert (told.msg, told.__dict__["what"], bool(told.exc_info)) == (
        "not_taken_back",
        "broken",
        True,
    )
    assert warned.__dict__["what"] == "other"


async def test_event_loop_looks_before_it_waits_and_leaves_out_what_is_costly_while_it_is_busy(
    takeovers: Takeovers,
) -> None:
    cheap, costly = added(takeovers, "cheap"), added(takeovers, "costly", costly=True)
    look = TakesBackBeforeWaiting(takeovers, tuple)

    look.before_io_wait(0)
    busy = cheap.looks, costly.looks
    look.before_io_wait(1)

    assert busy == (1, 0)
    assert (cheap.looks, costly.looks) == (2, 1)


async def test_jobs_that_ended_in_a_busy_turn_are_named_by_the_look_that_finds_what_they_took(
    takeovers: Takeovers, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    def forget() -> list[str]:
        forgotten = ended[:]
        ended.clear()
        return forgotten

    cheap, costly = added(takeovers, "cheap"), added(takeovers, "costly", costly=True)
    look = TakesBackBeforeWaiting(takeovers, lambda: ended, forget)
    for name, timeout in [("email", 0), ("resize", 0), ("report", 1), ("late", 1)]:
        ended.append(name)
        costly.taken |= name == "email"
        cheap.taken = name in {"resize", "late"}
        look.before_io_wait(timeout)

    assert [(vars(each)["what"], vars(each)["job_types"]) for each in caplog.records] == [
        ("cheap", "resize"),
        ("costly", "email,report,resize"),
        ("cheap", "late"),
    ]
