"""Jobs that wait for a time: they run when they are due, in order, and hold up nobody."""

import math
import random
import tracemalloc
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support import (
    NOON,
    SUCCEEDED,
    At,
    Later,
    Parts,
    make_parts,
    start_workers,
)
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome, QueueFullError, Waiting
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.schedule import Schedule

CANCELLED = Ending(outcome=Outcome.CANCELLED)
NO = JobError(type="ValueError", message="no")


class Wakes(trio.abc.Instrument):
    """Counts the steps of the schedule's task."""

    def __init__(self) -> None:
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += task.name == "schedule"


class Wall:
    """A wall clock that goes with Trio's, until a test sets it."""

    def __init__(self) -> None:
        self.ahead = timedelta()
        self._start = trio.current_time()

    def __call__(self) -> datetime:
        return NOON + timedelta(seconds=trio.current_time() - self._start) + self.ahead


class Plan:
    """A process: each job fails so often, with so many seconds in between, then succeeds.

    Attributes:
        ran: The id and the time of each attempt.
    """

    def __init__(self, failures: int, seconds: float = 10, *, takes: float = 0) -> None:
        self.ran: list[tuple[str, float]] = []
        self._failures = failures
        self._seconds = seconds
        self._takes = takes

    async def __call__(self, job: Job) -> Ending | Later:
        if job.cancel_requested:
            return CANCELLED
        self.ran.append((job.id, trio.current_time()))
        await trio.sleep(self._takes)
        if job.attempts <= self._failures:
            return Later(seconds=self._seconds, error=NO)
        return SUCCEEDED

    def times(self, job: Job) -> list[float]:
        """When the job ran."""
        return [time for job_id, time in self.ran if job_id == job.id]


@asynccontextmanager
async def running(parts: Parts, process: Plan, *, workers: int = 1) -> AsyncIterator[trio.Nursery]:
    """The pool with this process; leaving the block drains."""
    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, process, number=workers)
        await wait_all_tasks_blocked()
        yield nursery
        parts.admission.close()


async def completed(parts: Parts, job: Job) -> Job:
    """Wait for the job, which is not dropped."""
    if parts.store.find_nowait(job.id).status is not JobStatus.COMPLETED:
        with parts.waiters.subscribe(job.id) as completion:
            await completion.wait()
    return parts.store.find_nowait(job.id)


def submit(parts: Parts, number: int = 1) -> list[Job]:
    return [parts.admission.submit("test", b"null") for _ in range(number)]


async def cancel(parts: Parts, job: Job) -> None:
    await parts.pool.cancel(job.id)


# Retries. -------------------------------------------------------------------------------------


async def test_postponed_job_runs_again_when_it_is_due(autojump_clock: MockClock) -> None:
    parts = make_parts(workers=1)
    process = Plan(failures=2, seconds=86_400)
    async with running(parts, process):
        [job] = submit(parts)

        ended = await completed(parts, job)

    assert process.times(job) == [0, 86_400, 172_800]
    assert (ended.attempts, ended.outcome, ended.last_error) == (3, Outcome.SUCCEEDED, None)
    assert parts.pool.schedule.count == 0


async def test_waiting_job_has_no_slot_and_no_worker(autojump_clock: MockClock) -> None:
    parts = make_parts(workers=1, buffer_size=1)
    process = Plan(failures=1)
    async with running(parts, process):
        for n in range(5):  # one after the other: the buffer has one slot
            submit(parts)
            await wait_all_tasks_blocked()
            assert parts.pool.schedule.count == n + 1
        assert parts.capacity.free == 2
        assert parts.store.statistics().processing == 0
        assert trio.current_time() == 0
        await trio.sleep(10)
        await wait_all_tasks_blocked()

    assert parts.store.statistics().completed == 5


async def test_jobs_that_are_due_at_once_come_in_the_order_of_their_times_then_ids(
    autojump_clock: MockClock,
) -> None:
    parts = make_parts(workers=1)
    process = Plan(failures=1)
    wakes = Wakes()
    async with running(parts, process):
        first = submit(parts, 3)
        await trio.sleep(0.5)
        second = submit(parts, 3)
        await wait_all_tasks_blocked()
        process.ran.clear()
        trio.lowlevel.add_instrument(wakes)
        # The worker is busy when both threes come due.
        await trio.sleep(20)

    assert [job_id for job_id, _ in process.ran] == [job.id for job in (*first, *second)]
    assert [time for _, time in process.ran] == [10, 10, 10, 10.5, 10.5, 10.5]
    # Each time: it wakes up, then it has had its turn for room.
    assert wakes.steps <= 2 * 2 + 1


