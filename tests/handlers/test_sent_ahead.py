"""Jobs that are sent ahead to a child: who begins, who is killed, who goes on elsewhere.

The children are played by the tests, so that each race has one order.
"""

import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.handlers import tasks
from tests.handlers.fake_child import FakeChild, FakePool, fake_pool
from tests.proof.share import scaled
from tests.support import current_job_id, make_job
from trio_jobs import Handler, Job
from trio_jobs.error_text import Failure
from trio_jobs.handlers.child_log import _line_of
from trio_jobs.handlers.frames import Kind, frame
from trio_jobs.handlers.progress_report import ProgressReport
from trio_jobs.handlers.sent_calls import AHEAD_CALLS

# Time stands still, unless a test lets it pass: on a busy machine a child would have too long a job
# while its test takes the next step. Each test takes the clock: `usefixtures` does not run on it.

ALONE = Handler.of(tasks.die, run="process", repeatable=False)


async def warmed_up(pool: FakePool, nursery: trio.Nursery, seconds: float = 0.0001) -> None:
    """Start each child, and let the handler's jobs take so long."""
    for number in range(pool._count):
        nursery.start_soon(pool.submit, f"warm-{number}")
    await wait_all_tasks_blocked()
    for child in pool.children:
        child.begin()
        child.answer(seconds=seconds)
    await wait_all_tasks_blocked()
    pool.answers.clear()
    for child in pool.children:
        child.begun.clear()


async def submit(pool: FakePool, nursery: trio.Nursery, ids: str, **more: Handler) -> None:
    """Submit jobs whose ids are these letters, in order."""
    for each in ids:
        nursery.start_soon(partial(pool.submit, each, **more))
        await wait_all_tasks_blocked()


async def submit_together(pool: FakePool, nursery: trio.Nursery, jobs: Iterable[str | Job]) -> None:
    """Submit jobs while none can be sent, and hand them out together."""
    nursery.start_soon(pool.submit, "alone", ALONE)
    await wait_all_tasks_blocked()
    for job in jobs:
        nursery.start_soon(pool.submit, job)
        await wait_all_tasks_blocked()
    [child] = pool.children
    assert child.begin() == "alone"
    child.answer()
    await wait_all_tasks_blocked()
    child.begun.clear()
    del pool.answers["alone"]


@asynccontextmanager
async def sent_ahead(jobs: str) -> AsyncIterator[tuple[FakePool, FakeChild]]:
    """A pool whose only child has these jobs, and has begun the first."""
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery)
        await submit_together(pool, nursery, jobs)
        [child] = pool.children
        child.begin()
        yield pool, child


async def cancel(pool: FakePool, ids: Iterable[str]) -> None:
    for each in ids:
        scope = pool.running[each].scope
        assert scope is not None
        scope.cancel()
    await wait_all_tasks_blocked()


async def test_jobs_of_a_type_that_has_not_run_wait_for_one_another(mock_clock: MockClock) -> None:
    async with fake_pool() as (pool, nursery):
        await submit(pool, nursery, "abcd")
        [child] = pool.children
        assert child.begin() == "a"
        assert not child.is_sent_more()
        child.answer(seconds=0.0001)
        await wait_all_tasks_blocked()

        assert [child.begin() for _ in "bcd"] == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("seconds", "ahead"), [(0.0001, 10), (0.0015, 3), (0.0025, 2), (0.0026, 1)]
)
async def test_as_many_are_sent_ahead_as_take_five_milliseconds(
    seconds: float, ahead: int, mock_clock: MockClock
) -> None:
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery, seconds)
        await submit_together(pool, nursery, "abcdefghij")
        [child] = pool.children

        sent = 0
        while child.is_sent_more():
            child.begin()
            sent += 1
        assert sent == ahead


async def test_the_number_and_the_bytes_that_are_sent_ahead_are_bounded(
    mock_clock: MockClock,
) -> None:
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery, 0.000001)
        await submit_together(pool, nursery, map(str, range(200)))
        [child] = pool.children
        assert child.calls.live == AHEAD_CALLS
        while len(pool.answers) < 200:
            child.run_all()
            await wait_all_tasks_blocked()
            assert child.calls.live <= AHEAD_CALLS

        # Together they are more than a pipe surely takes.
        await submit_together(pool, nursery, (make_job(a, payload=b"1" * 10_000) for a in "abc"))
        assert child.calls.live == 2


