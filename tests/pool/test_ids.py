"""Ids: valid UUIDv7s, each greater than the one before, whatever the clock does."""

import itertools
import time
from collections.abc import Iterable
from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from trio_jobs.pool.ids import Uuid7

NOW = 1_764_000_000_000
LAST = 2**48 - 2**16


def source(readings: Iterable[int]) -> Uuid7:
    """Ids made at these times, in milliseconds."""
    return Uuid7((reading * 1_000_000 + 999_999 for reading in readings).__next__)


def timestamp(job_id: str) -> int:
    return UUID(job_id).int >> 80


def test_id_is_a_uuid_of_version_7_in_its_canonical_text() -> None:
    job_id = Uuid7()()

    assert str(UUID(job_id)) == job_id
    assert UUID(job_id).version == 7
    assert UUID(job_id).variant == RFC_4122


def test_id_begins_with_the_milliseconds_since_1970() -> None:
    before = time.time_ns() // 1_000_000
    of_the_wall_clock = timestamp(Uuid7()())
    after = time.time_ns() // 1_000_000

    assert before <= of_the_wall_clock <= after
    assert timestamp(source([NOW])()) == NOW


@given(st.lists(st.integers(0, LAST), min_size=2, max_size=50))
def test_ids_increase_whatever_the_clock_reads(readings: list[int]) -> None:
    new_id = source(readings)

    ids = [new_id() for _ in readings]

    assert ids == sorted(set(ids))
    assert [UUID(each).int for each in ids] == sorted(UUID(each).int for each in ids)
    assert {UUID(each).version for each in ids} == {7}
    assert {UUID(each).variant for each in ids} == {RFC_4122}
    assert [timestamp(each) for each in ids] == list(itertools.accumulate(readings, max))


def test_ids_of_one_millisecond_count_up_by_one() -> None:
    new_id = source([NOW] * 1000)

    counters = [counter(new_id()) for _ in range(1000)]

    assert counters == list(range(counters[0], counters[0] + 1000))


def test_upper_half_of_the_counter_goes_on_where_the_lower_is_used_up() -> None:
    new_id = source(itertools.repeat(NOW))

    ids = [new_id() for _ in range(2 * 2**16)]

    assert [counter(each) - counter(ids[0]) for each in ids] == list(range(2 * 2**16))
    assert {timestamp(each) for each in ids} == {NOW}


def test_counter_that_is_used_up_moves_the_timestamp_ahead_of_the_clock() -> None:
    lower = 2**16
    new_id = source([NOW] * (lower + 3) + [NOW + 1, NOW + 2])
    first = new_id()
    new_id._counter = 2**28 - lower - 1  # the next one is the first of the last upper half
    ids = [new_id() for _ in range(lower)]

    next_one, same_one, same_as_well, caught_up = (new_id() for _ in range(4))

    assert [counter(each) for each in ids] == list(range(2**28 - lower, 2**28))
    times = [timestamp(each) - NOW for each in (ids[-1], next_one, same_one, same_as_well)]
    assert times == [0, 1, 1, 1]
    assert timestamp(caught_up) == NOW + 2
    assert first < ids[-1] < next_one < same_one < same_as_well < caught_up


def test_new_millisecond_leaves_the_counter_room_for_two_to_the_27() -> None:
    new_id = source(range(NOW, NOW + 500))

    assert max(counter(new_id()) for _ in range(500)) < 2**27


def test_sources_do_not_repeat_each_other() -> None:
    sources = [source([NOW] * 10) for _ in range(100)]

    assert len({new_id() for new_id in sources for _ in range(10)}) == 1000


def counter(job_id: str) -> int:
    return UUID(job_id).int >> 32 & 0xFFF_FFFF


def test_ids_are_greater_than_those_of_the_source_before_although_the_clock_was_set_back() -> None:
    before = Uuid7(lambda: 2_000_000_000_000_000_000)
    last = [before() for _ in range(3)][-1]

    after = Uuid7(lambda: 1_000_000_000_000_000_000, after=last)

    ids = [after() for _ in range(100)]
    assert [last, *ids] == sorted({last, *ids})
