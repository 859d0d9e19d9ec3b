"""The pool as it runs, with real handlers: whatever those do, the pool keeps its size."""

import contextlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.proof.share import scaled
from tests.support import At, RunningPool, current_job_id, running_pool
from trio_jobs import Job, JobError, JobStatus, Outcome
from trio_jobs.pool.refusals import QueueFullError, ShuttingDownError

Function = Callable[[object], object]

# Handlers that fail, of every kind. -----------------------------------------------------------


class UnreadableExit(Exception):  # noqa: N818  (its text exits)
    """An error whose text ends the program."""

    def __str__(self) -> str:
        raise SystemExit(0)


async def timeout_with_cleanup_that_raises(_: object) -> None:
    with trio.fail_after(1):
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleanup")


async def timeout_with_cleanup_that_waits(_: object) -> None:
    with trio.fail_after(1):
        try:
            await trio.sleep_forever()
        finally:
            await trio.sleep(1)


async def failing_nursery(_: object) -> None:
    async def child(error: BaseException) -> NoReturn:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child, SystemExit(1))
        nursery.start_soon(child, ValueError("child"))


async def impossible_result(_: object) -> object:
    return object()


def raising(make: Callable[[], BaseException]) -> Function:
    async def handler(_: object) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise make()

    return handler


def nested_group() -> BaseException:
    error: Exception = ValueError("in the middle")
    for _ in range(2000):
        error = ExceptionGroup("around it", [error])
    return error


def wide_group() -> BaseException:
    """Small in memory; a text of ten to the power of thirty parts."""
    error: Exception = ValueError("in the middle")
    for _ in range(30):
        error = ExceptionGroup("around it", [error] * 10)
    return error


# Beside those of `tests/handlers/test_misbehaviour.py`.
FAILING: dict[str, Function] = {
    **{
        make.__name__: raising(make)
        for make in (
            SystemExit,
            UnreadableExit,
            nested_group,
            wide_group,
            trio.WouldBlock,
            trio.EndOfChannel,
            trio.ClosedResourceError,
        )
    },
    "timeout, cleanup raises": timeout_with_cleanup_that_raises,
    "timeout, cleanup waits": timeout_with_cleanup_that_waits,
    "failing nursery": failing_nursery,
    "impossible result": impossible_result,
}


