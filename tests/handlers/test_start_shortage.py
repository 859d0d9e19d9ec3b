"""Jobs that cannot begin for the server's sake wait: what wakes and reaches them."""

import logging
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.durable import ONCE, make_durable_parts, start_pool
from tests.handlers import tasks
from tests.handlers.support import wait_for_pids
from tests.support import running_pool
from trio_jobs import Ending, JobStatus, Outcome
from trio_jobs.handlers.child_handle import ChildHandle
from trio_jobs.handlers.handler import Handler
from trio_jobs.handlers.start_shortage import ShortageError, StartShortage
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.unfinished import unfinished_lines


@dataclass
class Attempts:
    """An attempt that fails so often; when it was made."""

    failing: float
    cause: str = "nothing left"

    def __post_init__(self) -> None:
        self.times: list[float] = []
        self._start = trio.current_time()

    async def __call__(self) -> str:
        self.times.append(trio.current_time() - self._start)
        await trio.lowlevel.checkpoint()
        if len(self.times) <= self.failing:
            raise ShortageError(self.cause)
        return "begun"


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("jobs_")]


async def test_what_is_there_is_neither_waited_for_nor_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shortage = StartShortage()

    assert await shortage.outlast(Attempts(failing=0)) == "begun"

    assert (shortage.cause, events(caplog)) == (None, [])


async def test_it_is_tried_again_after_growing_pauses(autojump_clock: MockClock) -> None:
    attempt = Attempts(failing=9)

    assert await StartShortage().outlast(attempt) == "begun"

    pauses = [b - a for a, b in zip(attempt.times, attempt.times[1:], strict=False)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5])


async def test_what_comes_free_wakes_the_jobs_at_once(autojump_clock: MockClock) -> None:
    shortage = StartShortage()
    attempts = [Attempts(failing=1) for _ in range(3)]

    async with trio.open_nursery() as nursery:
        for attempt in attempts:
            nursery.start_soon(shortage.outlast, attempt)
        await wait_all_tasks_blocked()
        shortage.note_change()

    assert [attempt.times for attempt in attempts] == [[0, 0]] * 3


async def test_what_comes_free_during_an_attempt_has_the_next_one_made_at_once(
    autojump_clock: MockClock,
) -> None:
    shortage = StartShortage()
    attempt = Attempts(failing=2)

    async def too_early() -> str:
        try:
            return await attempt()
        finally:
            shortage.note_change()

    assert await shortage.outlast(too_early) == "begun"

    assert attempt.times == [0, 0, 0]


async def test_the_cause_is_logged_once_and_shown_as_long_as_a_job_waits(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shortage = StartShortage()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shortage.outlast, Attempts(failing=5, cause="first"))
        nursery.start_soon(shortage.outlast, Attempts(failing=7, cause="first"))
        await trio.sleep(5)  # one has begun
        assert shortage.cause == "first"

    assert shortage.cause is None
    assert events(caplog) == ["jobs_blocked"]
    assert vars(caplog.records[0])["reason"] == "first"


async def test_jobs_that_wait_in_turn_are_one_shortage_and_what_ends_after_it_tells(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shortage = StartShortage()

    for _ in range(90):  # as with enough for every second job
        await shortage.outlast(Attempts(failing=1))
        await shortage.outlast(Attempts(failing=0))
        shortage.note_change()
    during = events(caplog)
    await trio.sleep(5)
    shortage.note_change()
    await shortage.outlast(Attempts(failing=1))
    await trio.sleep(5)
    await shortage.outlast(Attempts(failing=1))

    assert during == ["jobs_blocked"]
    assert events(caplog) == ["jobs_blocked", "jobs_unblocked"] * 2 + ["jobs_blocked"]


async def test_each_new_cause_is_shown_and_logged_once_and_not_without_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    shortage = StartShortage()
    attempt = Attempts(failing=math.inf, cause="0")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shortage.outlast, attempt)
        for n in [0, 1, 0, 2, *range(30)]:
            attempt.cause = str(n)
            await trio.sleep(6)
            assert shortage.cause == str(n)
        nursery.cancel_scope.cancel()

    causes = [vars(record)["reason"] for record in caplog.records]
    assert causes == [str(n) for n in range(20)]


