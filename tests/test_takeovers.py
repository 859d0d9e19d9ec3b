"""What user code takes from the server is put back, and one line says so."""

import logging

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
