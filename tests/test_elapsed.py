"""`elapsed_clock`: differences are those of Trio's clock, whichever it is."""

import time

import pytest
import trio
from trio.testing import MockClock

from trio_jobs.elapsed import elapsed_clock


def test_with_trios_own_clock_no_method_is_called() -> None:
    async def clock() -> object:
        return elapsed_clock()

    assert trio.run(clock) is time.perf_counter


async def test_another_clock_is_asked_itself(mock_clock: MockClock) -> None:
    now = elapsed_clock()
    began = now()

    mock_clock.jump(7)

    assert now() - began == pytest.approx(7)
