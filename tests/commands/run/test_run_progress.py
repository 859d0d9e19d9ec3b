"""The line of progress: counts, rate, and how long the rest takes."""

import pytest

from trio_jobs.commands.run.done_lines import DoneLines
from trio_jobs.commands.run.run_progress import RunProgress, duration


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def count(done: DoneLines, number: int, *, failed: bool = False) -> None:
    for _ in range(number):
        done.count(failed=failed)


def test_line_tells_what_is_done_and_how_long_the_rest_takes() -> None:
    clock, done = Clock(), DoneLines()
    progress = RunProgress(done, clock, total=20_000)
    count(done, 2_000)
    count(done, 12, failed=True)
    clock.now += 2

    assert progress.line() == " 2,012/20,000  12 failed  1,006/s  18 s left"


def test_rate_is_that_of_the_last_half_minute() -> None:
    clock, done = Clock(), DoneLines()
    progress = RunProgress(done, clock, total=10_000)
    for step in range(200):
        clock.now += 0.5
        count(done, 50 if step < 100 else 5)
        line = progress.line()

    assert line == " 5,500/10,000  10/s  7 m 30 s left"
    assert len(progress._samples) <= 63


def test_records_of_before_count_as_done_and_not_for_the_rate() -> None:
    clock, done = Clock(), DoneLines()
    done.mark(1, failed=True)
    count(done, 999)
    progress = RunProgress(done, clock, total=2_000)
    clock.now += 10

    assert progress.line() == " 1,000/2,000  1 failed  0.0/s"
    count(done, 1_000)
    clock.now += 10
    assert progress.last_line() == " 2,000/2,000  1 failed  50/s  done in 20 s"


def test_line_without_a_total_or_without_a_server() -> None:
    clock, done = Clock(), DoneLines()
    count(done, 7)
    progress = RunProgress(done, clock)
    count(done, 3)
    clock.now += 2

    assert progress.line() == " 10  1.5/s"
    assert progress.line(gone_for=11.2) == " 10  1.5/s  server gone for 12 s"
    assert progress.counts(5) == "5"


def test_first_line_divides_by_no_zero() -> None:
    progress = RunProgress(DoneLines(), Clock(), total=0)

    assert progress.line() == " 0/0  0.0/s"
    assert progress.last_line() == " 0/0  0.0/s  done in 0 s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.2, "1 s"),
        (59, "59 s"),
        (60, "1 m"),
        (118, "1 m 58 s"),
        (3_600, "1 h"),
        (3_661, "1 h 1 m"),
        (3_605, "1 h"),
        (90_000, "1 d 1 h"),
        (1e7, "115 d 17 h"),
    ],
)
def test_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
