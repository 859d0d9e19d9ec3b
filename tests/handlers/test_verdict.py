"""The first of handler's end, cancel and time limit decides, once."""

import trio
from trio.testing import MockClock

from tests.handlers.support import message_of
from tests.support import make_job
from trio_jobs.handlers.running_job import CANCELLED, RunningJob
from trio_jobs.job import Outcome


def running_job(*, timeout: float | None = None) -> RunningJob:
    running = RunningJob(make_job("a"))
    running.scope = trio.CancelScope()
    running.start_clock(timeout)
    return running


async def test_an_end_that_is_first_leaves_the_outcome_to_the_handler() -> None:
    assert running_job(timeout=1).end() is None


async def test_a_cancel_that_is_first_decides(mock_clock: MockClock) -> None:
    running = running_job(timeout=1)

    assert running.cancel()
    mock_clock.jump(2)

    assert running.end() is CANCELLED


async def test_a_time_limit_that_is_first_decides(mock_clock: MockClock) -> None:
    running = running_job(timeout=1.5)
    mock_clock.jump(1.5)

    ending = running.end()

    assert ending is not None
    assert ending.outcome is Outcome.TIMED_OUT
    assert message_of(ending) == "the time limit of 1.5 s passed"


async def test_a_cancel_after_the_time_limit_decides_nothing(mock_clock: MockClock) -> None:
    running = running_job(timeout=1)
    mock_clock.jump(1)

    assert not running.cancel()

    ending = running.end()
    assert ending is not None
    assert ending.outcome is Outcome.TIMED_OUT


async def test_a_cancel_after_the_end_decides_nothing() -> None:
    running = running_job()
    running.end()

    assert not running.cancel()
    assert running.end() is None


async def test_a_time_limit_after_the_end_decides_nothing(mock_clock: MockClock) -> None:
    running = running_job(timeout=1)
    running.end()

    mock_clock.jump(2)

    assert running.end() is None


async def test_an_end_before_the_time_limit_is_in_time_whenever_it_is_known(
    mock_clock: MockClock,
) -> None:
    running = running_job(timeout=1)
    mock_clock.jump(2)

    assert not running.cancel()  # either was first
    assert running.end(0.9) is None
    assert running.end() is None
    assert not running.cancel()


async def test_an_end_at_the_time_limit_is_late(mock_clock: MockClock) -> None:
    running = running_job(timeout=1)
    mock_clock.jump(2)

    ending = running.end(1)

    assert ending is not None
    assert ending.outcome is Outcome.TIMED_OUT


async def test_an_end_in_time_goes_over_no_cancel(mock_clock: MockClock) -> None:
    running = running_job(timeout=1)

    assert running.cancel()
    mock_clock.jump(2)

    assert running.end(0.9) is CANCELLED


async def test_a_second_cancel_says_the_same_as_the_first() -> None:
    running = running_job()

    assert running.cancel()
    assert running.cancel()


async def test_a_cancel_cancels_the_scope() -> None:
    running = running_job()
    assert running.scope is not None

    running.cancel()

    assert running.scope.cancel_called


async def test_the_time_limit_is_the_scopes_deadline(mock_clock: MockClock) -> None:
    mock_clock.jump(10)

    running = running_job(timeout=5)

    assert running.scope is not None
    assert running.scope.deadline == trio.current_time() + 5


async def test_the_time_limit_counts_from_the_start_of_the_clock(mock_clock: MockClock) -> None:
    running = RunningJob(make_job("a"))
    mock_clock.jump(100)  # waited for a process

    running.start_clock(1)

    assert running.end() is None
