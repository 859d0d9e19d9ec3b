"""`delay` and `run_at`: what is no time is refused by name, and nothing is kept."""

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from tests.support import NOON
from trio_jobs import PayloadError
from trio_jobs.api.due import check_due
from trio_jobs.job import MAX_DELAY

SECONDS = "a number of seconds from 0 to 315619200 (ten years)"


@pytest.mark.parametrize(
    "delay",
    [
        math.nan,
        math.inf,
        -math.inf,
        -0.001,
        -1,
        MAX_DELAY + 1,
        10**400,
        True,
        False,
        "5",
        b"6",
        Decimal(5),
        timedelta(seconds=5),
        [5],
    ],
)
@pytest.mark.parametrize("root", ["", "$."])
def test_what_is_no_delay_is_refused_by_name(delay: object, root: str) -> None:
    with pytest.raises(PayloadError) as caught:
        check_due(delay, None, now=NOON, root=root)

    assert str(caught.value).startswith(f"{root}delay must be {SECONDS}, got ")


@pytest.mark.parametrize(
    "run_at",
    [
        NOON.replace(tzinfo=None),
        NOON.date(),
        "2026-12-01T08:00:00Z",
        1_800_000_000,
        1.5,
        True,
    ],
)
def test_what_is_no_time_with_a_zone_is_refused_by_name(run_at: object) -> None:
    with pytest.raises(PayloadError, match=r"^run_at must be a time with a time zone, got ."):
        check_due(None, run_at, now=NOON)


@pytest.mark.parametrize(
    "run_at",
    [
        NOON + timedelta(seconds=MAX_DELAY, microseconds=1),
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))),
    ],
)
def test_time_beyond_ten_years_is_refused(run_at: datetime) -> None:
    with pytest.raises(PayloadError, match=r"^\$\.run_at must be within ten years, got "):
        check_due(None, run_at, now=NOON, root="$.")


def test_both_are_refused() -> None:
    with pytest.raises(PayloadError, match=r"^\$\.delay and \$\.run_at exclude each other$"):
        check_due(5, NOON, now=NOON, root="$.")


@pytest.mark.parametrize(
    ("delay", "run_at"),
    [
        (None, None),
        (0, None),
        (-0.0, None),
        (None, NOON),
        (None, NOON - timedelta(days=9999)),
        (None, datetime.min.replace(tzinfo=UTC)),
        (None, datetime.min.replace(tzinfo=timezone(timedelta(hours=23)))),
    ],
)
def test_past_time_and_no_time_are_now(delay: float | None, run_at: datetime | None) -> None:
    assert check_due(delay, run_at, now=NOON) is None


def test_delay_is_seconds_and_a_time_is_in_utc() -> None:
    assert check_due(30, None, now=NOON) == 30.0
    assert check_due(MAX_DELAY, None, now=NOON) == MAX_DELAY
    assert check_due(5e-324, None, now=NOON) == 5e-324

    for zone in (ZoneInfo("America/New_York"), timezone(timedelta(hours=14)), UTC):
        due = check_due(None, (NOON + timedelta(hours=1)).astimezone(zone), now=NOON)
        assert due == NOON + timedelta(hours=1)
        assert isinstance(due, datetime)
        assert due.tzinfo is UTC