async def test_each_child_gets_its_share(mock_clock: MockClock) -> None:
    async with fake_pool(2) as (pool, nursery):
        await warmed_up(pool, nursery)
        for number in range(20):
            nursery.start_soon(pool.submit, str(number))
        await wait_all_tasks_blocked()

        assert abs(pool.children[0].calls.live - pool.children[1].calls.live) <= 1


@pytest.mark.parametrize("why", ["not repeatable", "interrupted before"])
async def test_such_jobs_are_never_in_a_child_with_others(why: str, mock_clock: MockClock) -> None:
    handler = Handler.of(tasks.pid, run="process", repeatable=False)
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery)
        await submit(pool, nursery, "a")
        if why == "not repeatable":
            nursery.start_soon(pool.submit, "b", handler)
        else:
            nursery.start_soon(pool.submit, replace(make_job("b"), interruptions=1))
        await wait_all_tasks_blocked()  # it is before c
        await submit(pool, nursery, "c")
        [child] = pool.children

        assert child.begin() == "a"
        assert not child.is_sent_more()
        child.answer()
        await wait_all_tasks_blocked()
        assert child.begin() == "b"
        assert not child.is_sent_more()
        child.answer()
        await wait_all_tasks_blocked()
        assert child.begin() == "c"


async def test_a_cancelled_job_that_waits_in_a_child_never_begins_and_disturbs_nobody(
    mock_clock: MockClock,
) -> None:
    async with sent_ahead("abc") as (pool, child):
        await cancel(pool, "b")
        child.answer()
        child.run_all()
        await wait_all_tasks_blocked()

        assert child.begun == ["a", "c"]
        assert pool.answers == {"a": b"1", "c": b"1"}
        assert pool.children == [child]
        assert not pool.running["b"].begun


async def test_a_kill_hits_only_what_runs_and_those_behind_it_run_elsewhere(
    mock_clock: MockClock,
) -> None:
    async with sent_ahead("abcd") as (pool, child):
        await cancel(pool, "a")
        [_, other] = pool.children
        other.run_all()
        await wait_all_tasks_blocked()

        assert child.gone.is_set()
        assert child.begun == ["a"]
        assert other.begun == ["b", "c", "d"]
        assert pool.answers == dict.fromkeys("bcd", b"1")


async def test_nobody_is_killed_if_the_cancelled_job_has_ended_as_the_cancel_comes(
    mock_clock: MockClock,
) -> None:
    async with sent_ahead("abcd") as (pool, child):
        child.answer(b"2")
        child.begin()  # b runs; c and d are forbidden for a moment, and b is let alone
        await cancel(pool, "a")
        child.answer()
        child.run_all()
        await wait_all_tasks_blocked()
        child.run_all()
        await wait_all_tasks_blocked()

        assert pool.children == [child]
        assert child.begun == ["a", "b", "c", "d"]
        assert pool.answers == {"a": b"2", **dict.fromkeys("bcd", b"1")}


async def test_a_job_that_has_begun_unseen_as_its_cancel_comes_is_killed(
    mock_clock: MockClock,
) -> None:
    async with sent_ahead("abc") as (pool, child):
        child.answer()
        child.begin()  # the server has not read the answer before
        await cancel(pool, "b")
        [_, other] = pool.children
        other.run_all()
        await wait_all_tasks_blocked()

        assert child.gone.is_set()
        assert (child.begun, other.begun) == (["a", "b"], ["c"])
        assert pool.answers == {"a": b"1", "c": b"1"}


async def test_a_job_that_is_skipped_for_its_neighbours_sake_runs_all_the_same(
    mock_clock: MockClock,
) -> None:
    async with sent_ahead("abc") as (pool, child):
        child.answer()
        taken = child.calls.take_back()  # b is forbidden now, and the first one
        pool._queue.put_back(taken)
        assert child.begin() is None
        await wait_all_tasks_blocked()
        child.run_all()
        await wait_all_tasks_blocked()
        child.run_all()
        await wait_all_tasks_blocked()

        assert sorted(child.begun) == ["a", "b", "c"]
        assert sorted(pool.answers) == ["a", "b", "c"]


