"""`max_running`: no type holds up the others, and no held job is overtaken or lost."""

import logging
import math
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.proof.share import scaled
from tests.support import At, make_parts
from trio_jobs import (
    Handler,
    Job,
    Jobs,
    JobStatus,
    Outcome,
    QueueFullError,
    RetryPolicy,
    ShuttingDownError,
    Snooze,
    open_jobs,
)
from trio_jobs.handlers.importing import HandlerError
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.pool.job_spec import JobSpec


class Runs:
    """A handler that notes its payloads in the order in which they begin."""

    def __init__(self) -> None:
        self.begun: list[object] = []
        self.running = self.most = 0

    async def __call__(self, payload: Any) -> float:  # noqa: ANN401  (any JSON)
        self.begun.append(payload)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(3)
        finally:
            self.running -= 1
        return trio.current_time()


async def quick(_: object) -> float:
    await trio.sleep(0.01)
    return trio.current_time()


def limited(
    function: Callable[..., object], max_running: int = 1, retry: RetryPolicy | None = None
) -> Handler:
    return Handler.of(function, max_running=max_running, retry=retry)


async def submit_in_order(jobs: Jobs, type: str, number: int) -> list[Job]:  # noqa: A002
    """Submit jobs, each when the workers have come to the one before.

    Otherwise several workers begin the jobs of one turn in any order.
    """
    some = []
    for n in range(number):
        some.append(jobs.submit(type, n))
        await wait_all_tasks_blocked()
    return some


async def completed_at(jobs: Jobs, job: Job) -> float:
    return float(await jobs.result(job.id))


async def test_slow_type_does_not_hold_up_a_quick_one(autojump_clock: MockClock) -> None:
    slow = Runs()
    async with open_jobs({"slow": limited(slow), "quick": quick}, workers=2) as jobs:
        four = await submit_in_order(jobs, "slow", 4)
        one = jobs.submit("quick")

        assert await completed_at(jobs, one) == 0.01
        assert jobs.statistics().waiting == 3
        assert [await completed_at(jobs, job) for job in four] == [3, 6, 9, 12]
    assert slow.begun == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("buffer_size", [1, 3])
@pytest.mark.parametrize("max_running", [1, 2, 9])
async def test_jobs_of_a_type_begin_in_order_within_their_limit(
    workers: int, buffer_size: int, max_running: int, autojump_clock: MockClock
) -> None:
    slow = Runs()
    handlers = {"slow": limited(slow, max_running), "quick": quick}
    async with open_jobs(handlers, workers=workers, buffer_size=buffer_size) as jobs:
        for n in range(12):
            await jobs.submit_when_possible("slow", n)
            await wait_all_tasks_blocked()
            await jobs.submit_when_possible("quick")
    if 1 in (workers, max_running):
        assert slow.begun == list(range(12))
    assert set(slow.begun) == set(range(12))
    assert len(slow.begun) == 12
    assert slow.most == min(workers, max_running)


@settings(max_examples=scaled(30), deadline=None)
@given(random=st.randoms(use_true_random=False), schedule=st.random_module())
def test_every_job_runs_once_whatever_is_cancelled_and_postponed(
    random: Any,  # noqa: ANN401
    schedule: object,
) -> None:
    ran: list[int] = []
    running = 0

    async def slow(n: int) -> None:
        nonlocal running
        running += 1
        assert running <= 2
        try:
            await trio.sleep(random.random())
        finally:
            running -= 1
        if n not in ran:
            ran.append(n)
            if n % 3 == 0:
                raise Snooze(random.random())
            if n % 3 == 1:
                raise ValueError

    async def run() -> None:
        policy = RetryPolicy(attempts=2, base=1)
        async with open_jobs(
            {"slow": limited(slow, 2, policy), "quick": quick}, workers=4, buffer_size=3
        ) as jobs:
            all_jobs = []
            for n in range(20):
                all_jobs.append(await jobs.submit_when_possible("slow", n))
                await jobs.submit_when_possible("quick")
                if random.random() < 0.3:
                    job = random.choice(all_jobs)
                    if jobs.get(job.id).status is not JobStatus.COMPLETED:
                        jobs.cancel(job.id)
            if random.random() < 0.5:
                for job in all_jobs:
                    await jobs.wait(job.id)
                assert jobs.statistics().waiting == 0
        for job in jobs.page():
            # What waits for a time when the block ends is left, and named. Nothing else is.
            assert job.status is JobStatus.COMPLETED or job.waiting or job.cancel_requested

    trio.run(run, clock=MockClock(autojump_threshold=0))


