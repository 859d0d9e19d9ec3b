"""Jobs for a later time: admitted without a slot, bounded, all or none; none begins early."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.proof.share import scaled
from tests.support import NOON, SUCCEEDED, Parts, make_parts, start_workers
from trio_jobs import (
    Ending,
    IdempotencyKey,
    InvalidTransitionError,
    Job,
    JobStatus,
    QueueFullError,
    ShuttingDownError,
    Waiting,
)
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.store import DuplicateJobError

NOW, LATER = JobSpec("now", b"1"), JobSpec("later", b"2", 30.0)
DATE = JobSpec("date", b"3", NOON + timedelta(seconds=60))


def stored(parts: Parts) -> list[str]:
    return [job.type for job in parts.store.page_nowait(limit=1000)]


def recording(ran: list[tuple[str, float]]) -> Callable[[Job], object]:
    async def process(job: Job) -> Ending:
        ran.append((job.type, trio.current_time()))
        await trio.lowlevel.checkpoint()
        return SUCCEEDED

    return process


async def test_delayed_job_takes_no_slot_and_begins_when_it_is_due(
    autojump_clock: MockClock,
) -> None:
    parts = make_parts(buffer_size=1, now=lambda: NOON + timedelta(seconds=trio.current_time()))
    ran: list[tuple[str, float]] = []

    with assert_no_checkpoints():
        later = await parts.admission.admit(LATER)
        date = await parts.admission.admit(DATE)
    assert parts.capacity.free == 1
    assert (later.run_at, date.run_at) == (NOON + timedelta(seconds=30), DATE.due)
    assert later.waiting is date.waiting is Waiting.DELAYED
    assert (later.status, later.attempts) == (JobStatus.PENDING, 0)
    assert parts.pool.statistics().waiting == 2

    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, recording(ran))  # type: ignore[arg-type]
        await trio.sleep(100)
        parts.admission.close()

    assert ran == [("later", 30), ("date", pytest.approx(60, abs=0.01))]
    assert parts.pool.statistics().waiting == 0
    assert all(job.run_at is None for job in parts.store.page_nowait(limit=10))


@pytest.mark.parametrize("max_waiting", [0, 1, 3])
async def test_new_jobs_beyond_the_bound_are_refused_until_the_first_is_due(
    max_waiting: int, autojump_clock: MockClock
) -> None:
    parts = make_parts(max_waiting=max_waiting)
    for _ in range(max_waiting):
        parts.admission.submit("later", b"2", 30.0)
    before = stored(parts)

    for spec, seconds in ((LATER, 30), (DATE, 30), (JobSpec("x", b"1", 0.0), 30)):
        with pytest.raises(QueueFullError, match="too many jobs wait for a later time") as caught:
            parts.admission.submit(spec.type, spec.payload, spec.due)
        assert caught.value.retry_after == (seconds if max_waiting else 60)
    await trio.sleep(29.9)
    with pytest.raises(QueueFullError) as caught:
        await parts.admission.admit(LATER)
    assert caught.value.retry_after == (1 if max_waiting else 31) or not max_waiting

    assert stored(parts) == before
    parts.admission.submit("now", b"1")  # the buffer has room


async def test_batch_of_both_kinds_is_admitted_as_a_whole_and_in_order() -> None:
    parts = make_parts(buffer_size=2)

    jobs = parts.admission.submit_all([LATER, NOW, DATE, NOW])

    assert [job.type for job in jobs] == ["later", "now", "date", "now"]
    assert stored(parts) == ["later", "now", "date", "now"]
    assert sorted(job.id for job in jobs) == [job.id for job in jobs]
    assert len({job.created_at for job in jobs}) == 1
    assert parts.capacity.free == 0
    assert parts.pool.schedule.count == 2
    assert parts.send.statistics().current_buffer_used == 2


@pytest.mark.parametrize("batch", [[LATER] * 3, [NOW, LATER, LATER, LATER], [NOW, NOW, NOW, LATER]])
async def test_of_a_batch_without_room_for_all_nothing_is_kept(batch: list[JobSpec]) -> None:
    parts = make_parts(buffer_size=2, max_waiting=2)

    with pytest.raises(QueueFullError):
        await parts.admission.admit_all(batch)

    assert stored(parts) == []
    assert parts.capacity.free == 2
    assert parts.pool.schedule.count == 0
    assert parts.send.statistics().current_buffer_used == 0


@given(
    specs=st.lists(st.sampled_from([NOW, LATER, DATE]), max_size=8),
    buffer_size=st.integers(1, 5),
    max_waiting=st.integers(0, 5),
    waits=st.booleans(),
)
@settings(max_examples=scaled(100))
async def test_stream_of_both_kinds_is_admitted_in_order_as_far_as_there_is_room(
    specs: list[JobSpec],
    buffer_size: int,
    max_waiting: int,
    waits: bool,
) -> None:
    parts = make_parts(buffer_size=buffer_size, max_waiting=max_waiting)
    left = list(specs)

    async def admit() -> None:
        while left:
            if waits:
                admitted = await parts.admission.admit_up_to(left)
            else:
                admitted = parts.admission.admit_up_to_nowait(left)
                if not admitted:
                    break
            assert [job.type for job in admitted] == [each.type for each in left[: len(admitted)]]
            del left[: len(admitted)]

    async def admit_what_has_room() -> None:
        with suppress(QueueFullError):
            await admit()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(admit_what_has_room)
        await wait_all_tasks_blocked()
        has_blocked = len(nursery.child_tasks) > 0
        nursery.cancel_scope.cancel()

    assert stored(parts) == [each.type for each in specs[: len(specs) - len(left)]]
    now = stored(parts).count("now")
    assert parts.send.statistics().current_buffer_used == now
    assert parts.capacity.free == buffer_size - now
    assert parts.pool.schedule.count == len(stored(parts)) - now <= max_waiting
    if left and left[0].due is not None:
        assert parts.pool.schedule.room == 0
    elif left:
        assert parts.capacity.free <= 1
        assert has_blocked == waits


@pytest.mark.parametrize("how", ["closed", "without workers"])
async def test_ended_pool_takes_no_delayed_job(how: str) -> None:
    parts = make_parts()
    if how == "closed":
        parts.admission.close()
    else:
        parts.receive.close()

    for submit in (
        lambda: parts.admission.submit("later", b"2", 30.0),
        lambda: parts.admission.submit_all([LATER]),
        lambda: parts.admission.submit_all([NOW, LATER]),
        lambda: parts.admission.admit_up_to_nowait([LATER]),
    ):
        with pytest.raises(ShuttingDownError):
            submit()
    for admit in (parts.admission.admit_all, parts.admission.admit_up_to):
        with pytest.raises(ShuttingDownError):
            await admit([LATER])

    assert stored(parts) == []


@pytest.mark.parametrize("broken", ["now", "new_id"])
async def test_without_an_id_and_a_time_no_delayed_job_is_kept(broken: str) -> None:
    parts = make_parts(buffer_size=2)

    def fail() -> None:
        raise ZeroDivisionError

    setattr(parts.admission, f"_{broken}", fail)
    with pytest.raises(ZeroDivisionError):
        parts.admission.submit_all([NOW, LATER])

    assert stored(parts) == []
    assert parts.capacity.free == 2
    assert parts.pool.schedule.count == 0


async def test_key_of_a_delayed_job_is_known_while_it_waits() -> None:
    parts = make_parts()
    key = IdempotencyKey(text="k", digest=b"d")

    job = await parts.admission.admit(replace(LATER, key=key))

    assert await parts.store.find_keys(["k"]) == {"k": job}
    assert job.key == key
    with pytest.raises(DuplicateJobError):
        await parts.admission.admit(replace(LATER, key=key))
    assert len(parts.store) == 1


async def test_waiting_job_cannot_be_deleted() -> None:
    parts = make_parts()
    job = parts.admission.submit("later", b"2", 30.0)

    with pytest.raises(InvalidTransitionError, match="is pending; only a completed job can be"):
        await parts.store.delete(job.id)

    assert parts.pool.schedule.count == 1


async def test_delayed_jobs_that_a_stop_leaves_are_named() -> None:
    parts = make_parts()
    job = parts.admission.submit("later", b"2", 30.0)
    other = parts.admission.submit("now", b"1")

    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, recording([]))  # type: ignore[arg-type]
        await wait_all_tasks_blocked()
        parts.admission.close()

    unfinished = parts.pool.unfinished()
    assert list(unfinished.waiting) == [job]
    assert (unfinished.begun, unfinished.not_begun) == ([], [])
    assert parts.store.find_nowait(other.id).status is JobStatus.COMPLETED


@pytest.mark.parametrize("number", [20_000, pytest.param(50_000, marks=pytest.mark.proof)])
async def test_very_many_delayed_to_one_instant_run_once_each(
    number: int, autojump_clock: MockClock
) -> None:
    parts = make_parts(workers=1, buffer_size=1000, max_waiting=number, keep_completed=0)
    ran: Counter[str] = Counter()

    async def process(job: Job) -> Ending:
        ran[job.id] += 1
        return SUCCEEDED

    jobs = parts.admission.submit_all([JobSpec("x", b"1", 1000.0)] * number)
    with pytest.raises(QueueFullError):
        parts.admission.submit("later", b"2", 30.0)
    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, process)
        await trio.sleep(999)
        assert not ran
        await trio.sleep(1)
        await wait_all_tasks_blocked()
        assert trio.current_time() == 1000
        parts.admission.close()

    assert ran == dict.fromkeys([job.id for job in jobs], 1)
    assert list(ran) == sorted(ran)