class Meeting:
    """A handler in which jobs wait until ``size`` of them are inside at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._inside = 0
        self._all = trio.Event()

    async def __call__(self, _: object) -> str:
        self._inside += 1
        if self._inside == self._size:
            self._all.set()
        await self._all.wait()
        return "met"


def submit(pool: RunningPool, job_type: str, number: int = 1) -> list[str]:
    return [pool.parts.admission.submit(job_type, b"null").id for _ in range(number)]


def jobs(pool: RunningPool, job_ids: list[str]) -> list[Job]:
    return [pool.parts.store.find_nowait(job_id) for job_id in job_ids]


def error_of(job: Job) -> JobError:
    assert job.ending is not None
    assert job.ending.error is not None
    return job.ending.error


@pytest.mark.parametrize("kind", FAILING)
async def test_pool_keeps_its_size_whatever_handlers_raise(
    kind: str, autojump_clock: MockClock
) -> None:
    handlers: dict[str, Function] = {"bad": FAILING[kind], "meet": Meeting(4)}
    with trio.fail_after(1000):
        async with running_pool(handlers, workers=4) as pool:
            bad = submit(pool, "bad", 50)
            good = submit(pool, "meet", 4)  # these must overlap: all four workers are there

    assert {outcome_of(job) for job in jobs(pool, bad)} == {Outcome.FAILED}
    assert {outcome_of(job) for job in jobs(pool, good)} == {Outcome.SUCCEEDED}
    for job in jobs(pool, bad):
        assert error_of(job).type
        assert len(error_of(job).message) <= 4000
        if "group" in kind:
            assert error_of(job).message.startswith("around it (")
            assert "ValueError: in the middle" in error_of(job).message


def outcome_of(job: Job) -> Outcome:
    assert job.ending is not None
    return job.ending.outcome


# The drain and the grace period. --------------------------------------------------------------


async def one_second(_: object) -> None:
    await trio.sleep(1)


async def test_drain_takes_as_long_as_the_jobs_need(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    async with running_pool({"work": one_second}, workers=10, buffer_size=100) as pool:
        await wait_all_tasks_blocked()
        job_ids = submit(pool, "work", 110)
        with pytest.raises(QueueFullError):
            submit(pool, "work")
        pool.parts.admission.close()
        with pytest.raises(ShuttingDownError):
            submit(pool, "work")

    assert trio.current_time() == pytest.approx(start + 11)
    assert {outcome_of(job) for job in jobs(pool, job_ids)} == {Outcome.SUCCEEDED}
    assert len(pool.parts.store) == 110


async def never(_: object) -> None:
    await trio.sleep_forever()


async def never_and_raises_in_cleanup(_: object) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("cleanup")


async def never_and_swallows(_: object) -> None:
    with trio.CancelScope():
        try:
            await trio.sleep_forever()
        except BaseException:  # noqa: BLE001  (what bad handlers do)
            raise KeyError("not Cancelled any more") from None


async def never_and_exits(_: object) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise SystemExit(0)


async def never_in_a_group(_: object) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(never_and_raises_in_cleanup, None)


@pytest.mark.parametrize(
    "handler",
    [never, never_and_raises_in_cleanup, never_and_swallows, never_and_exits, never_in_a_group],
)
async def test_jobs_cut_short_by_the_end_of_the_grace_period_are_released(
    handler: Function, autojump_clock: MockClock
) -> None:
    async with running_pool({"endless": handler}, workers=2) as pool:
        job_ids = submit(pool, "endless", 5)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        pool.parts.admission.close()
        pool.scope.deadline = start + 25

    assert trio.current_time() == pytest.approx(start + 25)
    assert {job.status for job in jobs(pool, job_ids)} == {JobStatus.PENDING}
    begun, not_begun = pool.parts.store.unfinished().ids
    assert sorted(begun + not_begun) == job_ids
    assert (len(begun), len(not_begun)) == (2, 3)


async def test_value_returned_in_spite_of_the_cancellation_counts(
    autojump_clock: MockClock,
) -> None:
    async def hurry(_: object) -> str:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await trio.sleep(3)
        return "done"

    async with running_pool({"hurry": hurry}, workers=1) as pool:
        first, second = submit(pool, "hurry", 2)
        await wait_all_tasks_blocked()
        pool.scope.cancel()

    (done,) = jobs(pool, [first])
    assert done.ending is not None
    assert (done.ending.outcome, done.ending.result) == (Outcome.SUCCEEDED, b'"done"')
    assert pool.parts.store.find_nowait(second).status is JobStatus.PENDING


# Every step, every order. ---------------------------------------------------------------------


class Scenario:
    """Clients, one of them impatient; workers; jobs that end in all ways; a drain."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.refused = 0
        self.begun: Counter[str] = Counter()
        self.impatient = trio.CancelScope()

    async def work(self, _: object) -> str:
        self._note()
        await trio.lowlevel.checkpoint()
        return "done"

    async def fail(self, _: object) -> NoReturn:
        self._note()
        await trio.lowlevel.checkpoint()
        raise SystemExit(3)

    async def clean_up(self, _: object) -> None:
        self._note()
        try:
            await trio.lowlevel.checkpoint()
        finally:
            raise ValueError("cleanup")

    def _note(self) -> None:
        job_id = current_job_id.get()
        assert job_id is not None
        self.begun[job_id] += 1

    async def client(self, pool: RunningPool, scope: trio.CancelScope) -> None:
        with scope:
            for job_type in ("work", "fail", "clean_up") * 2:
                try:
                    self.accepted += submit(pool, job_type)
                except (QueueFullError, ShuttingDownError):
                    self.refused += 1
                await trio.lowlevel.checkpoint()

    async def run(self, at: Callable[[RunningPool], At]) -> tuple[RunningPool, int]:
        handlers = {"work": self.work, "fail": self.fail, "clean_up": self.clean_up}
        with contextlib.ExitStack() as stack:
            async with running_pool(handlers, workers=3, buffer_size=4) as pool:
                instrument = stack.enter_context(at(pool))  # to the end of the drain
                async with trio.open_nursery() as clients:
                    clients.start_soon(self.client, pool, self.impatient)
                    clients.start_soon(self.client, pool, trio.CancelScope())
                    clients.start_soon(self.client, pool, trio.CancelScope())
        return pool, instrument.steps

    def check(self, pool: RunningPool) -> None:
        store = pool.parts.store
        shown = store.page_nowait(limit=1000)
        assert sorted(self.accepted) == [job.id for job in shown]
        assert {job.status for job in shown} <= {JobStatus.PENDING, JobStatus.COMPLETED}
        begun, not_begun = store.unfinished().ids
        unfinished = {job.id for job in shown if job.status is JobStatus.PENDING}
        assert set(begun) | set(not_begun) == unfinished
        # Each at most once; a completed one did run; one that is said not to
        # have begun did not.
        assert set(self.begun.values()) <= {1}
        assert {job.id for job in shown} - unfinished <= set(self.begun)
        assert not set(self.begun) & set(not_begun)


ACTIONS: dict[str, Callable[[Scenario, RunningPool], object]] = {
    "the pool is cancelled": lambda _, pool: pool.scope.cancel(),
    "a client leaves": lambda scenario, _: scenario.impatient.cancel(),
    "the drain begins": lambda _, pool: pool.parts.admission.close(),
}


@pytest.mark.interleavings(3)
@pytest.mark.parametrize("action", ACTIONS)
async def test_whatever_step_it_happens_at_every_job_is_accounted_for(action: str) -> None:
    interrupted = 0
    step, steps = 0, 1
    while step <= steps:
        scenario = Scenario()
        act = partial(ACTIONS[action], scenario)
        pool, steps_now = await scenario.run(lambda pool: At(step, partial(act, pool)))  # noqa: B023
        steps = steps if step else steps_now  # at step 0 nothing happens
        scenario.check(pool)
        begun, not_begun = pool.parts.store.unfinished().ids
        interrupted += len(begun)
        assert not begun + not_begun or (step and "cancelled" in action)
        step += 1

    assert bool(interrupted) == ("cancelled" in action)


@given(st.random_module(), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=scaled(50))
async def test_every_job_is_processed_once_in_every_order(
    random_module: object, workers: int, buffer_size: int
) -> None:
    begun: Counter[str | None] = Counter()
    accepted: list[str] = []

    async def work(_: object) -> None:
        begun[current_job_id.get()] += 1
        await trio.lowlevel.checkpoint()

    async def client(pool: RunningPool) -> None:
        for _ in range(10):
            with contextlib.suppress(QueueFullError):
                accepted.extend(submit(pool, "work"))
            await trio.lowlevel.checkpoint()

    async with (
        running_pool({"work": work}, workers=workers, buffer_size=buffer_size) as pool,
        trio.open_nursery() as clients,
    ):
        for _ in range(3):
            clients.start_soon(client, pool)

    assert begun == dict.fromkeys(accepted, 1)
    assert {outcome_of(job) for job in jobs(pool, accepted)} == {Outcome.SUCCEEDED}
    assert pool.parts.send.statistics().current_buffer_used == 0
