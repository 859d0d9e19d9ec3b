"""An operator pauses types while the pool runs."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support import HandlerRegistry, MemoryStore, RunningPool, cancelled_after, running_pool
from trio_jobs import Handler, Job, JobStatus, Outcome, RetryPolicy
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import QueueFullError
from trio_jobs.pool.type_limits import TypeLimits

PENDING, COMPLETED = JobStatus.PENDING, JobStatus.COMPLETED


class Order:
    """A handler that notes the payloads of its jobs, and how many run at once."""

    def __init__(self, seconds: float = 0) -> None:
        self.seen: list[int] = []
        self.most = 0
        self._seconds = seconds
        self._inside = 0

    async def __call__(self, number: int) -> None:
        self.seen.append(number)
        self._inside += 1
        self.most = max(self.most, self._inside)
        await trio.sleep(self._seconds)
        self._inside -= 1


def submit(pool: RunningPool, type_: str, number: int, *, first: int = 0) -> list[Job]:
    return [pool.submit(type_, b"%d" % n) for n in range(first, first + number)]


def statuses(pool: RunningPool, jobs: Sequence[Job]) -> list[JobStatus]:
    return [pool.status(job) for job in jobs]


def moves(pool: RunningPool) -> object:
    """What makes the moves of the layer that a pause comes behind."""
    return pool.paused._layer.moves


async def test_jobs_of_a_paused_type_are_held_and_need_no_worker() -> None:
    mail, other = Order(), Order()
    async with running_pool({"mail": mail, "other": other}, workers=2, buffer_size=20) as pool:
        pool.paused.pause(["mail"])
        held = submit(pool, "mail", 9)
        submit(pool, "other", 9)
        await wait_all_tasks_blocked()

        assert (mail.seen, sorted(other.seen)) == ([], [*range(9)])
        assert statuses(pool, held) == [PENDING] * 9
        statistics = pool.parts.pool.statistics()
        assert (statistics.held, statistics.waiting, statistics.buffered) == (9, 9, 0)
        assert (statistics.busy, statistics.paused) == (0, ["mail"])
        assert pool.parts.capacity.free == 22
        await pool.paused.resume(["mail"])
        await wait_all_tasks_blocked()

        assert sorted(mail.seen) == [*range(9)]
        assert pool.parts.pool.statistics().held == 0


async def test_job_of_a_paused_type_waits_in_the_buffer_until_a_worker_is_free(
    autojump_clock: MockClock,
) -> None:
    assert autojump_clock
    functions = {"mail": Order(), "other": Order(1)}
    async with running_pool(functions, workers=2, buffer_size=5) as pool:
        submit(pool, "other", 2)
        await wait_all_tasks_blocked()
        pool.paused.pause(["mail"])
        submit(pool, "mail", 5)
        await wait_all_tasks_blocked()
        statistics = pool.parts.pool.statistics()
        assert (statistics.held, statistics.buffered) == (0, 5)
        with pytest.raises(QueueFullError, match="no room in the buffer"):
            pool.submit("other", b"9")

        await trio.sleep(1.5)
        statistics = pool.parts.pool.statistics()
        assert (statistics.held, statistics.buffered) == (5, 0)
        pool.submit("other", b"9")
        await pool.paused.resume(["mail"])


async def test_held_jobs_begin_in_their_order() -> None:
    mail = Order()
    async with running_pool({"mail": mail}, workers=1, buffer_size=5) as pool:
        pool.paused.pause(["mail"])
        for first in range(0, 50, 5):
            submit(pool, "mail", 5, first=first)
            await wait_all_tasks_blocked()
        await pool.paused.resume(["mail"])
        await wait_all_tasks_blocked()

    assert mail.seen == [*range(50)]


async def test_running_job_goes_on_and_its_next_attempt_is_held(
    autojump_clock: MockClock,
) -> None:
    assert autojump_clock
    attempts = []

    async def fail(_: object) -> None:
        attempts.append(trio.current_time())
        await trio.sleep(1)
        raise ValueError

    retry = RetryPolicy(attempts=2, backoff=(5,), jitter=False)
    async with running_pool({"fail": Handler.of(fail, retry=retry)}) as pool:
        [job] = submit(pool, "fail", 1)
        await wait_all_tasks_blocked()
        pool.paused.pause(["fail"])
        await trio.sleep(100)

        assert (len(attempts), pool.status(job)) == (1, PENDING)
        assert pool.parts.pool.statistics().held == 1
        await pool.paused.resume(["fail"])
        await trio.sleep(10)
        assert (len(attempts), pool.outcome(job)) == (2, Outcome.FAILED)


async def test_delayed_job_is_held_at_its_time(autojump_clock: MockClock) -> None:
    assert autojump_clock
    mail = Order()
    async with running_pool({"mail": mail}) as pool:
        pool.parts.admission.submit("mail", b"1", 10.0)
        pool.paused.pause(["mail"])
        await trio.sleep(20)
        assert (mail.seen, pool.parts.pool.statistics().held) == ([], 1)
        await pool.paused.resume(["mail"])
        await wait_all_tasks_blocked()
        assert mail.seen == [1]


async def test_cancelled_job_that_is_held_ends_at_once_and_never_runs() -> None:
    mail = Order()
    async with running_pool({"mail": mail}, workers=1) as pool:
        pool.paused.pause(["mail"])
        first, second, third = submit(pool, "mail", 3)
        await wait_all_tasks_blocked()

        await pool.parts.pool.cancel(second.id)
        await wait_all_tasks_blocked()

        assert pool.outcome(second) is Outcome.CANCELLED
        assert statuses(pool, [first, third]) == [PENDING] * 2
        assert pool.parts.pool.statistics().held == pool.paused.count == 2
        await pool.paused.resume(["mail"])
        await wait_all_tasks_blocked()
        assert mail.seen == [0, 2]  # by one worker


async def test_job_that_was_cancelled_before_a_worker_came_to_it_is_not_held() -> None:
    async with running_pool({"mail": Order()}, workers=1) as pool:
        pool.paused.pause(["mail"])
        [job] = submit(pool, "mail", 1)
        await pool.parts.pool.cancel(job.id)
        await wait_all_tasks_blocked()
        assert pool.outcome(job) is Outcome.CANCELLED


async def test_job_that_is_due_by_another_way_stays_held() -> None:
    mail = Order()
    async with running_pool({"mail": mail}, workers=1) as pool:
        pool.paused.pause(["mail"])
        [job] = submit(pool, "mail", 1)
        await wait_all_tasks_blocked()

        pool.parts.pool.schedule.advance(job.id)
        await wait_all_tasks_blocked()
        assert (mail.seen, pool.parts.pool.statistics().held) == ([], 1)

        await pool.paused.resume(["mail"])
        await wait_all_tasks_blocked()
        assert mail.seen == [0]


async def test_type_is_refused_while_too_many_jobs_wait_and_others_are_not() -> None:
    other = Order()
    functions = {"mail": Order(), "other": other}
    async with running_pool(functions, workers=2, max_waiting=3) as pool:
        pool.paused.pause(["mail"])
        submit(pool, "mail", 3)
        await wait_all_tasks_blocked()

        with pytest.raises(QueueFullError, match="the type is paused, and too many jobs wait"):
            pool.submit("mail", b"9")
        with pytest.raises(QueueFullError):
            pool.parts.admission.submit_all([JobSpec("other", b"1"), JobSpec("mail", b"1")])
        with pytest.raises(QueueFullError):
            await pool.parts.admission.admit_up_to([JobSpec("mail", b"1")])
        specs = [JobSpec("other", b"2"), JobSpec("mail", b"1"), JobSpec("other", b"3")]
        assert len(await pool.parts.admission.admit_up_to(specs)) == 1
        assert len(pool.parts.admission.admit_up_to_nowait(specs)) == 1
        await wait_all_tasks_blocked()
        assert other.seen == [2, 2]

        await pool.paused.resume(["mail"])
        pool.submit("mail", b"9")


async def test_pool_that_pauses_nothing_has_no_layer_for_it() -> None:
    async with running_pool({"mail": Order()}) as pool:
        assert isinstance(moves(pool), MemoryStore)
        pool.paused.pause([])
        assert isinstance(moves(pool), MemoryStore)
        pool.paused.pause(["mail"])
        assert moves(pool) is pool.paused
        submit(pool, "mail", 3)
        await wait_all_tasks_blocked()
        await pool.paused.resume(["mail"])
        assert isinstance(moves(pool), MemoryStore)
        assert not pool.parts.admission._checks


async def test_default_stands_for_all_types_without_a_handler_of_their_own() -> None:
    own, default = Order(), Order()
    async with running_pool({"own": own, "default": default}) as pool:
        pool.paused.pause(["default"])
        for type_ in ("a", "b", "default", "own"):
            pool.submit(type_, b"1")
        await wait_all_tasks_blocked()
        assert (len(own.seen), len(default.seen)) == (1, 0)
        await pool.paused.resume(["default"])
        await wait_all_tasks_blocked()
        assert len(default.seen) == 3


def test_types_to_pause_are_those_with_a_handler() -> None:
    registry = HandlerRegistry({"a": Handler.of(Order()), "b": Handler.of(Order())})

    async def check() -> None:
        async with running_pool(registry.table) as pool:
            assert pool.paused.select(None) == {"a", "b"}
            assert pool.paused.select(["b", "b"]) == {"b"}
            with pytest.raises(ValueError, match=r"with a handler \('a', 'b'\), got 'c'"):
                pool.paused.select(["a", "c"])

    trio.run(check)


async def test_handler_that_is_paused_holds_its_jobs_from_the_start() -> None:
    mail = Order()
    handlers = {"mail": Handler.of(mail, paused=True), "other": Handler.of(Order())}
    async with running_pool(handlers) as pool:
        submit(pool, "mail", 2)
        await wait_all_tasks_blocked()
        assert (mail.seen, pool.paused.types) == ([], ["mail"])
        await pool.paused.resume(["mail"])
        await wait_all_tasks_blocked()
        assert sorted(mail.seen) == [0, 1]


async def test_stop_leaves_held_jobs_and_tells_them_from_others() -> None:
    gate = trio.Event()
    mail = Order()

    async def work(_: object) -> None:
        await gate.wait()

    async with running_pool({"mail": mail, "work": work}, workers=1) as pool:
        pool.paused.pause(["mail"])
        held = submit(pool, "mail", 2)
        await wait_all_tasks_blocked()
        [running] = submit(pool, "work", 1)
        await wait_all_tasks_blocked()
        buffered = submit(pool, "mail", 1, first=2)
        unfinished = pool.parts.pool.unfinished()
        assert [job.id for job in unfinished.begun] == [running.id]
        assert [job.id for job in unfinished.not_begun] == [buffered[0].id]
        pool.parts.admission.close()
        gate.set()

    left = pool.parts.pool.left_behind()
    assert [job.id for job in left.held] == [job.id for job in held + buffered]
    assert (left.begun, left.not_begun, left.waiting, left.count) == ([], [], [], 3)
    assert mail.seen == []
    assert pool.status(running) is COMPLETED


async def test_resume_once_the_stop_has_begun_runs_no_job() -> None:
    mail = Order()
    async with running_pool({"mail": mail}, workers=1) as pool:
        pool.paused.pause(["mail"])
        held = submit(pool, "mail", 3)
        await wait_all_tasks_blocked()
        pool.parts.admission.close()
        await pool.paused.resume(["mail"])

    assert statuses(pool, held) == [PENDING] * 3
    assert pool.parts.pool.left_behind().count == 3


@pytest.mark.parametrize("step", range(6))
async def test_cancelled_caller_resumes_all_the_same(step: int) -> None:
    mail = Order()
    async with running_pool({"mail": mail}, workers=1, buffer_size=900) as pool:
        pool.paused.pause(["mail"])
        submit(pool, "mail", 900)
        await wait_all_tasks_blocked()
        await cancelled_after(step, lambda: pool.paused.resume(["mail"]))

    assert mail.seen == [*range(900)]


async def test_type_that_is_paused_again_during_its_resume_stays_paused() -> None:
    mail = Order()
    async with running_pool({"mail": mail}, workers=1, buffer_size=900) as pool:
        pool.paused.pause(["mail"])
        submit(pool, "mail", 900)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.paused.resume, ["mail"])
            while pool.parts.pool.schedule.held == 900:
                await trio.lowlevel.checkpoint()
            pool.paused.pause(["mail"])
        await wait_all_tasks_blocked()
        begun = len(mail.seen)
        assert 0 <= begun < 900
        assert pool.parts.pool.schedule.held == 900 - begun
        assert moves(pool) is pool.paused
        await pool.paused.resume(["mail"])

    assert sorted(mail.seen) == [*range(900)]


async def test_second_copy_of_an_id_does_not_run_a_held_job() -> None:
    mail = Order()
    async with running_pool({"mail": mail}, workers=1) as pool:
        pool.paused.pause(["mail"])
        [job] = submit(pool, "mail", 1)
        pool.parts.send.send_nowait(job.id)
        await wait_all_tasks_blocked()
        assert (mail.seen, pool.parts.pool.schedule.held) == ([], 1)
        await pool.paused.resume(["mail"])
        await wait_all_tasks_blocked()
        assert mail.seen == [0]


# With limited types. ---------------------------------------------------------------------------


def limited(mail: Order, number: int) -> dict[str, Handler]:
    return {"mail": Handler.of(mail, max_running=number), "other": Handler.of(Order())}


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_limited_type_keeps_its_order_and_its_limit_over_a_pause(
    number: int, autojump_clock: MockClock
) -> None:
    assert autojump_clock
    mail = Order(1)
    async with running_pool(limited(mail, number), workers=4) as pool:
        submit(pool, "mail", 12)
        await trio.sleep(1.5)  # some run, the others are held for the limit
        begun = len(mail.seen)
        pool.paused.pause(["mail"])
        submit(pool, "mail", 8, first=12)
        await trio.sleep(10)
        assert len(mail.seen) == begun
        statistics = pool.parts.pool.statistics()
        assert (statistics.held, statistics.busy) == (20 - begun, 0)
        limits = pool.paused._layer
        assert isinstance(limits, TypeLimits)
        assert limits._limits["mail"].free == number  # type: ignore[union-attr]
        await pool.paused.resume(["mail"])
        await trio.sleep(100)

    assert sorted(mail.seen) == [*range(20)]
    assert mail.most == number


async def test_drain_runs_what_its_limit_holds_and_leaves_what_is_paused(
    autojump_clock: MockClock,
) -> None:
    assert autojump_clock
    mail, slow = Order(), Order(1)
    handlers = {"mail": Handler.of(mail, max_running=1), "slow": Handler.of(slow, max_running=1)}
    async with running_pool(handlers, workers=3) as pool:
        pool.paused.pause(["mail"])
        held = submit(pool, "mail", 3)
        submit(pool, "slow", 5)
        await trio.sleep(0.5)
        held += submit(pool, "mail", 3, first=3)
        pool.parts.admission.close()

    assert (mail.seen, sorted(slow.seen)) == ([], [*range(5)])
    assert [job.id for job in pool.parts.pool.left_behind().held] == [job.id for job in held]


async def test_pause_while_the_limit_hands_a_place_on(autojump_clock: MockClock) -> None:
    assert autojump_clock
    mail = Order(1)
    async with running_pool(limited(mail, 1), workers=2) as pool:
        submit(pool, "mail", 5)
        await trio.sleep(0.5)
        pool.paused.pause(["mail"])
        await trio.sleep(5)  # the place went from job to job, and is free
        assert (len(mail.seen), pool.parts.pool.schedule.held) == (1, 4)
        await pool.paused.resume(["mail"])
        await trio.sleep(1.5)
        pool.paused.pause(["mail"])
        await trio.sleep(5)
        assert (len(mail.seen), pool.parts.pool.schedule.held) == (3, 2)
        await pool.paused.resume(["mail"])
        await trio.sleep(5)

    assert sorted(mail.seen) == [*range(5)]
    assert mail.most == 1
