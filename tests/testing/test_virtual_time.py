"""Virtual time: the clock jumps while threads and programs wait, and never while they work."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.from_thread import run as run_in_trio  # by name, as many modules have it

from tests.proof.share import scaled
from tests.testing.waiting import ends_of_all, handlers, sleep_in_thread, work
from trio_jobs import Handler, Jobs, Outcome
from trio_jobs.testing.schedules import seeded_schedule
from trio_jobs.testing.virtual_time import VirtualTime

HANDLERS = handlers()
WITH_LIMIT = handlers(timeout=20)


@pytest.mark.trio_jobs(HANDLERS, workers=1)
@pytest.mark.parametrize("type_", HANDLERS)
async def test_job_takes_its_virtual_time(jobs: Jobs, type_: str) -> None:
    assert await jobs.result(jobs.submit(type_, 60).id) == 60
    assert trio.current_time() == 60


@pytest.mark.trio_jobs(WITH_LIMIT, workers=1)
@pytest.mark.parametrize("type_", HANDLERS)
async def test_time_limit_is_virtual(jobs: Jobs, type_: str) -> None:
    in_time = await jobs.wait(jobs.submit(type_, 19.5).id)
    too_late = await jobs.wait(jobs.submit(type_, 21).id)

    assert in_time.ending is not None
    assert in_time.ending.outcome is Outcome.SUCCEEDED
    assert too_late.ending is not None
    assert too_late.ending.outcome is Outcome.TIMED_OUT
    # A worker waits for a thread until it ends, but for a thread of asyncio's executor.
    is_thread = type_ in {"sleep_in_thread", "sleep_in_trio_from_thread", "await_thread_in_trio"}
    assert trio.current_time() == 19.5 + (21 if is_thread else 20)


async def clean_up_in_trio(seconds: float) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(sleep_in_thread, seconds)


async def clean_up_in_asyncio(seconds: float) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(sleep_in_thread, seconds)


CLEAN_UPS = {
    "trio": Handler.of(clean_up_in_trio, timeout=10),
    "asyncio": Handler.of(clean_up_in_asyncio, run="asyncio", timeout=10),
}


@pytest.mark.trio_jobs(CLEAN_UPS, workers=1)
@pytest.mark.parametrize("type_", CLEAN_UPS)
async def test_cleanup_after_a_limit_takes_its_virtual_time(jobs: Jobs, type_: str) -> None:
    job = await jobs.wait(jobs.submit(type_, 3).id)

    assert job.ending is not None
    assert job.ending.outcome is Outcome.TIMED_OUT
    assert trio.current_time() == 13


@pytest.mark.interleavings(5)
@pytest.mark.trio_jobs(HANDLERS, workers=len(HANDLERS))
async def test_jobs_of_all_kinds_wait_at_the_same_time(jobs: Jobs) -> None:
    assert await ends_of_all(jobs) == {type_: 10 * n for n, type_ in enumerate(HANDLERS, 1)}


@pytest.mark.trio_jobs({"sleep": sleep_in_thread}, workers=1)
async def test_end_of_the_pool_leaves_a_sleeping_thread_behind(jobs: Jobs) -> None:
    job = jobs.submit("sleep", 3600)
    with trio.move_on_after(25) as scope:
        await jobs.drain()

    assert scope.cancelled_caught
    assert jobs.get(job.id).ending is None
    assert trio.current_time() == 25


def run(
    function: Callable[..., Awaitable[object]], *args: object, clock: trio.testing.MockClock
) -> None:
    virtual_time = VirtualTime(clock)
    with virtual_time.patched():
        trio.run(function, *args, clock=clock, instruments=[virtual_time])


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


def test_clock_waits_for_a_thread_beside_an_abandoned_one(clock: trio.testing.MockClock) -> None:
    stretches = []

    def work_and_look() -> None:
        before = clock.current_time()
        work()
        stretches.append((before, clock.current_time()))

    async def main() -> None:
        with trio.move_on_after(1):
            await trio.to_thread.run_sync(time.sleep, 3600, abandon_on_cancel=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, work_and_look)
            await trio.sleep(1)

    run(main, clock=clock)

    assert stretches == [(1, 1)]
    assert clock.current_time() == 2


def test_sleep_is_real_elsewhere(
    clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)

    async def nested() -> None:
        time.sleep(3)  # noqa: ASYNC251 - in the event loop's thread

    async def main() -> None:
        time.sleep(1)  # noqa: ASYNC251
        other = threading.Thread(target=time.sleep, args=[2])
        other.start()
        other.join()
        await trio.to_thread.run_sync(trio.run, nested)
        await trio.to_thread.run_sync(time.sleep, 60)

    run(main, clock=clock)
    time.sleep(4)

    assert slept == [1, 2, 3, 4]
    assert clock.current_time() == 60


def test_thread_that_waits_for_another_run_is_at_work(clock: trio.testing.MockClock) -> None:
    async def main() -> None:
        token = trio.lowlevel.current_trio_token()
        stepped = threading.Event()

        async def let_our_run_look() -> None:
            token.run_sync_soon(stepped.set)
            stepped.wait()
            work()

        async def other_run() -> None:
            await trio.to_thread.run_sync(run_in_trio, let_our_run_look)

        def run_the_other() -> None:
            trio.run(other_run)
            assert clock.current_time() == 0

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, run_the_other)
            await trio.sleep(60)

    run(main, clock=clock)

    assert clock.current_time() == 60


def test_clock_that_stands_still_is_left_alone() -> None:
    clock = trio.testing.MockClock()
    reached = []

    async def sleep() -> None:
        await trio.to_thread.run_sync(time.sleep, 60)
        reached.append(trio.current_time())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            while trio.lowlevel.current_statistics().seconds_to_next_deadline > 60:
                await trio.lowlevel.checkpoint()  # the thread tells of its sleep
            assert reached == []
            clock.jump(61)

    run(main, clock=clock)

    assert reached == [61]


def test_threshold_is_restored_when_the_thread_has_ended(clock: trio.testing.MockClock) -> None:
    thresholds = []
    held = threading.Event()

    def look() -> None:
        held.wait()
        thresholds.append(clock.autojump_threshold)

    async def main() -> None:
        clock.autojump_threshold = 0.001
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, look)
            await trio.testing.wait_all_tasks_blocked()  # the step that starts the thread has ended
            held.set()
        await trio.sleep(60)
        thresholds.append(clock.autojump_threshold)

    run(main, clock=clock)

    assert thresholds == [math.inf, 0.001]


@pytest.mark.trio_jobs({})
async def test_cancellation_interrupts_no_sleep_of_a_thread() -> None:
    with trio.move_on_after(5) as scope:
        await trio.to_thread.run_sync(sleep_in_thread, 60)

    assert trio.current_time() == 60
    assert not scope.cancelled_caught


@pytest.mark.trio_jobs({})
async def test_sleep_checks_its_argument() -> None:
    sleep: Callable[[Any], None] = time.sleep
    for wrong, error in ((-1, ValueError), (math.nan, ValueError), ("1", TypeError)):
        with pytest.raises(error):
            await trio.to_thread.run_sync(sleep, wrong)


def time_sleep(seconds: float) -> None:
    time.sleep(seconds)


def sleep_by_trio(seconds: float) -> None:
    run_in_trio(trio.sleep, seconds)


def sleep_in_another_thread(seconds: float) -> None:
    run_in_trio(partial(trio.to_thread.run_sync, time.sleep, seconds, abandon_on_cancel=True))


@dataclass(frozen=True)
class Step:
    """A thread works, and then waits for so many seconds."""

    wait: Callable[[float], object]
    seconds: int


@dataclass(frozen=True)
class Actor:
    """A thread, the time limit of the task that waits for it, and whether it can be abandoned."""

    steps: list[Step]
    limit: float
    can_be_abandoned: bool

    @property
    def end(self) -> float:
        now = 0.0
        for step in self.steps:
            interruptible = self.can_be_abandoned or step.wait is not time_sleep
            if interruptible and now + step.seconds > self.limit:
                return max(now, self.limit)
            now += step.seconds
        return now


STEPS = st.builds(
    Step,
    wait=st.sampled_from([time_sleep, sleep_by_trio, sleep_in_another_thread]),
    seconds=st.integers(0, 9),
)
ACTORS = st.builds(
    Actor,
    steps=st.lists(STEPS, max_size=4),
    limit=st.integers(1, 20).map(lambda n: n + 0.5),
    can_be_abandoned=st.booleans(),
)


@settings(max_examples=scaled(40))
@given(actors=st.lists(ACTORS, min_size=1, max_size=5), seed=st.integers(0, 199))
def test_clock_never_jumps_while_a_thread_works(actors: list[Actor], seed: int) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    jumps = []
    ends: dict[int, float] = {}

    def act(actor: Actor) -> None:
        for step in actor.steps:
            before = clock.current_time()
            work()
            after = clock.current_time()
            if before != after and (before < actor.limit or not actor.can_be_abandoned):
                jumps.append((before, after))
            step.wait(step.seconds)

    async def run_actor(number: int, actor: Actor) -> None:
        with trio.move_on_after(actor.limit):
            await trio.to_thread.run_sync(
                act, actor, abandon_on_cancel=actor.can_be_abandoned, limiter=limiter
            )
        ends[number] = trio.current_time()

    limiter = trio.CapacityLimiter(math.inf)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number, actor in enumerate(actors):
                nursery.start_soon(run_actor, number, actor)

    with seeded_schedule(seed):
        run(main, clock=clock)

    assert jumps == []
    assert ends == {number: actor.end for number, actor in enumerate(actors)}
