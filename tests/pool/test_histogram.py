"""Histograms: percentiles near the true ones, exact counts up to each power of two."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_jobs.pool.histogram import Histogram
from trio_jobs.pool.type_counts import RecentDurations

# From a nanosecond to thirty years, and none at all.
some_duration = (
    st.just(0.0)
    | st.floats(1e-9, 1e9)
    | st.floats(-29.0, 29.0).map(lambda exponent: 2.0**exponent)
    | st.integers(-20, 20).map(lambda exponent: 2.0**exponent)
)
some_durations = st.lists(some_duration, min_size=1, max_size=60)


def of(*lists: list[float]) -> Histogram:
    histogram = Histogram()
    for durations in lists:
        histogram.add(durations)
    return histogram


def true_percentile(durations: list[float], share: float) -> float:
    """The smallest duration that at least this share of them does not exceed."""
    return sorted(durations)[max(math.ceil(share * len(durations)), 1) - 1]


@given(some_durations, st.lists(st.floats(0, 1), min_size=1, max_size=4).map(sorted))
@example([0.0], [0.5])
@example([2.0**-20, 2.0**-21], [0.5, 1])
def test_percentiles_are_within_3_point_2_percent_and_within_what_was_seen(
    durations: list[float], shares: list[float]
) -> None:
    found = of(durations).percentiles(*shares)

    for share, percentile in zip(shares, found, strict=True):
        assert percentile is not None
        assert percentile == pytest.approx(true_percentile(durations, share), rel=0.032, abs=1e-6)
        assert min(durations) <= percentile <= max(durations)


def test_jobs_that_end_at_their_limit_show_the_limit() -> None:
    assert of([20.0] * 3).percentiles(0.5, 0.95) == [20.0, 20.0]


def test_histogram_of_nothing_has_no_percentiles() -> None:
    assert Histogram().percentiles(0.5, 0.95) == [None, None]
    assert Histogram().up_to([-1, 0]) == [0, 0]


@given(some_durations, st.lists(st.integers(-20, 24), max_size=50).map(sorted))
@example([1.0, 2.0, 2.0000001], [0, 1, 2])
def test_counts_up_to_powers_of_two_are_exact(durations: list[float], exponents: list[int]) -> None:
    histogram = of(durations)

    assert histogram.up_to(exponents) == [
        sum(duration <= 2.0**exponent for duration in durations) for exponent in exponents
    ]
    assert histogram.count == len(durations)
    assert histogram.seconds == pytest.approx(sum(durations))
    assert (histogram.least, histogram.greatest) == (min(durations), max(durations))


@given(some_durations, some_durations)
def test_merged_histogram_is_that_of_all_durations(some: list[float], others: list[float]) -> None:
    merged, together = of(some), of(some, others)

    merged.merge(of(others))

    assert merged.percentiles(0.1, 0.5, 0.99) == together.percentiles(0.1, 0.5, 0.99)
    assert merged.up_to(range(-20, 20)) == together.up_to(range(-20, 20))
    assert merged.seconds == pytest.approx(together.seconds)


def test_percentiles_are_those_of_two_windows_and_all_durations_stay() -> None:
    recent = RecentDurations()
    recent.windows[0].add([1.0])
    assert recent.percentiles() == [1.0, 1.0]

    recent.turn()
    recent.windows[0].add([3.0])
    assert recent.percentiles() == [1.0, pytest.approx(3.0, rel=0.032)]
    recent.turn()
    assert recent.percentiles() == [3.0, 3.0]
    recent.turn()
    assert recent.percentiles() == [None, None]

    assert (recent.all().count, recent.all().seconds) == (2, 4.0)
