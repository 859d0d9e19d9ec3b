"""Waiting for room: in turn, in one step, and single submissions beside it get their share."""

from collections import deque
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support import SUCCEEDED, MemoryStore, Parts, make_parts, start_workers, take
from trio_jobs import Ending, Job, JobStatus
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import QueueFullError, ShuttingDownError


def some(number: int, type: str = "stream") -> list[JobSpec]:  # noqa: A002
    return [JobSpec(type, b"%d" % n) for n in range(number)]


def fill(parts: Parts) -> None:
    while parts.capacity.free:
        parts.admission.submit("filler", b"null")


async def pour(parts: Parts, submissions: list[JobSpec], admitted: list[Job]) -> None:
    """Submit all of these, as a stream would."""
    while submissions:
        jobs = await parts.admission.admit_up_to(submissions)
        admitted += jobs
        submissions = submissions[len(jobs) :]


async def test_as_many_are_admitted_as_there_is_room_for_but_the_last_place() -> None:
    parts = make_parts(buffer_size=4)

    jobs = await parts.admission.admit_up_to(some(9))

    assert len(jobs) == 3
    assert parts.capacity.free == 1


async def test_in_a_full_buffer_it_waits_and_goes_on_as_places_come_free() -> None:
    parts = make_parts(buffer_size=3)
    fill(parts)
    admitted: list[Job] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour, parts, some(4), admitted)
        for expected in (0, 1, 2, 3):
            await wait_all_tasks_blocked()
            assert len(admitted) == expected
            take(parts)
            if expected == 0:  # one of the places is left to others
                take(parts)


async def test_waiting_that_is_cancelled_has_admitted_nothing() -> None:
    parts = make_parts(buffer_size=2)
    fill(parts)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.admission.admit_up_to, some(1))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert len(parts.store) == 2
    take(parts)
    take(parts)
    assert len(await parts.admission.admit_up_to(some(1))) == 1


async def test_closing_wakes_everyone_who_waits() -> None:
    parts = make_parts(buffer_size=1)
    fill(parts)

    async def refused() -> None:
        with pytest.raises(ShuttingDownError):
            await parts.admission.admit_up_to(some(3))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(refused)
        await wait_all_tasks_blocked()
        parts.admission.close()
    await refused()

    assert len(parts.store) == 1


async def test_a_block_is_cancelled_when_the_submissions_close() -> None:
    parts = make_parts()

    async def block() -> None:
        with pytest.raises(ShuttingDownError), parts.capacity.cancel_on_close():
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(block)
        await wait_all_tasks_blocked()
        parts.admission.close()
    await block()


async def test_a_block_that_ends_before_the_submissions_close_is_left_alone() -> None:
    parts = make_parts()

    with parts.capacity.cancel_on_close():
        pass
    parts.admission.close()
    await trio.lowlevel.checkpoint()

    with parts.capacity.cancel_on_close():  # no checkpoint: nothing of it was cut off
        pass


async def test_those_who_wait_take_turns() -> None:
    parts = make_parts(buffer_size=10)
    first: list[Job] = []
    second: list[Job] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour, parts, some(1000, "a"), first)
        nursery.start_soon(pour, parts, some(1000, "b"), second)
        for _ in range(400):
            await wait_all_tasks_blocked()
            take(parts)
        await wait_all_tasks_blocked()

        assert 150 <= len(first) <= 250
        assert 150 <= len(second) <= 250
        nursery.cancel_scope.cancel()


async def succeed_a_step_later(_: Job) -> Ending:
    await trio.lowlevel.checkpoint()
    return SUCCEEDED


@pytest.mark.interleavings(3)
@pytest.mark.parametrize("buffer_size", [1, 2, 10])
@pytest.mark.parametrize("workers", [1, 10])
async def test_a_stream_alone_always_goes_on(buffer_size: int, workers: int) -> None:
    parts = make_parts(workers=workers, buffer_size=buffer_size)
    admitted: list[Job] = []

    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, succeed_a_step_later)
        await pour(parts, some(300), admitted)
        parts.admission.close()

    assert [job.payload for job in admitted] == [b"%d" % n for n in range(300)]
    assert parts.store.statistics().completed == 300


@pytest.mark.interleavings(3)
@pytest.mark.parametrize("buffer_size", [1, 2, 10])
@pytest.mark.parametrize("workers", [1, 10])
async def test_single_submissions_beside_streams_share_the_places_with_them(
    buffer_size: int, workers: int
) -> None:
    parts = make_parts(workers=workers, buffer_size=buffer_size)
    streamed: list[Job] = []
    single: list[Job] = []

    async def submit_singly() -> None:
        while len(streamed) + len(single) < 200:
            with suppress(QueueFullError):
                single.append(parts.admission.submit("single", b"null"))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, succeed_a_step_later)
        async with trio.open_nursery() as clients:
            clients.start_soon(pour, parts, some(100_000), streamed)
            clients.start_soon(pour, parts, some(100_000), streamed)
            await submit_singly()
            clients.cancel_scope.cancel()
        parts.admission.close()

    assert len(single) >= 20  # at least one in ten
    assert len(streamed) >= 20