async def test_drain_runs_the_held_jobs(autojump_clock: MockClock) -> None:
    slow = Runs()
    async with open_jobs({"slow": limited(slow), "quick": quick}, workers=3) as jobs:
        *_, held = await submit_in_order(jobs, "slow", 5)
        jobs.submit("quick")
        await trio.sleep(1)
        await jobs.drain()
        for type_ in ("slow", "quick"):
            with pytest.raises(ShuttingDownError):
                jobs.submit(type_)
            with pytest.raises(ShuttingDownError):
                jobs.submit_all([(type_, 1)])
            with pytest.raises(ShuttingDownError):
                await jobs.submit_when_possible(type_)
        assert jobs.get(held.id).outcome is Outcome.SUCCEEDED
    assert len(slow.begun) == 5
    assert trio.current_time() == 15


async def test_drain_that_begins_while_all_are_buffered_runs_them(
    autojump_clock: MockClock,
) -> None:
    slow = Runs()
    async with open_jobs({"slow": limited(slow)}, workers=2) as jobs:
        jobs.submit_all([("slow", n) for n in range(6)])
    assert sorted(slow.begun, key=str) == list(range(6))


async def test_drain_ends_without_waiting_for_a_retry(autojump_clock: MockClock) -> None:
    async def fails(_: object) -> None:
        await trio.sleep(1)
        raise ValueError

    policy = RetryPolicy(attempts=3, base=100)
    async with open_jobs({"slow": limited(fails, 1, policy)}, workers=2) as jobs:
        some = jobs.submit_all([("slow", n) for n in range(3)])
        await trio.sleep(0.5)
    assert trio.current_time() == 3
    assert [jobs.get(job.id).attempts for job in some] == [1, 1, 1]


async def test_held_job_is_cancelled_at_once(autojump_clock: MockClock) -> None:
    slow = Runs()
    async with open_jobs({"slow": limited(slow)}, workers=2) as jobs:
        first, second, third = await submit_in_order(jobs, "slow", 3)
        await trio.sleep(1)
        jobs.cancel(second.id)

        assert (await jobs.wait(second.id)).outcome is Outcome.CANCELLED
        assert trio.current_time() == 1
        assert await completed_at(jobs, first) == 3
        assert await completed_at(jobs, third) == 6
    assert slow.begun == [0, 2]


async def test_held_job_that_is_cancelled_in_the_drain_does_not_run(
    autojump_clock: MockClock,
) -> None:
    slow = Runs()
    async with open_jobs({"slow": limited(slow)}, workers=2) as jobs:
        *_, last = await submit_in_order(jobs, "slow", 3)
        await trio.sleep(1)
        with trio.move_on_after(1):
            await jobs.drain()
        jobs.cancel(last.id)
    assert jobs.get(last.id).outcome is Outcome.CANCELLED
    assert slow.begun == [0, 1]


@pytest.mark.parametrize("full", [False, True])
async def test_held_job_whose_cancel_meets_the_drain_completes(
    autojump_clock: MockClock, full: bool
) -> None:
    slow = Runs()
    handlers = {"slow": limited(slow), "other": Runs()}
    async with open_jobs(handlers, workers=2, buffer_size=1) as jobs:
        *_, last = await submit_in_order(jobs, "slow", 2)
        for _ in range(2 * full):  # one with a worker, and the whole buffer
            jobs.submit("other")
        await wait_all_tasks_blocked()
        jobs.cancel(last.id)
        if full:
            await wait_all_tasks_blocked()  # due, and waits for a slot
        await jobs.drain()
        assert jobs.get(last.id).outcome is Outcome.CANCELLED
        assert jobs.unfinished() == ([], [])
    assert slow.begun == [0]


