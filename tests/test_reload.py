"""The signals that end nothing, and the reload that one of them asks for."""

import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from math import inf

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support import current_job_id
from trio_jobs import LogFormatter, open_jobs
from trio_jobs.reload import run_reloads
from trio_jobs.shutdown.other_signals import OtherSignals
from trio_jobs.shutdown.signals import ENDING, HARMLESS, RELOADING, STOPPING

PATIENCE = 60.0
HANGUP = signal.SIGHUP


class Part:
    """A part to reload. Its thread waits where a test asks for it."""

    def __init__(self, *, fails: Exception | None = None, waits: bool = False) -> None:
        self.fails = fails
        self.read_in: list[threading.Thread] = []
        self.placed_in: list[threading.Thread] = []
        self.begun = trio.Event()
        self.may_end = threading.Event()
        if not waits:
            self.may_end.set()

    def read(self) -> Callable[[], object]:
        self.read_in.append(threading.current_thread())
        trio.from_thread.run_sync(self.begun.set)
        assert self.may_end.wait(PATIENCE)
        if self.fails is not None:
            raise self.fails
        return lambda: self.placed_in.append(threading.current_thread())


class Lines(logging.Handler):
    """The log's lines, without their times, for a task to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._send, self._receive = trio.open_memory_channel[str](inf)
        self.setFormatter(LogFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self._send.send_nowait(self.format(record).partition(" ")[2])

    async def next(self) -> str:
        with trio.fail_after(PATIENCE):
            return await self._receive.receive()


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines = Lines()
    log = logging.getLogger("trio_jobs")
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(lines)
    yield lines
    log.removeHandler(lines)
    log.setLevel(before)


@asynccontextmanager
async def reloading(**parts: Part) -> AsyncIterator[OtherSignals]:
    """Reloads these at each signal; ends with the block."""
    signals = OtherSignals()
    async with trio.open_nursery() as nursery:
        read = {name: part.read for name, part in parts.items()}
        nursery.start_soon(run_reloads, signals, read)
        yield signals
        nursery.cancel_scope.cancel()


async def test_files_are_read_in_a_thread_and_placed_in_the_event_loop(lines: Lines) -> None:
    tokens, certificate = Part(), Part()

    async with reloading(tokens=tokens, certificate=certificate) as signals:
        signals.handle(HANGUP)
        line = await lines.next()

    assert line == "INFO trio_jobs.reload reloaded what=tokens,certificate"
    for part in (tokens, certificate):
        assert len(part.read_in) == 1
        assert part.placed_in == [threading.main_thread()]
        assert threading.main_thread() not in part.read_in


async def test_part_that_is_bad_stays_as_it_is_and_the_others_are_reloaded(lines: Lines) -> None:
    bad, good = Part(fails=ValueError("cannot read 'a.pem'")), Part()

    async with reloading(bad=bad, good=good) as signals:
        signals.handle(HANGUP)
        first, second = await lines.next(), await lines.next()
        bad.fails = None
        signals.handle(HANGUP)
        third = await lines.next()

    assert first == "ERROR trio_jobs.reload reload_failed what=bad reason=\"cannot read 'a.pem'\""
    assert second == "INFO trio_jobs.reload reloaded what=good"
    assert third == "INFO trio_jobs.reload reloaded what=bad,good"
    assert (len(bad.placed_in), len(good.placed_in)) == (1, 2)


async def test_any_other_error_ends_neither_the_reload_nor_the_next(lines: Lines) -> None:
    part = Part(fails=RuntimeError("can't start new thread"))

    async with reloading(part=part) as signals:
        signals.handle(HANGUP)
        first, second = await lines.next(), await lines.next()
        part.fails = None
        signals.handle(HANGUP)
        third = await lines.next()

    assert first.startswith('ERROR trio_jobs.reload reload_failed what=part reason="RuntimeError(')
    assert "in read" in first  # a traceback, since it is a bug
    assert second == "INFO trio_jobs.reload reloaded what=nothing"
    assert third == "INFO trio_jobs.reload reloaded what=part"


async def test_signals_during_a_reload_mean_once_more(lines: Lines) -> None:
    part = Part(waits=True)

    async with reloading(part=part) as signals:
        signals.handle(HANGUP)
        await part.begun.wait()
        for _ in range(3):
            signals.handle(HANGUP)
        part.may_end.set()
        await lines.next()
        await lines.next()
        await wait_all_tasks_blocked()

        assert len(part.placed_in) == 2


async def test_signals_before_the_event_loop_runs_count_as_one(lines: Lines) -> None:
    part = Part()
    signals = OtherSignals()
    signals.handle(HANGUP)
    thread = threading.Thread(target=signals.handle, args=[HANGUP])
    thread.start()
    thread.join()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_reloads, signals, {"part": part.read})
        await lines.next()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert len(part.placed_in) == 1


async def test_signal_is_noted_in_a_thread_and_in_a_signal_handler(lines: Lines) -> None:
    part = Part()

    async with reloading(part=part) as signals:
        await wait_all_tasks_blocked()
        await trio.to_thread.run_sync(signals.handle, HANGUP)
        await lines.next()
        before = signal.signal(HANGUP, lambda signum, _: signals.handle(signum))
        try:
            signal.raise_signal(HANGUP)
            await lines.next()
        finally:
            signal.signal(HANGUP, before)

    assert len(part.placed_in) == 2


async def test_stop_waits_for_no_file_that_hangs() -> None:
    part = Part(waits=True)

    with trio.fail_after(PATIENCE / 2):
        async with reloading(part=part) as signals:
            signals.handle(HANGUP)
            await part.begun.wait()
    part.may_end.set()

    assert not part.placed_in


def test_signal_after_the_event_loop_has_ended_is_no_error() -> None:
    signals = OtherSignals()

    async def main() -> None:
        with trio.move_on_after(0):
            await signals.wait_reload()

    trio.run(main)

    signals.handle(HANGUP)


def test_each_signal_without_effect_has_one_line_that_is_about_no_job(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = OtherSignals()
    monkeypatch.setattr(caplog.handler, "formatter", LogFormatter())
    token = current_job_id.set("a-job")
    try:
        for signum in [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM] * 2:
            signals.handle(signum)
    finally:
        current_job_id.reset(token)

    found = [line.partition(" WARNING trio_jobs.shutdown.")[2] for line in caplog.text.splitlines()]
    assert found == [
        f"other_signals signal_ignored signal={name}" for name in ("SIGUSR1", "SIGUSR2", "SIGALRM")
    ]


async def test_pool_in_another_program_leaves_its_signals_alone() -> None:
    signals = (*STOPPING, RELOADING, *ENDING, *HARMLESS)
    before = [signal.getsignal(each) for each in signals]

    async with open_jobs({"quick": quick}) as jobs:
        jobs.asgi()
        during = [signal.getsignal(each) for each in signals]

    assert before == during == [signal.getsignal(each) for each in signals]


async def quick(payload: object) -> object:
    return payload