async def test_an_attempt_that_fails_otherwise_is_not_repeated() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await StartShortage().outlast(fail)


class NoThreads:
    """Stands for `trio.to_thread.run_sync` where no thread can be started, until it can."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, while_starting: Any = None) -> None:  # noqa: ANN401
        self.tries = 0
        self.left = math.inf
        self._while_starting = while_starting
        self._run_sync = trio.to_thread.run_sync
        monkeypatch.setattr("trio.to_thread.run_sync", self)

    async def __call__(self, *args: Any, **kwargs: Any) -> object:  # noqa: ANN401
        self.tries += 1
        await trio.lowlevel.checkpoint()
        if self.left > 0:
            self.left -= 1
            if self._while_starting is not None:
                self._while_starting()
            raise RuntimeError("can't start new thread")
        return await self._run_sync(*args, **kwargs)


def returns(_payload: object) -> str:
    return "returned"


async def waits_until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a stand-in has no event
        await trio.sleep(0.001)


async def test_a_job_that_gets_no_thread_waits_in_its_worker_and_its_limit_does_not_pass(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    threads = NoThreads(monkeypatch)

    async with running_pool({"test": Handler.of(returns, timeout=1000)}, workers=1) as pool:
        job = pool.submit("test")
        await waits_until(lambda: threads.tries > 2)
        mock_clock.jump(1001)
        await wait_all_tasks_blocked()
        shown, status = pool.parts.store.find_nowait(job.id), pool.parts.pool.statistics()
        threads.left = 0

    assert shown.status is JobStatus.PROCESSING
    assert status.blocked == "no thread can be started: can't start new thread"
    assert pool.ending(job) == Ending(outcome=Outcome.SUCCEEDED, result=b'"returned"')
    assert pool.blocked is None


async def test_a_job_whose_thread_runs_at_last_is_shown_as_blocked_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = NoThreads(monkeypatch)
    begun, end = threading.Event(), threading.Event()

    def work(_payload: object) -> None:
        begun.set()
        end.wait()

    async with running_pool({"test": work}, workers=1) as pool:
        pool.submit("test")
        await waits_until(lambda: pool.blocked is not None)
        threads.left = 0
        await waits_until(begun.is_set)
        blocked = pool.blocked
        end.set()

    assert blocked is None


async def test_a_cancel_that_comes_while_a_thread_cannot_be_started_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = []

    async with running_pool({"test": Handler.of(returns, timeout=60)}, workers=1) as pool:
        job = pool.submit("test")
        cancel = partial(pool.executor.cancel, job.id)
        NoThreads(monkeypatch, while_starting=lambda: said.append(cancel()))

    ending = pool.ending(job)
    assert ending is not None
    assert (said, ending.outcome) == ([True], Outcome.CANCELLED)


async def test_a_job_that_gets_no_thread_is_reported_as_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    NoThreads(monkeypatch)

    async with running_pool({"test": returns}, workers=1) as pool:
        waiting = pool.submit("test")
        queued = pool.submit("test")
        await wait_all_tasks_blocked()
        while_waiting = pool.parts.pool.unfinished().ids
        pool.scope.cancel()

    assert while_waiting == ([], [waiting.id, queued.id])
    assert [*unfinished_lines(pool.parts.pool.unfinished())] == [
        ("jobs_not_started", {"job_type": "test", "job_ids": f"{waiting.id},{queued.id}"})
    ]


async def test_a_job_that_may_not_run_twice_is_pending_again_if_it_gets_no_thread_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = NoThreads(monkeypatch)
    parts = make_durable_parts({ONCE: Handler.of(returns, repeatable=False)}, workers=1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        async with trio.open_nursery() as pool:
            start_pool(parts, pool)
            job = await parts.admission.admit(JobSpec(ONCE, b"null"))
            await waits_until(lambda: threads.tries > 1)
            parts.admission.close()
            claimed = parts.in_file(job.id)
            pool.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert claimed is not None
    assert claimed.status is JobStatus.PROCESSING
    assert parts.in_file(job.id) == job
    assert not parts.pool.left_behind()
    assert parts.pool.kept == 1


async def test_a_job_that_may_not_run_twice_ends_as_interrupted_if_its_thread_goes_on() -> None:
    begun, end = threading.Event(), threading.Event()

    def work(_payload: object) -> None:
        begun.set()
        end.wait()

    parts = make_durable_parts({ONCE: Handler.of(work, repeatable=False)}, workers=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        async with trio.open_nursery() as pool:
            start_pool(parts, pool)
            job = await parts.admission.admit(JobSpec(ONCE, b"null"))
            await waits_until(begun.is_set)
            pool.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    end.set()

    ended = parts.in_file(job.id)
    assert ended is not None
    assert ended.outcome is Outcome.INTERRUPTED
    assert [each.id for each in parts.pool.left_behind().begun] == [job.id]


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause never ends: only what ends in this process wakes a job."""
    for pause in ("_SHORTEST_PAUSE", "_LONGEST_PAUSE"):
        monkeypatch.setattr(f"trio_jobs.handlers.start_shortage.{pause}", math.inf)