async def test_job_that_got_the_place_and_is_cancelled_passes_it_on(
    autojump_clock: MockClock,
) -> None:
    slow = Runs()
    async with open_jobs({"slow": limited(slow), "other": Runs()}, workers=2) as jobs:
        first, second, third = await submit_in_order(jobs, "slow", 3)
        for _ in range(3):
            jobs.submit("other")
            await trio.sleep(1)
        # One runs from 0 s on, two wait. At 3 s the second job gets the place, and is behind them.
        await jobs.wait(first.id)
        assert jobs.get(second.id).status is JobStatus.PENDING
        jobs.cancel(second.id)
        await jobs.wait(third.id)
    assert jobs.get(second.id).outcome is Outcome.CANCELLED
    assert slow.begun == [0, 2]


async def test_postponed_job_frees_its_place(autojump_clock: MockClock) -> None:
    begun: list[tuple[int, float]] = []

    async def snoozes(n: int) -> None:
        begun.append((n, trio.current_time()))
        await trio.sleep(1)
        if n == 0 and len(begun) == 1:
            raise Snooze(1.5)

    async with open_jobs({"slow": limited(snoozes)}, workers=2) as jobs:
        for job in await submit_in_order(jobs, "slow", 3):
            await jobs.wait(job.id)
    assert begun == [(0, 0), (1, 1), (2, 2), (0, 3)]


async def test_types_without_an_entry_share_the_limit_of_default(
    autojump_clock: MockClock,
) -> None:
    runs, own = Runs(), Runs()
    async with open_jobs({"default": limited(runs), "own": own}, workers=4) as jobs:
        for type_ in ("a", "b", "default", "own", "own"):
            jobs.submit(type_)
    assert (runs.most, own.most) == (1, 2)
    assert trio.current_time() == 9


async def test_held_jobs_beyond_max_waiting_are_refused_and_others_are_not(
    autojump_clock: MockClock,
) -> None:
    handlers = {"slow": limited(Runs()), "quick": quick}
    async with open_jobs(handlers, workers=2, max_waiting=2) as jobs:
        for n in range(3):
            jobs.submit("slow", n)
        await wait_all_tasks_blocked()
        kept = len(jobs.page())

        with pytest.raises(QueueFullError, match="too many jobs wait for others of their type"):
            jobs.submit("slow")
        with pytest.raises(QueueFullError):
            jobs.submit_all([("quick", 1), ("slow", 1)])
        with pytest.raises(QueueFullError):
            await jobs.submit_when_possible("slow")
        assert len(jobs.page()) == kept
        specs = [JobSpec("quick", b"1"), JobSpec("slow", b"1"), JobSpec("quick", b"1")]
        admission = jobs._pool.admission
        assert [job.type for job in await admission.admit_up_to(specs)] == ["quick"]
        assert [job.type for job in admission.admit_up_to_nowait(specs)] == ["quick"]
        with pytest.raises(QueueFullError):
            admission.admit_up_to_nowait(specs[1:])

        jobs.submit("quick")
        await trio.sleep(4)  # one of them has ended, another one has its place
        jobs.submit("slow")


async def test_jobs_that_are_in_the_buffer_are_held_beyond_max_waiting(
    autojump_clock: MockClock,
) -> None:
    slow = Runs()
    handlers = {"slow": limited(slow), "quick": quick}
    async with open_jobs(handlers, workers=2, buffer_size=5, max_waiting=2) as jobs:
        jobs.submit_all([("slow", n) for n in range(5)])
        await wait_all_tasks_blocked()
        assert jobs.statistics().waiting == 4
        for delay in (None, 1):
            with pytest.raises(QueueFullError):
                jobs.submit("slow", delay=delay)
        assert await jobs.result(jobs.submit("quick").id) < 1
    assert len(slow.begun) == 5


async def test_without_waiting_room_a_type_below_its_limit_is_taken(
    autojump_clock: MockClock,
) -> None:
    async with open_jobs({"slow": limited(Runs())}, workers=2, max_waiting=0) as jobs:
        jobs.submit("slow")
        await wait_all_tasks_blocked()
        with pytest.raises(QueueFullError):
            jobs.submit("slow")
        await trio.sleep(4)
        jobs.submit("slow")


async def test_cancelled_pool_names_the_held_jobs(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.WARNING)
    with trio.move_on_after(4):
        async with open_jobs({"slow": limited(Runs())}, workers=2) as jobs:
            some = [job.id for job in await submit_in_order(jobs, "slow", 4)]
    assert jobs.unfinished() == ([some[1]], some[2:])
    assert [record.message for record in caplog.records] == [
        "jobs_interrupted",
        "jobs_not_started",
    ]