@given(random=st.random_module())
@settings(max_examples=scaled(10), deadline=None)
def test_a_cancel_of_a_job_that_is_skipped_lets_the_next_one_alone(random: object) -> None:
    async def main() -> None:
        async with fake_pool() as (pool, nursery):
            await warmed_up(pool, nursery)
            await submit_together(pool, nursery, "ab")
            [child] = pool.children
            child.begin()
            child.answer()
            assert child.calls.take_back() == []  # b is forbidden now, and the first one
            await submit(pool, nursery, "c")
            assert child.begin() is None
            child.begin()  # the server has not read that b was skipped
            await cancel(pool, "b")
            child.answer()
            await wait_all_tasks_blocked()

            assert pool.children == [child]
            assert child.begun == ["a", "c"]
            assert pool.answers == {"a": b"1", "c": b"1"}

    trio.run(main, clock=MockClock())


async def test_a_child_that_dies_fails_the_job_it_has_begun_and_no_other(
    mock_clock: MockClock,
) -> None:
    async with sent_ahead("abcd") as (pool, child):
        child.answer()
        child.begin()
        child.die()
        await child.gone.wait()
        await wait_all_tasks_blocked()
        [_, other] = pool.children
        other.run_all()
        await wait_all_tasks_blocked()

        assert other.begun == ["c", "d"]
        failure = pool.answers.pop("b")
        assert isinstance(failure, Failure)
        assert failure.type == "ProcessDiedError"
        assert pool.answers == dict.fromkeys("acd", b"1")


async def test_a_child_that_dies_between_two_jobs_fails_none(mock_clock: MockClock) -> None:
    mock_clock.autojump_threshold = 0
    async with sent_ahead("abc") as (pool, child):
        child.answer()
        child.die()
        await child.gone.wait()
        assert not pool.running["b"].begun
        await wait_all_tasks_blocked()
        [_, other] = pool.children
        other.run_all()
        await trio.sleep(1)  # b has waited for a moment
        other.run_all()
        await wait_all_tasks_blocked()

        assert sorted(other.begun) == ["b", "c"]
        assert pool.answers == dict.fromkeys("abc", b"1")


async def test_a_child_that_answers_what_nobody_asked_is_ended_and_fails_one_job(
    mock_clock: MockClock,
) -> None:
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery)
        await submit(pool, nursery, "ab")
        [child] = pool.children
        child.begin()
        os.write(child.answers, frame(Kind.CALL, b"{}"))
        await child.gone.wait()
        await wait_all_tasks_blocked()
        pool.children[1].run_all()
        await wait_all_tasks_blocked()

        failure = pool.answers.pop("a")
        assert isinstance(failure, Failure)
        assert "gave no answer that can be understood" in failure.message
        assert pool.answers == {"b": b"1"}


async def test_a_child_that_writes_nonsense_begins_no_job_that_runs_elsewhere(
    mock_clock: MockClock,
) -> None:
    """It goes on until it has been killed, and no answer behind the nonsense can be read."""
    async with sent_ahead("abcd") as (pool, child):
        os.write(child.answers, frame(Kind.CALL, b"{}"))
        child.answer()
        child.begin()
        child.group.before_kill = child.begin  # c
        await child.gone.wait()
        await wait_all_tasks_blocked()
        [_, other] = pool.children
        other.run_all()
        await wait_all_tasks_blocked()

        assert (child.begun, other.begun) == (["a", "b", "c"], ["d"])
        assert pool.answers.pop("d") == b"1"
        assert {*pool.answers} == {"a", "b", "c"}
        assert all(isinstance(answer, Failure) for answer in pool.answers.values())


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="all pipes are alike")
async def test_all_that_a_pipe_holds_is_read_before_a_job_is_taken_back(
    mock_clock: MockClock,
) -> None:
    """A page has 16 or 64 KiB on some systems, and a pipe has 16 pages."""
    record = logging.makeLogRecord({"name": "tests", "levelno": 10, "msg": "x" * 2_000})
    line = frame(Kind.LOG, msgspec.json.encode(_line_of(record, None)))
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery)
        await submit_together(pool, nursery, "abc")
        [child] = pool.children
        fcntl.fcntl(child.answers, fcntl.F_SETPIPE_SZ, 1 << 18)
        child.begin()
        os.write(child.answers, line * 40)
        child.answer()
        child.begin()
        taken = child.calls.take_back()

        assert [call.running.job.id for call in taken] == ["c"]
        pool._queue.put_back(taken)


