"""Completed jobs that are dropped are in the log: the first one, and then a line an hour."""

import logging
from collections import Counter

import pytest

from tests.support import NONE_DROPPED
from trio_jobs import Outcome
from trio_jobs.stores.drop_log import SECONDS_BETWEEN_LINES, DropLog


class Drops:
    """A drop log whose clock the test sets, and the store's counts."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "trio_jobs.stores.drop_log")
        self._caplog = caplog
        self._counts = Counter(NONE_DROPPED)
        self.now = 0.0
        self.log = DropLog(clock=lambda: self.now)

    def drop(self, outcome: Outcome) -> None:
        self._counts[outcome] += 1
        self.log.note(outcome, self._counts)

    def end(self) -> None:
        self.log.report(self._counts)

    def lines(self) -> list[tuple[str, dict[str, int]]]:
        """The level and the counts of each line so far; takes them out."""
        known = [outcome.value for outcome in Outcome]
        records = self._caplog.records
        lines = [
            (each.levelname, {name: vars(each)[name] for name in known if name in vars(each)})
            for each in records
        ]
        assert {each.message for each in records} <= {"jobs_dropped"}
        self._caplog.clear()
        return lines


@pytest.fixture
def drops(caplog: pytest.LogCaptureFixture) -> Drops:
    return Drops(caplog)


def test_first_drop_is_logged_at_once_and_the_next_ones_after_an_hour(drops: Drops) -> None:
    for _ in range(5):
        drops.drop(Outcome.SUCCEEDED)
    first = drops.lines()
    drops.now = SECONDS_BETWEEN_LINES
    drops.drop(Outcome.SUCCEEDED)

    assert first == [("INFO", {"succeeded": 1})]
    assert drops.lines() == [("INFO", {"succeeded": 5})]


def test_first_job_that_did_not_succeed_is_a_warning_at_once(drops: Drops) -> None:
    for outcome in (Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.TIMED_OUT, Outcome.FAILED):
        drops.drop(outcome)

    assert drops.lines() == [
        ("INFO", {"succeeded": 1}),
        ("WARNING", {"succeeded": 1, "timed_out": 1}),
    ]


def test_hour_in_which_a_failure_was_dropped_is_a_warning(drops: Drops) -> None:
    for outcome in (Outcome.FAILED, Outcome.FAILED, Outcome.CANCELLED):
        drops.drop(outcome)
    drops.lines()
    drops.now = SECONDS_BETWEEN_LINES

    drops.drop(Outcome.SUCCEEDED)

    assert drops.lines() == [("WARNING", {"failed": 1, "cancelled": 1, "succeeded": 1})]


def test_what_no_line_has_told_is_told_at_the_end(drops: Drops) -> None:
    drops.drop(Outcome.SUCCEEDED)
    drops.drop(Outcome.SUCCEEDED)
    drops.lines()

    drops.end()
    drops.end()

    assert drops.lines() == [("INFO", {"succeeded": 1})]


def test_server_that_drops_nothing_logs_nothing(drops: Drops) -> None:
    drops.end()

    assert drops.lines() == []
