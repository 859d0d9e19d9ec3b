"""Virtual time on asyncio: the clock jumps while tasks wait, and never while they work."""

import asyncio
import pickle
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proof.share import scaled
from tests.testing.waiting import await_timeout_in_asyncio, handlers, work
from trio_jobs import Handler, Jobs, Outcome, open_jobs
from trio_jobs.testing.schedules import seeded_schedule
from trio_jobs.testing.virtual_time import VirtualTime

HANDLERS = {name: each for name, each in handlers().items() if each.run == "asyncio"}


@pytest.mark.trio_jobs(HANDLERS, workers=1)
@pytest.mark.parametrize("type_", HANDLERS)
async def test_job_takes_its_time_where_times_are_coarse(jobs: Jobs, type_: str) -> None:
    start = 1e8 + 0.1  # here two times differ by more than the resolution of the system's clock
    await trio.sleep(start)

    assert await jobs.result(jobs.submit(type_, 60.3).id) == pytest.approx(60.3)
    assert trio.current_time() == pytest.approx(start + 60.3)


@pytest.mark.trio_jobs({"sleep": HANDLERS["sleep_in_asyncio"]}, workers=1)
async def test_cancel_of_a_sleeping_job_takes_no_time(jobs: Jobs) -> None:
    job = jobs.submit("sleep", 3600)
    await trio.sleep(60)
    jobs.cancel(job.id)
    job = await jobs.wait(job.id)

    assert job.ending is not None
    assert job.ending.outcome is Outcome.CANCELLED
    assert trio.current_time() == 60


@pytest.mark.trio_jobs({"sleep": HANDLERS["sleep_in_asyncio"]}, workers=1)
async def test_clock_that_stands_still_moves_asyncio_when_it_is_moved(
    jobs: Jobs, mock_clock: trio.testing.MockClock
) -> None:
    job = jobs.submit("sleep", 60)
    await wait_until_asyncio_waits(60)
    with trio.move_on_after(59.5):
        mock_clock.jump(59.6)
        await jobs.wait(job.id)
    assert jobs.get(job.id).ending is None
    mock_clock.jump(0.5)

    assert await jobs.result(job.id) == 60
    assert trio.current_time() == 60.1


async def wait_until_asyncio_waits(seconds: float) -> None:
    """Its loop tells Trio of its deadline, which is the next one of the run."""
    while trio.lowlevel.current_statistics().seconds_to_next_deadline > seconds:
        await trio.lowlevel.checkpoint()


async def cancel_a_call(seconds: float) -> None:
    asyncio.get_running_loop().call_soon_threadsafe(pytest.fail, "it is cancelled").cancel()
    await asyncio.sleep(seconds)


@pytest.mark.trio_jobs({"cancel_a_call": Handler.of(cancel_a_call, run="asyncio")}, workers=1)
async def test_cancelled_call_from_another_thread_does_not_hold_the_clock(jobs: Jobs) -> None:
    await jobs.result(jobs.submit("cancel_a_call", 60).id)

    assert trio.current_time() == 60


def test_clock_waits_until_the_loop_runs() -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    virtual_time = VirtualTime(clock)
    handlers = {"sleep": HANDLERS["sleep_in_asyncio"]}
    opened = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 60)
            with virtual_time.loop_to_come() as make_loop:

                def make_slowly() -> asyncio.AbstractEventLoop:
                    work()
                    return make_loop()

                async with open_jobs(handlers, asyncio_loop=make_slowly):
                    opened.append(trio.current_time())

    with virtual_time.patched():
        trio.run(main, clock=clock, instruments=[virtual_time])

    assert opened == [0]
    assert clock.current_time() == 60


def test_clock_waits_no_longer_for_a_loop_that_is_not_made() -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    virtual_time = VirtualTime(clock)

    async def main() -> None:
        with virtual_time.loop_to_come():
            pass
        await trio.sleep(60)

    with virtual_time.patched():
        trio.run(main, clock=clock, instruments=[virtual_time])


async def swallow_cancellation(_: None) -> None:
    while True:  # noqa: ASYNC913 - it waits in asyncio
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)


