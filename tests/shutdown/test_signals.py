"""The three levels of a stop, and the hard limit: nothing a program does outlasts it."""

from unittest import mock

import pytest
import trio

from tests.support import Clock
from trio_jobs.settings import HttpSettings, PoolSettings
from trio_jobs.shutdown.diagnostics import NoJobs
from trio_jobs.shutdown.stop import Stop

# Far above what any of the programs needs, far below the minute for which they hang.
TOO_LONG = 60


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stop(clock: Clock) -> Stop:
    return Stop(PoolSettings(grace_period=25), HttpSettings(graceful_timeout=2), clock=clock)


class Asked:
    """What a stop has asked of an event loop."""

    def __init__(self, stop: Stop) -> None:
        self.drain = trio.Event()
        self.cancel = trio.Event()
        stop.connect(drain=self.drain.set, cancel=self.cancel.set, report=NoJobs())


async def test_request_asks_for_a_drain(stop: Stop) -> None:
    asked = Asked(stop)
    before = asked.drain.is_set()

    stop.request()

    with trio.fail_after(TOO_LONG):
        await asked.drain.wait()
    assert not before
    assert not asked.cancel.is_set()


def test_limits_leave_the_grace_period_to_a_drain_and_closing_time_to_every_end(
    stop: Stop, clock: Clock
) -> None:
    armed: list[tuple[float, float]] = []

    def arm(*, since: float, seconds: float) -> None:
        armed.append((since, seconds))

    with mock.patch.object(stop._hard_limit, "arm", arm):
        stop.request()
        clock.now += 10
        stop.request()
        stop.arm_after_crash()
        stop.arm_after_crash(draining=True)

    assert armed == [(100, 25 + 2 + 1), (110, 2 + 1), (110, 2 + 1), (110, 25 + 2 + 1)]


def test_repetition_that_does_not_count_does_not_put_off_the_next(stop: Stop, clock: Clock) -> None:
    for _ in range(3):
        stop.request()
        clock.now += 0.15

    assert stop._count == 2  # at 0 and at 0.3


def test_repetition_of_the_second_request_is_no_third(stop: Stop, clock: Clock) -> None:
    for moment in (0, 0.3, 0.4):  # a wrapper forwards the second one, too
        clock.now = 100 + moment
        stop.request()

    assert stop._count == 2


async def test_second_request_asks_for_a_cancel(stop: Stop, clock: Clock) -> None:
    asked = Asked(stop)
    stop.request()
    clock.now += 0.2

    stop.request()

    with trio.fail_after(TOO_LONG):
        await asked.cancel.wait()


async def test_requests_before_trio_runs_count(stop: Stop, clock: Clock) -> None:
    stop.request()
    clock.now += 1
    stop.request()

    asked = Asked(stop)

    assert asked.drain.is_set()
    assert asked.cancel.is_set()


async def test_requests_within_the_window_are_one(stop: Stop, clock: Clock) -> None:
    for _ in range(5):
        stop.request()
        clock.now += 0.04

    asked = Asked(stop)

    assert stop.at == 100
    assert asked.drain.is_set()
    assert not asked.cancel.is_set()


def test_time_of_the_first_request_is_kept(stop: Stop, clock: Clock) -> None:
    assert stop.at is None
    stop.request()
    clock.now += 10

    stop.request()

    assert stop.at == 100


def test_grace_period_begins_at_the_first_request(stop: Stop, clock: Clock) -> None:
    before = stop.grace_left()
    stop.request()
    clock.now += 10

    assert (before, stop.grace_left(), stop.seconds_left()) == (25, 15, 15 + 2 + 4)


async def test_late_stop_has_no_last_moment_to_wait_for(stop: Stop, clock: Clock) -> None:
    stop.request(at=clock() - 28)

    with trio.fail_after(TOO_LONG):
        await stop.wait_grace_over(trio.Event())


def test_request_after_the_run_has_ended_is_no_error(stop: Stop) -> None:
    async def main() -> None:
        Asked(stop)

    trio.run(main)

    stop.request()

    assert stop.at == 100


def test_stop_that_is_not_installed_never_ends_the_process(stop: Stop, clock: Clock) -> None:
    for _ in range(3):
        stop.request()
        clock.now += 1