async def test_a_time_limit_counts_from_the_answer_before(mock_clock: MockClock) -> None:
    limited = Handler.of(tasks.pid, run="process", timeout=10)
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery)
        await submit(pool, nursery, "a")
        await submit(pool, nursery, "b", handler=limited)
        [child] = pool.children
        running = pool.running["b"]
        child.begin()
        mock_clock.jump(0.01)  # not so long that b is taken back
        assert not running.begun
        child.answer()
        await wait_all_tasks_blocked()

        assert running.begun
        assert running.scope is not None
        assert running.scope.deadline == pytest.approx(trio.current_time() + 10, abs=1)


async def test_a_limit_that_passes_kills_the_one_that_runs(mock_clock: MockClock) -> None:
    mock_clock.autojump_threshold = 0
    limited = Handler.of(tasks.pid, run="process", timeout=10)
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery)
        await submit(pool, nursery, "a", handler=limited)
        [child] = pool.children
        child.begin()
        await child.gone.wait()

        assert trio.current_time() == pytest.approx(10, abs=0.1)
        assert not pool.answers


async def test_those_behind_a_job_that_gets_long_go_to_another_child(
    mock_clock: MockClock,
) -> None:
    mock_clock.autojump_threshold = 0
    async with fake_pool(2) as (pool, nursery):
        await warmed_up(pool, nursery)
        for each in "abcdef":
            nursery.start_soon(pool.submit, each)
        await wait_all_tasks_blocked()
        long, short = pool.children
        long_id = long.begin()
        short.run_all()
        await trio.sleep(0.03)
        assert long.calls.live == 1
        while short.is_sent_more():
            short.run_all()
            await wait_all_tasks_blocked()

        assert sorted([str(long_id), *short.begun]) == [*"abcdef"]
        assert len(pool.answers) == 5
        long.answer()
        long.run_all()  # it skips what was taken back
        await wait_all_tasks_blocked()
        assert long.begun == [long_id]
        assert len(pool.answers) == 6


async def test_nothing_is_sent_behind_a_long_job(mock_clock: MockClock) -> None:
    mock_clock.autojump_threshold = 0
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery)
        await submit(pool, nursery, "a")
        [child] = pool.children
        child.begin()
        await trio.sleep(0.03)
        await submit(pool, nursery, "b")

        assert not child.is_sent_more()


@pytest.mark.parametrize("number", [1, 70])
async def test_a_child_that_is_stopped_does_not_hold_cancelled_jobs(
    number: int, mock_clock: MockClock
) -> None:
    """It takes no job, as after a SIGSTOP; it is killed, and does not fill up."""
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery)
        for each in range(number):
            nursery.start_soon(pool.submit, str(each))
        await wait_all_tasks_blocked()
        for each in range(number):
            await cancel(pool, [str(each)])
        await submit(pool, nursery, "z")
        pool.children[-1].run_all()
        await wait_all_tasks_blocked()

        assert pool.children[0].gone.is_set()
        assert pool.answers == {"z": b"1"}


async def test_lines_and_reports_belong_to_the_job_that_runs(mock_clock: MockClock) -> None:
    seen: list[str | None] = []

    class Sees(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(current_job_id.get())

    handler = Sees()
    logger = logging.getLogger("trio_jobs.child_process")
    logger.addHandler(handler)
    record = logging.makeLogRecord({"name": "tests", "levelno": 30, "levelname": "WARNING"})
    line = frame(Kind.LOG, msgspec.json.encode(_line_of(record, None)))
    report = frame(Kind.PROGRESS, msgspec.json.encode(ProgressReport(1, 2, "b's")))
    try:
        async with fake_pool() as (pool, nursery):
            await warmed_up(pool, nursery)
            await submit(pool, nursery, "ab")
            [child] = pool.children
            child.begin()
            os.write(child.answers, line)
            child.answer()
            child.begin()
            os.write(child.answers, line + report)
            await wait_all_tasks_blocked()
            assert pool.running["a"].progress is None
            assert pool.running["b"].progress is not None
    finally:
        logger.removeHandler(handler)

    assert seen == ["a", "b"]


async def test_the_end_of_the_pool_cuts_off_one_job_a_child_and_the_others_have_not_begun(
    mock_clock: MockClock,
) -> None:
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery)
        await submit_together(pool, nursery, "abc")
        [child] = pool.children
        child.begin()
        nursery.cancel_scope.cancel()

    assert [pool.running[each].begun for each in "abc"] == [True, False, False]
    assert child.gone.is_set()
    assert not pool.answers