async def test_the_last_place_goes_to_either_kind_in_turn() -> None:
    parts = make_parts(buffer_size=3)
    fill(parts)
    admitted: list[Job] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour, parts, some(100), admitted)
        await wait_all_tasks_blocked()
        for turn in range(3):
            # The stream leaves the place alone: it is for a single submission ...
            take(parts)
            await wait_all_tasks_blocked()
            assert len(admitted) == turn
            parts.admission.submit("single", b"null")
            # ... and the next one for the stream, whoever else comes first.
            take(parts)
            with pytest.raises(QueueFullError):
                parts.admission.submit("single", b"null")
            with pytest.raises(QueueFullError):
                parts.admission.submit_all(some(1))
            await wait_all_tasks_blocked()
            assert len(admitted) == turn + 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("batch", "slots"), [(True, 1), (False, 2)])
async def test_task_that_waits_behind_a_batch_gets_the_first_slot(batch: bool, slots: int) -> None:
    parts = make_parts(buffer_size=3)
    if batch:
        parts.admission.submit_all(some(3))
    else:
        fill(parts)
    admitted: list[Job] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour, parts, some(1), admitted)
        for _ in range(slots):
            await wait_all_tasks_blocked()
            assert admitted == []
            take(parts)

    assert len(admitted) == 1


async def test_batch_that_is_refused_before_a_task_waits_gets_the_only_slot() -> None:
    parts = make_parts(buffer_size=1)
    fill(parts)
    with pytest.raises(QueueFullError):
        parts.admission.submit_all(some(1))
    admitted: list[Job] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour, parts, some(1), admitted)
        await wait_all_tasks_blocked()
        take(parts)
        await wait_all_tasks_blocked()
        assert admitted == []
        parts.admission.submit_all(some(1))
        take(parts)

    assert len(admitted) == 1


async def test_without_anyone_waiting_all_places_are_for_everyone() -> None:
    parts = make_parts(buffer_size=2)

    for submit in (fill, lambda parts: parts.admission.submit_all(some(2))):
        submit(parts)
        assert parts.capacity.free == 0
        take(parts)
        take(parts)


async def test_a_worker_that_becomes_idle_makes_room_beside_a_single_place() -> None:
    parts = make_parts(workers=1, buffer_size=1)
    finish = [trio.Event(), trio.Event(), trio.Event()]
    admitted: list[Job] = []

    async def process(job: Job) -> Ending:
        await finish[int(job.payload)].wait()
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, process)
        await wait_all_tasks_blocked()
        parts.admission.submit("running", b"0")
        await wait_all_tasks_blocked()
        parts.admission.submit("waiting", b"1")
        nursery.start_soon(pour, parts, [JobSpec("stream", b"2")], admitted)
        await wait_all_tasks_blocked()
        with pytest.raises(QueueFullError):
            parts.admission.submit("single", b"null")
        finish[0].set()
        await wait_all_tasks_blocked()
        # The one place has come free, and is kept for the client that was refused ...
        assert (parts.capacity.free, admitted) == (1, [])
        finish[1].set()
        await wait_all_tasks_blocked()
        # ... who does not come: the idle worker takes the stream's job all the same.
        assert len(admitted) == 1
        finish[2].set()
        parts.admission.close()


async def test_a_waiting_task_gets_a_slot_as_a_worker_begins_or_takes_no_job() -> None:
    parts = make_parts(workers=1, buffer_size=1)
    fill(parts)
    admitted: list[Job] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour, parts, some(2), admitted)
        await wait_all_tasks_blocked()
        assert admitted == []
        start_workers(parts, nursery)
        await wait_all_tasks_blocked()
        assert len(admitted) == 1
        nursery.cancel_scope.cancel()


# Held jobs. -----------------------------------------------------------------------------------


class HoldingStore(MemoryStore):
    """A store that holds the jobs of one type, as long as a test wants."""

    held = True

    def claim(self, job_id: str) -> Job | None:  # type: ignore[override]
        if self.held and self.find_nowait(job_id).type == "held":
            return None
        return super().claim(job_id)


async def test_held_job_stays_pending_and_runs_once_when_it_is_fed() -> None:
    parts = make_parts(workers=2, buffer_size=2, store_class=HoldingStore)
    processed: list[str] = []

    async def process(job: Job) -> Ending:
        processed.append(job.id)
        await trio.lowlevel.checkpoint()
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, process)
        await wait_all_tasks_blocked()
        held = []
        for _ in range(3):  # more than there are slots
            held += [job.id for job in parts.admission.submit_all([JobSpec("held", b"null")] * 4)]
            await wait_all_tasks_blocked()
        (other,) = parts.admission.submit_all(some(1))
        await wait_all_tasks_blocked()
        assert processed == [other.id]
        assert parts.pool.unfinished().ids == ([], held)
        assert parts.capacity.free == 4  # a held job has no slot

        HoldingStore.held = False
        nursery.start_soon(parts.admission.feed, deque(held))
        await wait_all_tasks_blocked()
        parts.admission.close()

    HoldingStore.held = True
    assert sorted(processed) == sorted([*held, other.id])
    assert parts.store.statistics().completed == len(processed) == 13


async def test_feeding_waits_for_room_and_ends_with_the_admission() -> None:
    parts = make_parts(workers=1, buffer_size=2, store_class=HoldingStore)
    held = parts.admission.submit_all([JobSpec("held", b"null")] * 2)
    for _ in held:
        assert parts.workers.claim(parts.receive.receive_nowait()) is None
    fill(parts)
    ended: list[bool] = []

    async def feed() -> None:
        ids = deque(job.id for job in held)
        with pytest.raises(ShuttingDownError):
            await parts.admission.feed(ids)
        assert list(ids) == [job.id for job in held]
        ended.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed)
        await wait_all_tasks_blocked()
        assert not ended
        parts.admission.close()

    assert ended
    assert {parts.store.find_nowait(job.id).status for job in held} == {JobStatus.PENDING}