async def test_only_an_earlier_entry_wakes_the_sleeper(autojump_clock: MockClock) -> None:
    fed: list[tuple[float, list[str]]] = []
    wakes = Wakes()

    async def feed(ids: deque[str]) -> None:
        fed.append((trio.current_time(), list(ids)))
        ids.clear()
        await trio.lowlevel.checkpoint()

    schedule = Schedule(10, now=Wall())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(schedule.run, feed, name="schedule")
        await wait_all_tasks_blocked()
        schedule.add("a", 100.0)
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(wakes)
        for n in range(50):
            schedule.add(f"later-{n}", 200.0)
            await wait_all_tasks_blocked()
        assert wakes.steps == 0
        schedule.add("b", 50.0)
        await wait_all_tasks_blocked()
        assert wakes.steps == 1
        await trio.sleep(150)
        nursery.cancel_scope.cancel()

    assert fed == [(50, ["b"]), (100, ["a"])]
    assert wakes.steps == 1 + 2 * 2 + 1  # each time it feeds as well; and it is cancelled
    assert schedule.count == 50


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("number", [5_000, pytest.param(40_000, marks=pytest.mark.proof)])
async def test_very_many_due_at_once_starve_nobody_and_do_not_starve(
    number: int, autojump_clock: MockClock
) -> None:
    parts = make_parts(workers=10, buffer_size=1000, keep_completed=0)
    counts: Counter[str] = Counter()
    wakes = Wakes()
    chance = random.Random(0)  # noqa: S311 - to be repeated

    async def process(job: Job) -> Ending | Later:
        counts[job.type] += 1
        if job.type == "many" and job.attempts == 1:
            return Later(seconds=1e6 - trio.current_time(), error=NO)
        await trio.sleep(chance.uniform(0.005, 0.015))
        return SUCCEEDED

    async def stream() -> None:
        while True:
            await parts.admission.admit_up_to([JobSpec("stream", b"1")] * 100)

    async def poster() -> None:
        while True:
            with suppress(QueueFullError):
                parts.admission.submit("single", b"1")
            await trio.sleep(0.0005)

    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, process)
        for _ in range(number // 1000):
            await wait_all_tasks_blocked()
            parts.admission.submit_all([JobSpec("many", b"1")] * 1000)
        await trio.sleep(1e6 - 1 - trio.current_time())
        assert parts.pool.schedule.count == number
        for _ in range(2):
            nursery.start_soon(stream)
        nursery.start_soon(poster)
        await trio.sleep(3)  # the buffer has had only jobs of the others until they came due
        counts.clear()
        trio.lowlevel.add_instrument(wakes)
        await trio.sleep(3)  # in which the workers process 3,000 jobs
        nursery.cancel_scope.cancel()

    # One of three who wait, and single submissions alternate with all of them.
    assert counts.total() == pytest.approx(3000, rel=0.05)
    assert counts["single"] == pytest.approx(1500, rel=0.15)
    assert counts["many"] == pytest.approx(counts["stream"] / 2, rel=0.15)
    assert wakes.steps <= 3 * counts["many"]
    # Nobody is lost: what has not run waits.
    assert parts.pool.unfinished().count == parts.store.statistics().pending


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("number", [5_000, pytest.param(10_000, marks=pytest.mark.proof)])
async def test_many_that_are_due_at_once_run_as_fast_as_the_workers_can(
    number: int, autojump_clock: MockClock
) -> None:
    parts = make_parts(workers=100, buffer_size=1000, keep_completed=0)
    wakes = Wakes()

    async def process(job: Job) -> Ending | Later:
        if job.attempts == 1:
            return Later(seconds=1e6 - trio.current_time(), error=NO)
        await trio.sleep(1)
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, process)
        for _ in range(number // 1000):
            await wait_all_tasks_blocked()
            parts.admission.submit_all([JobSpec("many", b"1")] * 1000)
        await trio.sleep(1e6 - 1 - trio.current_time())
        trio.lowlevel.add_instrument(wakes)
        await trio.sleep(1 + number / 100 + 1)
        assert parts.store.statistics().pending == parts.pool.schedule.count == 0
        parts.admission.close()

    # For each second's jobs it wakes a few times; no job has a turn of its own.
    assert wakes.steps <= 10 * number / 100


# Cancels. -------------------------------------------------------------------------------------


async def test_cancel_makes_a_waiting_job_due_now_and_it_does_not_run(
    autojump_clock: MockClock,
) -> None:
    parts = make_parts(workers=1)
    process = Plan(failures=1, seconds=1e6)
    async with running(parts, process):
        job, other = submit(parts, 2)
        await trio.sleep(5)

        await cancel(parts, job)
        ended = await completed(parts, job)

        assert trio.current_time() == 5
        assert parts.store.find_nowait(other.id).waiting is Waiting.RETRYING
        await completed(parts, other)

    assert (ended.outcome, ended.attempts) == (Outcome.CANCELLED, 2)
    assert process.times(job) == [0]
    assert process.times(other) == [0, 1e6]


async def test_job_that_is_due_and_waits_for_room_can_be_cancelled(
    autojump_clock: MockClock,
) -> None:
    parts = make_parts(workers=1, buffer_size=1)
    process = Plan(failures=1, seconds=10, takes=4)
    async with running(parts, process):
        [job] = submit(parts)
        await trio.sleep(13)  # it is due at 14
        for _ in range(2):  # one runs from 13 to 17, the other one from 17 to 21
            submit(parts)
            await wait_all_tasks_blocked()
        await trio.sleep(2)
        assert parts.pool.schedule.count == 1  # it is due, and waits for a slot
        assert parts.store.find_nowait(job.id).status is JobStatus.PENDING

        await cancel(parts, job)
        ended = await completed(parts, job)

        assert ended.outcome is Outcome.CANCELLED
        assert trio.current_time() == 21
        assert process.times(job) == [0]


async def test_due_job_in_the_channel_can_be_cancelled(autojump_clock: MockClock) -> None:
    parts = make_parts(workers=1, buffer_size=5)
    process = Plan(failures=1, seconds=10, takes=4)
    async with running(parts, process):
        [job] = submit(parts)
        await trio.sleep(13)
        submit(parts)  # runs from 13 to 17
        await trio.sleep(2)
        assert parts.pool.schedule.count == 0
        assert parts.admission.buffered == 1

        await cancel(parts, job)
        ended = await completed(parts, job)

        assert ended.outcome is Outcome.CANCELLED
        assert trio.current_time() == 17
        assert process.times(job) == [0]


async def test_job_that_is_postponed_after_its_cancel_ends_at_once(
    autojump_clock: MockClock,
) -> None:
    parts = make_parts(workers=1)
    ran = []

    async def process(job: Job) -> Ending | Later:
        if job.cancel_requested:
            return CANCELLED
        ran.append(job.id)
        await trio.sleep(5)
        return Later(seconds=1e6, error=NO)

    async with running(parts, process):  # type: ignore[arg-type]
        [job] = submit(parts)
        await trio.sleep(1)
        parts.store.request_cancel_nowait(job.id)  # and its handler decides otherwise

        ended = await completed(parts, job)

        assert (ended.outcome, trio.current_time(), ran) == (Outcome.CANCELLED, 5, [job.id])


async def test_many_cancels_of_waiting_jobs_leave_no_memory_behind(
    autojump_clock: MockClock,
) -> None:
    schedule = Schedule(10, now=Wall())
    schedule.add("stays", 1e6)

    for n in range(10_000):
        schedule.add(f"{n}", 1e8)
        schedule.advance(f"{n}")
        schedule.add(f"date-{n}", NOON + timedelta(days=100))
        schedule.advance(f"date-{n}")
        schedule._take_due()
        schedule._due.clear()

    assert schedule.count == 1
    assert len(schedule._delays._heap) < 200
    assert len(schedule._dates._heap) < 200


# Stops. ---------------------------------------------------------------------------------------


async def test_retry_that_falls_into_the_drain_waits_and_is_named(
    autojump_clock: MockClock,
) -> None:
    parts = make_parts(workers=1)
    process = Plan(failures=9, seconds=1, takes=5)
    async with running(parts, process):
        jobs = submit(parts, 2)
        await trio.sleep(2)
        with parts.waiters.subscribe(jobs[0].id) as completion:
            parts.admission.close()
            await completion.wait()

    assert completion.job is None
    assert trio.current_time() == 10  # both have had the attempt that was theirs
    assert [time for _, time in process.ran] == [0, 5]
    unfinished = parts.pool.unfinished()
    assert [job.id for job in unfinished.waiting] == [job.id for job in jobs]
    assert (unfinished.begun, unfinished.not_begun) == ([], [])
    assert unfinished


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_ids_that_are_being_fed_as_the_pool_ends_stay_pending_and_are_named(
    autojump_clock: MockClock, how: str
) -> None:
    parts = make_parts(workers=1, buffer_size=1)
    process = Plan(failures=1, seconds=10, takes=4)
    async with running(parts, process) as nursery:
        jobs = []
        for _ in range(5):
            jobs += submit(parts)
            await trio.sleep(4)
        await wait_all_tasks_blocked()
        waiting = parts.pool.schedule.count
        assert waiting > 1
        if how == "close":
            parts.admission.close()
        else:
            nursery.cancel_scope.cancel()

    statuses = Counter(job.status for job in parts.store.page_nowait(limit=10))
    assert statuses[JobStatus.PROCESSING] == 0
    assert statuses.total() == 5
    unfinished = parts.pool.unfinished()
    assert unfinished.count == statuses[JobStatus.PENDING]
    assert unfinished.waiting


async def run_with_cancel_at(step: int, how: Callable[[trio.CancelScope, Parts], None]) -> int:
    """Jobs that fail and come back, through a small buffer; returns how many steps there were."""
    parts = make_parts(workers=2, buffer_size=2)
    process = Plan(failures=2, seconds=1, takes=1)
    jobs: list[Job] = []
    with trio.CancelScope() as scope, At(step, lambda: how(scope, parts)) as instrument:
        async with running(parts, process, workers=2):
            with suppress(trio.ClosedResourceError, Exception):
                for _ in range(4):
                    jobs += submit(parts)
                    await trio.sleep(0.5)
                await cancel(parts, jobs[2])
                for job in jobs:
                    await completed(parts, job)

    shown = {job.id: job for job in parts.store.page_nowait(limit=10)}
    unfinished = parts.pool.unfinished()
    named = [job.id for job in (*unfinished.begun, *unfinished.not_begun, *unfinished.waiting)]
    assert sorted(named) == [
        each.id for each in shown.values() if each.status is not JobStatus.COMPLETED
    ]
    assert len(set(named)) == len(named)
    runs = Counter(job_id for job_id, _ in process.ran)
    for job in shown.values():
        assert job.status is not JobStatus.PROCESSING
        if job.outcome is Outcome.SUCCEEDED:
            assert runs[job.id] == job.attempts == 3
        else:
            assert runs[job.id] in (job.attempts, job.attempts + 1, job.attempts - 1)
    if not step:
        assert not named
        assert len(shown) == 4
    return instrument.steps


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_whatever_step_the_pool_ends_at_every_job_is_accounted_for(
    autojump_clock: MockClock, how: str
) -> None:
    def act(scope: trio.CancelScope, parts: Parts) -> None:
        if how == "cancel":
            scope.cancel()
        else:
            parts.admission.close()

    steps = await run_with_cancel_at(0, act)

    for step in range(1, steps + 1):
        await run_with_cancel_at(step, act)


# Clocks. --------------------------------------------------------------------------------------


async def fed_times(
    dates: dict[str, timedelta],
    delays: dict[str, float],
    changes: list[tuple[float, timedelta]],
    *,
    until: float = 1e6,
) -> dict[str, float]:
    """When ids come due, if the wall clock is set ahead by so much at so many seconds."""
    fed: dict[str, float] = {}
    wall = Wall()
    schedule = Schedule(10, now=wall)

    async def feed(ids: deque[str]) -> None:
        fed.update(dict.fromkeys(ids, trio.current_time()))
        ids.clear()
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for job_id, date in dates.items():
            schedule.add(job_id, NOON + date)
        for job_id, delay in delays.items():
            schedule.add(job_id, delay)
        nursery.start_soon(schedule.run, feed, name="schedule")
        for at, ahead in changes:
            await trio.sleep(at - trio.current_time())
            wall.ahead = ahead
        await trio.sleep(until - trio.current_time())
        nursery.cancel_scope.cancel()
    return fed


HOUR = timedelta(hours=1)


async def test_date_is_met_to_the_second_and_in_order_with_delays(
    autojump_clock: MockClock,
) -> None:
    fed = await fed_times({"d1": 2 * HOUR, "d2": 4 * HOUR}, {"a": 3 * 3600, "b": 3600}, [])

    assert list(fed) == ["b", "d1", "a", "d2"]
    assert [fed[each] for each in fed] == pytest.approx([3600, 7200, 10800, 14400], abs=0.01)


async def test_wall_clock_set_back_makes_a_date_later_and_no_delay(
    autojump_clock: MockClock,
) -> None:
    fed = await fed_times({"d": 2 * HOUR}, {"a": 7200.0}, [(60, -3 * HOUR)])

    assert fed == {"a": 7200, "d": pytest.approx(5 * 3600, abs=0.01)}


async def test_wall_clock_set_forward_is_noticed_at_the_next_wake_up(
    autojump_clock: MockClock,
) -> None:
    fed = await fed_times({"d": 6 * HOUR}, {"a": 600.0, "b": 7200.0}, [(60, 12 * HOUR)])

    assert fed == {"a": 600, "d": 600, "b": 7200}


async def test_wall_clock_set_forward_and_back_in_a_sleep_changes_nothing(
    autojump_clock: MockClock,
) -> None:
    fed = await fed_times({"d": 6 * HOUR}, {}, [(60, 12 * HOUR), (120, timedelta())])

    assert fed == {"d": pytest.approx(6 * 3600, abs=0.01)}


async def test_wall_clock_that_lags_wakes_the_sleeper_a_few_times_and_not_for_ever(
    autojump_clock: MockClock,
) -> None:
    wakes = Wakes()

    class Slow(Wall):
        def __call__(self) -> datetime:
            return NOON + timedelta(seconds=0.999 * trio.current_time())

    schedule = Schedule(10, now=Slow())
    due: list[float] = []

    async def feed(ids: deque[str]) -> None:
        due.append(trio.current_time())
        ids.clear()
        await trio.lowlevel.checkpoint()

    trio.lowlevel.add_instrument(wakes)
    schedule.add("a", NOON + 100 * HOUR)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(schedule.run, feed, name="schedule")
        await trio.sleep(1e7)  # noqa: ASYNC116 - under a mock clock
        nursery.cancel_scope.cancel()

    assert due == [pytest.approx(360_000 / 0.999, abs=0.1)]
    assert wakes.steps < 10


async def test_past_date_is_due_now_and_an_infinite_wait_is_none(autojump_clock: MockClock) -> None:
    fed = await fed_times({"past": -100 * HOUR}, {"now": 0.0}, [], until=1)

    assert fed == {"past": 0, "now": 0}
    assert list(fed) == ["past", "now"]


# Costs. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dates", [False, True])
async def test_waiting_job_costs_at_most_two_hundred_bytes(
    autojump_clock: MockClock, *, dates: bool
) -> None:
    ids = [f"01a22342-80f2-75ef-a3b7-{n:012x}" for n in range(20_000)]
    schedule = Schedule(10, now=Wall())
    tracemalloc.start()

    for n, job_id in enumerate(ids):
        schedule.add(job_id, NOON + timedelta(seconds=n) if dates else math.fmod(n * 7919.5, 1e5))

    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(ids) <= 200


async def test_taking_the_due_jobs_blocks_nobody_for_long(mock_clock: MockClock) -> None:
    schedule = Schedule(10, now=Wall())
    for n in range(10_000):
        schedule.add(f"{n}", 1.0)
    most = 0

    async def feed(ids: deque[str]) -> None:
        nonlocal most
        most = max(most, len(ids))
        ids.clear()
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(schedule.run, feed, name="schedule")
        mock_clock.jump(2)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert schedule.count == 0
    assert 0 < most <= 1000