class Descriptors:
    """Stands for descriptors that a process needs, and a handler holds until it ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = True
        self.tries = 0
        spawn = ChildHandle.spawn

        def spawn_if_free(child: ChildHandle, *, folder: int | None) -> None:
            self.tries += 1
            if self.held:
                raise OSError(24, "Too many open files")
            spawn(child, folder=folder)

        monkeypatch.setattr(ChildHandle, "spawn", spawn_if_free)

    def handlers(self) -> dict[str, Handler]:
        self.end_async = trio.Event()
        self.end_thread = threading.Event()

        async def hold(_payload: object) -> None:
            await self.end_async.wait()
            self.held = False

        def hold_in_thread(_payload: object) -> None:
            self.end_thread.wait()
            self.held = False

        return {
            "async": Handler.of(hold),
            "thread": Handler.of(hold_in_thread),
            "process": Handler.of(tasks.pid, run="process"),
        }

    def end(self) -> None:
        self.end_async.set()
        self.end_thread.set()


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("held_by", ["async", "thread"])
async def test_the_end_of_a_job_wakes_those_that_wait_for_what_it_has_held(
    held_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = Descriptors(monkeypatch)

    async with running_pool(descriptors.handlers(), workers=3) as pool:
        pool.submit(held_by)
        await wait_all_tasks_blocked()
        jobs = [pool.submit("process") for _ in range(2)]
        await waits_until(lambda: pool.blocked is not None)
        await wait_all_tasks_blocked(0.05)
        assert descriptors.tries == 1  # the second one waits for the first: there is one slot
        descriptors.end()

    assert {pool.outcome(job) for job in jobs} == {Outcome.SUCCEEDED}


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("dies", [False, True])
async def test_the_end_of_a_jobs_process_or_its_death_wakes_one_that_waits(
    *, dies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = Descriptors(monkeypatch)
    descriptors.held = False
    table = descriptors.handlers() | {"wait": Handler.of(tasks.enter_and_wait, run="process")}

    async with running_pool(table, workers=2, processes=2) as pool:
        pool.submit("wait", f'"{tmp_path}"'.encode())
        [pid] = await wait_for_pids(tmp_path)
        descriptors.held = True
        job = pool.submit("process")
        await waits_until(lambda: pool.blocked is not None)
        if dies:
            descriptors.held = False
            os.kill(pid, signal.SIGKILL)
        else:
            (tmp_path / "go").touch()

    ending = pool.ending(job)
    assert ending is not None
    assert ending.outcome is Outcome.SUCCEEDED
    assert (ending.result == str(pid).encode()) is not dies


@pytest.mark.usefixtures("no_pause")
async def test_jobs_that_wait_for_a_process_do_not_wake_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    descriptors = Descriptors(monkeypatch)

    async with running_pool(descriptors.handlers(), workers=3, processes=3) as pool:
        for _ in range(3):
            pool.submit("process")
        await waits_until(lambda: descriptors.tries >= 3)
        await wait_all_tasks_blocked(0.1)
        tries = descriptors.tries
        pool.scope.cancel()

    assert tries == 3
