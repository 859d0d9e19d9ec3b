"""The database's clock, as this process knows it."""

from datetime import UTC, datetime, timedelta

import pytest

from trio_jobs.stores.postgres.clock import StoreClock

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
START = datetime(2026, 11, 25, 7, 6, 17, tzinfo=UTC)
MICROSECONDS = int(START.timestamp()) * 1_000_000


class Hands:
    """Two clocks that a test turns."""

    def __init__(self) -> None:
        self.monotonic_now = 5 * SECOND
        self.wall_now = MICROSECONDS * 1_000

    def monotonic(self) -> int:
        return self.monotonic_now

    def wall(self) -> int:
        return self.wall_now


def measure(clock: StoreClock, hands: Hands, *, microseconds: int, takes: int) -> bool:
    sent = clock.monotonic()
    hands.monotonic_now += takes
    return clock.measured(microseconds, sent=sent)


def test_before_the_first_measurement_it_is_the_wall_clock() -> None:
    hands = Hands()
    clock = StoreClock(hands.monotonic, hands.wall)

    assert clock.now() == START
    hands.monotonic_now += SECOND
    assert clock.now() == START + timedelta(seconds=1)


def test_a_measurement_was_made_halfway_between_question_and_answer() -> None:
    hands = Hands()
    clock = StoreClock(hands.monotonic, hands.wall)

    measure(clock, hands, microseconds=MICROSECONDS + 90_000_000, takes=10 * MILLISECOND)

    assert clock.now() == START + timedelta(seconds=90, milliseconds=5)
    assert clock.nanoseconds() == (MICROSECONDS + 90_005_000) * 1_000


def test_a_wall_clock_that_is_set_later_changes_nothing() -> None:
    hands = Hands()
    clock = StoreClock(hands.monotonic, hands.wall)

    hands.wall_now += 3_600 * SECOND

    assert clock.now() == START


def test_an_answer_that_was_long_on_its_way_does_not_replace_a_faster_one() -> None:
    hands = Hands()
    clock = StoreClock(hands.monotonic, hands.wall)
    measure(clock, hands, microseconds=MICROSECONDS, takes=0)

    measure(clock, hands, microseconds=MICROSECONDS, takes=2 * SECOND)  # answered at once

    assert clock.now() == START + timedelta(seconds=2)


def test_a_slow_answer_counts_if_it_contradicts_the_fast_one() -> None:
    hands = Hands()
    clock = StoreClock(hands.monotonic, hands.wall)
    measure(clock, hands, microseconds=MICROSECONDS, takes=0)

    measure(clock, hands, microseconds=MICROSECONDS + 60_000_000, takes=2 * SECOND)

    assert clock.now() == START + timedelta(seconds=61)


@pytest.mark.parametrize(
    ("seconds", "takes", "is_set_forward"),
    [
        (60.0, 0.0, True),
        (60.0, 59.0, True),  # between its question and its answer
        (60.0, 119.0, False),  # perhaps on its way for nearly all of that
        (0.05, 0.0, False),  # slewed
        (-60.0, 0.0, False),
    ],
)
def test_a_clock_that_was_set_forward_is_told_from_a_slow_answer(
    seconds: float, takes: float, is_set_forward: bool
) -> None:
    hands = Hands()
    clock = StoreClock(hands.monotonic, hands.wall)
    assert not measure(clock, hands, microseconds=MICROSECONDS + 3_600_000_000, takes=0)
    hands.monotonic_now += 10 * SECOND

    now = MICROSECONDS + int((3_610 + seconds) * 1_000_000)
    assert measure(clock, hands, microseconds=now, takes=int(takes * SECOND)) == is_set_forward
