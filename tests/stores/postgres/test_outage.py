"""What is told of an outage."""

import logging

import pytest
from trio.testing import MockClock

from trio_jobs.stores.postgres.outage import Outage


async def test_an_outage_is_told_with_each_reason_once_until_all_parts_work(
    caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    outage = Outage(logging.getLogger("test"), "begins", "ends")
    for _ in range(2):
        caplog.clear()
        outage.fails(ValueError("a"), "one")
        mock_clock.jump(2.0)
        outage.fails(ValueError("b"), "other")
        outage.fails(ValueError("a"), "one")
        outage.works("one")
        outage.works("one")
        outage.fails(ValueError("b"), "other")
        mock_clock.jump(1.0)
        outage.works("other")
        outage.works("other")

        assert [record.message for record in caplog.records] == ["begins", "begins", "ends"]
        assert [vars(record)["reason"] for record in caplog.records[:2]] == ["a", "b"]
        assert vars(caplog.records[2])["seconds"] == 3.0


async def test_an_outage_whose_reasons_never_end_is_told_with_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage(logging.getLogger("test"), "begins", "ends", "goes_on")
    for number in range(1_000):
        outage.fails(ValueError(str(number)))
    outage.works()

    told = [record.message for record in caplog.records]
    assert told == ["begins", *["goes_on"] * 19, "ends"]