async def test_functions_in_threads_have_a_limit() -> None:
    running: list[int] = []

    def slow(_: object) -> None:
        running.append(1)
        assert len(running) == 1
        time.sleep(0.002)  # a plain function: it blocks its thread alone
        running.pop()

    with trio.fail_after(60):
        async with open_jobs({"slow": limited(slow)}, workers=4) as jobs:
            some = jobs.submit_all([("slow", n) for n in range(10)])
    assert {jobs.get(job.id).outcome for job in some} == {Outcome.SUCCEEDED}


async def test_cancelled_jobs_do_not_pile_up(autojump_clock: MockClock) -> None:
    async with open_jobs({"slow": limited(Runs()), "quick": quick}, workers=2) as jobs:
        jobs.submit("slow")
        limits = jobs._pool.workers.moves
        for _ in range(300):
            job = jobs.submit("slow")
            await wait_all_tasks_blocked()
            jobs.cancel(job.id)
            await jobs.wait(job.id)
        assert len(limits._limits["slow"].held) <= 66  # type: ignore[attr-defined]
        assert jobs.statistics().waiting == 0


async def test_pool_without_a_limit_does_not_look_at_types() -> None:
    async with open_jobs({"quick": quick}) as jobs:
        assert jobs._pool.workers.moves is jobs._pool.store


@pytest.mark.parametrize("number", [0, -1, True, False, 1.0, math.nan, "1", [1]])
def test_limit_that_is_no_number_of_jobs_is_refused(number: Any) -> None:  # noqa: ANN401
    with pytest.raises(HandlerError) as refusal:
        Handler.of(quick, max_running=number)
    assert str(refusal.value) == f"must have a max_running of 1 or more, got {number!r}"


async def steps_of_a_pool(step: int, how: Callable[[Jobs, trio.CancelScope], None]) -> int:
    """Close or cancel a pool with held jobs at this step; return how many steps there were."""
    slow = Runs()
    pool: list[Jobs] = []
    accepted: list[str] = []

    def act() -> None:
        for jobs in pool:
            how(jobs, scope)

    with trio.CancelScope() as scope, At(step, act) as at:
        async with open_jobs(
            {"slow": limited(slow), "quick": quick}, workers=2, buffer_size=2
        ) as jobs:
            pool.append(jobs)
            with suppress(ShuttingDownError):
                for n in range(10):
                    job = await jobs.submit_when_possible(("slow", "quick")[n % 2], n)
                    accepted.append(job.id)
    begun, not_begun = jobs.unfinished()
    completed = [job.id for job in jobs.page() if job.status is JobStatus.COMPLETED]
    assert sorted([*begun, *not_begun, *completed]) == accepted
    assert slow.most <= 1
    assert len(set(slow.begun)) == len(slow.begun)
    if not scope.cancelled_caught:
        assert completed == accepted
    return at.steps


@pytest.mark.parametrize(
    "how",
    [
        lambda jobs, _scope: jobs._pool.admission.close(),
        lambda _jobs, scope: scope.cancel(),
    ],
    ids=["close", "cancel"],
)
def test_close_and_cancel_at_every_step_lose_no_job(
    how: Callable[[Jobs, trio.CancelScope], None],
) -> None:
    def run(step: int) -> int:
        return trio.run(steps_of_a_pool, step, how, clock=MockClock(autojump_threshold=0))

    for step in range(1, run(0) + 1):
        run(step)


async def test_held_job_costs_at_most_200_bytes_beside_its_record() -> None:
    parts = make_parts(HandlerRegistry({"slow": limited(quick)}), workers=1, buffer_size=10_001)
    jobs = parts.admission.submit_all([JobSpec("slow", b"1")] * 10_001)
    first, *others = [parts.receive.receive_nowait() for _ in jobs]
    parts.workers.claim(first)
    limits = parts.pool.workers.moves

    tracemalloc.start()
    try:
        for job_id in others:
            assert limits.claim(job_id) is None
        size, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert parts.pool.statistics().waiting == len(others)
    assert size / len(others) <= 200