async def test_a_job_that_fails_in_front_of_others_fails_alone(mock_clock: MockClock) -> None:
    async with fake_pool() as (pool, nursery):
        await warmed_up(pool, nursery)
        await submit(pool, nursery, "ab")
        [child] = pool.children
        child.begin()
        child.fail()
        child.run_all()
        await wait_all_tasks_blocked()

        assert isinstance(pool.answers["a"], Failure)
        assert pool.answers["b"] == b"1"


class Model:
    """Jobs in a pool of children that do what chance wants; and what must hold all the while."""

    def __init__(self, pool: FakePool, nursery: trio.Nursery, chance: Random) -> None:
        self.pool = pool
        self.nursery = nursery
        self.chance = chance
        self.submitted: list[str] = []
        self.cancelled: set[str] = set()
        self.died: set[str] = set()

    async def step(self) -> None:
        alive = [each for each in self.pool.children if not each.gone.is_set()]
        child = self.chance.choice(alive) if alive else None
        match self.chance.randrange(9):
            case 0 | 1 | 2:
                for _ in range(self.chance.randrange(1, 6)):
                    self.submitted.append(str(len(self.submitted)))
                    self.nursery.start_soon(self.pool.submit, self.submitted[-1])
            case 3 if self.submitted:
                self.cancel(self.chance.choice(self.submitted))
            case 4 if child is not None and self.chance.randrange(4) == 0:
                if child.runs is not None:
                    self.died.add(child.runs)
                child.die()
            case _ if child is not None and not child.is_dead:
                for _ in range(self.chance.randrange(1, 8)):
                    child.do_one_step()
        if self.chance.randrange(3):
            await wait_all_tasks_blocked()
            self.check()

    def cancel(self, job_id: str) -> None:
        running = self.pool.running.get(job_id)
        if running is not None and running.scope is not None and job_id not in self.pool.answers:
            self.cancelled.add(job_id)
            running.scope.cancel()

    def check(self) -> None:
        begun = [job_id for child in self.pool.children for job_id in child.begun]
        assert len(begun) == len({*begun})  # none begins twice
        for job_id, answer in self.pool.answers.items():
            if isinstance(answer, Failure):
                assert job_id in self.died  # none fails but the one in which a child died
        for child in self.pool.children:
            assert len(child.calls) <= 2 * AHEAD_CALLS
            # A child is killed for the one job that runs in it.
            if child.gone.is_set() and not child.is_dead:
                assert {*child.begun[-1:]} <= self.cancelled | {*self.pool.answers}

    async def end(self) -> None:
        """Let all jobs that are left run."""
        for _ in range(100):
            if len({*self.pool.answers} | self.cancelled) == len(self.submitted):
                break
            for child in self.pool.children:
                while not child.is_dead and not child.gone.is_set() and child.do_one_step():
                    pass
            await trio.sleep(0.2)  # longer than a job pauses whose child has died
            self.check()
        assert {*self.pool.answers} | self.cancelled == {*self.submitted}


@settings(max_examples=scaled(30), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_each_job_runs_once_whatever_happens_to_the_others(seed: int) -> None:
    async def main() -> None:
        async with fake_pool(2) as (pool, nursery):
            model = Model(pool, nursery, Random(seed))  # noqa: S311 - not a secret
            await warmed_up(pool, nursery)
            for _ in range(40):
                await model.step()
            await model.end()

    trio.run(main, clock=MockClock(autojump_threshold=0))
