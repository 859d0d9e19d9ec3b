"""A function that ended within its time limit did so, however late the event loop looks at it."""

import logging
import os
import select
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from types import SimpleNamespace

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.handlers import tasks
from tests.handlers.fake_child import END, FakeChild, FakePool, fake_pool
from tests.handlers.support import wait_until
from tests.support import ChildHandle, RunningPool, make_job, running_pool
from trio_jobs import Ending, Outcome
from trio_jobs.handlers.child_log import _line_of
from trio_jobs.handlers.frames import Kind, frame
from trio_jobs.handlers.handler import Handler

LIMIT = 50.0
LATER = 100.0


class SkippingClock(trio.abc.Clock):
    """The system's clock, put forward by a test."""

    def __init__(self) -> None:
        self.skipped = 0.0
        self.read_by_thread = threading.Event()

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        now = perf_counter() + self.skipped
        if threading.current_thread() is not threading.main_thread():
            self.read_by_thread.set()
        return now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


class Held:
    """A plain handler that ends when it may."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self._error = error

    def __call__(self, _payload: object) -> str:
        self.begun.set()
        assert self.may_end.wait(30)
        if self._error is not None:
            raise self._error
        return "done"


def run(
    handler: Handler,
    block: Callable[[RunningPool, str], object],
    *,
    clock: SkippingClock,
    begun: Callable[[], bool],
) -> Ending:
    """The end of a job beside one that blocks the event loop with `block`, when it has begun."""
    ids: list[str] = []
    pools: list[RunningPool] = []

    async def blocking(_payload: object) -> None:
        block(pools[0], ids[0])

    async def main() -> Ending:
        table = {"test": handler, "block": Handler.of(blocking)}
        with trio.fail_after(1000):
            async with running_pool(table, workers=2) as pool:
                pools.append(pool)
                ids.append(pool.submit("test").id)
                await wait_until(begun)
                pool.submit("block")
        ending = pool.parts.store.find_nowait(ids[0]).ending
        assert ending is not None
        return ending

    return trio.run(main, clock=clock)


@pytest.mark.parametrize("place", ["thread", "asyncio"])
@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        (["end", "limit"], Outcome.SUCCEEDED),
        (["fail", "limit"], Outcome.FAILED),
        (["limit", "end"], Outcome.TIMED_OUT),
        (["cancel", "end", "limit"], Outcome.CANCELLED),
        (["end", "limit", "too late to cancel"], Outcome.SUCCEEDED),
    ],
)
def test_of_what_happens_in_another_thread_while_the_loop_is_blocked_the_first_decides(
    events: list[str], outcome: Outcome, place: str
) -> None:
    clock = SkippingClock()
    held = Held(ValueError("no") if "fail" in events else None)

    async def on_asyncio(payload: object) -> str:
        return held(payload)

    def block(pool: RunningPool, job_id: str) -> None:
        for event in events:
            match event:
                case "end" | "fail":
                    held.may_end.set()
                    assert clock.read_by_thread.wait(30)
                case "limit":
                    clock.skipped = LATER
                case _:
                    assert pool.executor.cancel(job_id) is (event == "cancel")

    function = on_asyncio if place == "asyncio" else held
    handler = Handler.of(function, run=place, timeout=LIMIT)
    ending = run(handler, block, clock=clock, begun=held.begun.is_set)

    assert ending.outcome is outcome


def children(pool: RunningPool) -> list[ChildHandle]:
    processes = pool.parts.pool.places.processes
    assert processes is not None
    return [*processes._children]


@pytest.mark.parametrize(
    ("function", "outcome"),
    [
        (tasks.text_when_asked, Outcome.SUCCEEDED),
        (tasks.long_text_when_asked, Outcome.SUCCEEDED),
        (tasks.fail_when_asked, Outcome.FAILED),
    ],
)
def test_a_process_whose_function_ended_in_time_is_not_timed_out(
    function: Callable[..., object],
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: object,
) -> None:
    clock = SkippingClock()
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setattr(
        "trio_jobs.handlers.sent_calls.time", SimpleNamespace(perf_counter=clock.current_time)
    )

    def block(pool: RunningPool, _job_id: str) -> None:
        with open("go", "w"):  # noqa: PTH123
            pass
        [child] = children(pool)
        assert select.select([child._answers], [], [], 30)[0]
        clock.skipped = LATER

    ending = run(
        Handler.of(function, run="process", timeout=LIMIT),
        block,
        clock=clock,
        begun=lambda: os.path.exists("begun"),  # noqa: PTH110
    )

    assert ending.outcome is outcome


LINE = frame(
    Kind.LOG,
    msgspec.json.encode(_line_of(logging.makeLogRecord({"name": "tests", "levelno": 10}), None)),
)


@pytest.mark.parametrize("takes_it", [True, False])
async def test_a_function_begins_when_its_payload_has_been_sent_or_its_process_takes_nothing(
    *, takes_it: bool, autojump_clock: MockClock
) -> None:
    """A time limit ends the second one. Else it would wait for ever, and no line would say so."""
    payload = b"1" * 1_000_000  # more than a pipe holds

    async with fake_pool() as (pool, nursery):
        nursery.start_soon(pool.submit, make_job("a", payload=payload))
        await wait_all_tasks_blocked()
        [child] = pool.children
        assert not pool.running["a"].begun
        if not takes_it:
            await trio.sleep(5)
            await wait_all_tasks_blocked()
            assert pool.running["a"].begun
        for _ in range(20):  # a pipe holds a fifteenth of it
            child.is_sent_more()
            await wait_all_tasks_blocked(0)
        assert pool.running["a"].begun
        assert child.begin() == "a"


@asynccontextmanager
async def running_job() -> AsyncIterator[tuple[FakePool, FakeChild]]:
    """A job that runs in a child, whose answers a test writes."""
    async with fake_pool() as (pool, nursery):
        nursery.start_soon(pool.submit, "a")
        await wait_all_tasks_blocked()
        [child] = pool.children
        assert child.begin() == "a"
        yield pool, child


def cancel(pool: FakePool) -> None:
    scope = pool.running["a"].scope
    assert scope is not None
    scope.cancel()


async def test_what_was_written_before_a_cancel_is_the_answer() -> None:
    async with running_job() as (pool, child):
        os.write(child.answers, LINE * 40 + END + frame(Kind.RESULT, b'"done"'))
        cancel(pool)
        await wait_all_tasks_blocked()

        assert pool.answers == {"a": b'"done"'}
        assert [*pool._children] == [child]


async def test_the_rest_of_an_answer_is_waited_for() -> None:
    whole = END + frame(Kind.RESULT, b'"done"')
    async with running_job() as (pool, child):
        os.write(child.answers, whole[:-3])
        cancel(pool)
        await wait_all_tasks_blocked()
        assert not pool.answers
        os.write(child.answers, whole[-3:])
        await wait_all_tasks_blocked()

        assert pool.answers == {"a": b'"done"'}


async def test_the_rest_of_an_answer_is_waited_for_half_a_second(autojump_clock: MockClock) -> None:
    async with running_job() as (pool, child):
        os.write(child.answers, END)
        cancel(pool)
        await child.gone.wait()

        assert trio.current_time() == 0.5
        assert not pool.answers
        assert not pool._children


@pytest.mark.parametrize("written", [b"", LINE * 40, END[:4]])
async def test_without_an_end_a_cancel_is_acted_on_at_once(
    written: bytes, mock_clock: MockClock
) -> None:
    async with running_job() as (pool, child):
        os.write(child.answers, written)
        cancel(pool)
        await child.gone.wait()

        assert not pool.answers
        assert not pool.running["a"]._ended