def test_end_of_the_pool_leaves_behind_a_task_that_goes_on(
    quiet: None, autojump_clock: trio.testing.MockClock
) -> None:
    virtual_time = VirtualTime(autojump_clock)
    handlers = {"swallow": Handler.of(swallow_cancellation, run="asyncio")}

    async def main() -> None:
        with trio.move_on_after(10), virtual_time.loop_to_come() as make_loop:
            async with open_jobs(handlers, asyncio_loop=make_loop) as jobs:
                jobs.submit("swallow")

    with virtual_time.patched():
        trio.run(main, clock=autojump_clock, instruments=[virtual_time])

    assert 10 < autojump_clock.current_time() < 11


class PickledWork(ProcessPoolExecutor):
    """Takes only what can be sent to a process."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        return self._threads.submit(pickle.loads(pickle.dumps(fn)), *args, **kwargs)  # noqa: S301

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


async def work_in_process_pool(_: None) -> None:
    with PickledWork() as executor:
        async with asyncio.timeout(0.001):
            await asyncio.get_running_loop().run_in_executor(executor, work)


@pytest.mark.trio_jobs({"work": Handler.of(work_in_process_pool, run="asyncio")}, workers=1)
async def test_clock_waits_for_a_pool_of_processes(jobs: Jobs) -> None:
    await jobs.result(jobs.submit("work").id)

    assert trio.current_time() == 0


# A job waits in each of these ways for so many seconds, and works in between.
WAYS: dict[str, Callable[[float], Awaitable[object]]] = {
    "sleep": asyncio.sleep,
    "thread": lambda seconds: asyncio.to_thread(time.sleep, seconds),
    "timeout": await_timeout_in_asyncio,
}
STEPS = st.lists(st.tuples(st.sampled_from([*WAYS]), st.integers(0, 9)), max_size=4)
# When a job is submitted, what it does, and its time limit.
JOBS = st.tuples(st.integers(0, 9), STEPS, st.sampled_from([5, 50]))


@settings(max_examples=scaled(30))
@given(specs=st.lists(JOBS, min_size=1, max_size=5), seed=st.integers(0, 199))
def test_clock_never_jumps_while_asyncio_works(
    specs: list[tuple[int, list[tuple[str, int]], int]], seed: int
) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    virtual_time = VirtualTime(clock)
    starts: dict[int, float] = {}
    jumps: list[tuple[float, float]] = []
    ends: dict[int, tuple[float, str]] = {}

    def work_and_look() -> None:
        before = clock.current_time()
        work()
        if clock.current_time() != before:
            jumps.append((before, clock.current_time()))

    async def run_steps(number: int) -> None:
        starts[number] = clock.current_time()
        for way, seconds in specs[number][1]:
            work_and_look()
            await asyncio.to_thread(work_and_look)
            await WAYS[way](seconds)
        work_and_look()

    async def run_job(jobs: Jobs, number: int) -> None:
        at, _, limit = specs[number]
        await trio.sleep(at)
        job = await jobs.wait(jobs.submit(f"limit{limit}", number).id)
        assert job.ending is not None
        ends[number] = trio.current_time(), job.ending.outcome

    handlers = {
        f"limit{limit}": Handler.of(run_steps, run="asyncio", timeout=limit + 0.5)
        for limit in (5, 50)
    }

    async def main() -> None:
        with virtual_time.loop_to_come() as make_loop:
            async with (
                open_jobs(handlers, workers=5, asyncio_loop=make_loop) as jobs,
                trio.open_nursery() as nursery,
            ):
                for number in range(len(specs)):
                    nursery.start_soon(run_job, jobs, number)

    with seeded_schedule(seed), virtual_time.patched():
        trio.run(main, clock=clock, instruments=[virtual_time])

    assert jumps == []
    assert starts == {number: at for number, (at, _, _) in enumerate(specs)}
    assert ends == {number: end_of(spec) for number, spec in enumerate(specs)}
    assert clock.current_time() == max(at for at, _ in ends.values())  # closing takes no time


def end_of(spec: tuple[int, list[tuple[str, int]], int]) -> tuple[float, str]:
    """When a job ends, and its outcome."""
    at, steps, limit = spec
    seconds = sum(seconds for _, seconds in steps)
    if seconds > limit:
        return at + limit + 0.5, "timed_out"
    return at + seconds, "succeeded"
