"""Ctrl-C once, twice, three times; SIGTERM and SIGHUP; copies; signals of before and of others."""

import os
import signal
from collections.abc import Iterator

import pytest

from trio_jobs.commands.run.stop_signals import StopSignals
from trio_jobs.shutdown.stop import REPEAT_WINDOW_SECONDS


class Stop:
    """Signals to a `StopSignals`, a second apart."""

    def __init__(self) -> None:
        self.now = 0.0
        self.left_with: list[int] = []
        self.levels: list[int] = []
        self.signals = StopSignals(leave=self.left_with.append, clock=lambda: self.now)
        self.signals.take()
        self.signals.connect(lambda: self.levels.append(self.signals.level))

    def get(self, *signums: int, seconds: float = 1.0) -> None:
        for signum in signums:
            self.now += seconds
            signal.raise_signal(signum)


@pytest.fixture
def stop() -> Iterator[Stop]:
    before = {each: signal.getsignal(each) for each in (2, 15, 1)}
    yield Stop()
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_ctrl_c_stops_then_cancels_then_leaves(stop: Stop) -> None:
    stop.get(signal.SIGINT, signal.SIGINT)
    assert (stop.levels, stop.left_with) == ([1, 2], [])

    stop.get(signal.SIGINT)

    assert stop.left_with == [130]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_sigterm_and_sighup_stop_and_hasten_nothing(stop: Stop, signum: int, status: int) -> None:
    stop.get(signum, signum, signal.SIGTERM, signal.SIGHUP)

    assert (stop.levels, stop.signals.status) == ([1], status)

    stop.get(signal.SIGINT)
    assert (stop.levels, stop.signals.status) == ([1, 2], status)


def test_sigterm_after_ctrl_c_takes_nothing_back(stop: Stop) -> None:
    stop.get(signal.SIGINT, signal.SIGINT, signal.SIGTERM)

    assert (stop.levels, stop.signals.level, stop.signals.status) == ([1, 2], 2, 130)


def test_copy_of_a_ctrl_c_does_not_count(stop: Stop) -> None:
    stop.get(signal.SIGINT, signal.SIGINT, seconds=REPEAT_WINDOW_SECONDS / 2)

    assert stop.levels == [1]


def test_signal_from_before_the_connection_counts(stop: Stop) -> None:
    signals = StopSignals()
    signals.take()
    os.kill(os.getpid(), signal.SIGTERM)
    levels: list[int] = []

    signals.connect(lambda: levels.append(signals.level))

    assert levels == [1]


def test_ignored_signal_stays_ignored_and_a_taken_one_comes_back(stop: Stop) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a handler's module may

    stop.signals.take()
    stop.get(signal.SIGHUP)

    assert stop.levels == []
    stop.get(signal.SIGINT)
    assert stop.levels == [1]
