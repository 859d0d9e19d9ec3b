"""Admission: one step, all or nothing, at whatever step a client is cancelled."""

import logging
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from itertools import count
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.support import NONE_DROPPED, NOON, At, MemoryStore, Parts, make_parts, start_workers
from trio_jobs import Ending, IdempotencyKey, Job, JobStatus, Outcome
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.ids import Uuid7
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import QueueFullError, ShuttingDownError
from trio_jobs.pool.store import DuplicateJobError, JobNotFoundError, StoreStatistics

EMPTY = StoreStatistics(
    pending=0, processing=0, completed=0, completed_bytes=0, dropped=NONE_DROPPED
)


def some(n: int) -> list[JobSpec]:
    return [JobSpec("test", b"%d" % i) for i in range(n)]


def drained(receive: trio.MemoryReceiveChannel[str]) -> list[str]:
    """The ids in the channel; takes them out."""
    ids = []
    while True:
        try:
            ids.append(receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return ids


def stored(store: MemoryStore) -> list[str]:
    return [job.id for job in store.page_nowait(limit=10_000)]


async def receiver(receive: trio.MemoryReceiveChannel[str], received: list[str]) -> None:
    async for job_id in receive:
        received.append(job_id)  # noqa: PERF401  (a comprehension would keep them to itself)


# One job. -------------------------------------------------------------------------------------


async def test_admitted_job_is_pending_in_the_store_and_its_id_in_the_channel() -> None:
    parts = make_parts()

    job = parts.admission.submit("email", b"{}")

    assert job == Job(id=job.id, type="email", payload=b"{}", created_at=NOON)
    assert parts.store.find_nowait(job.id) == job
    assert drained(parts.receive) == [job.id]


@pytest.mark.usefixtures("pythons_own_ctrl_c")
@pytest.mark.parametrize("number", [1, 3])
def test_ctrl_c_lands_after_the_step_and_not_within_it(number: int) -> None:
    def now() -> datetime:
        if made:
            signal.raise_signal(signal.SIGINT)
        return NOON

    made: list[Parts] = []

    async def main() -> None:
        parts = make_parts(now=now)
        made.append(parts)
        if number == 1:
            parts.admission.submit("email", b"{}")
        else:
            parts.admission.submit_all(some(number))
        await trio.lowlevel.checkpoint()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    ids = stored(made[0].store)
    assert len(ids) == number
    assert drained(made[0].receive) == ids


async def test_submitting_is_one_step_also_where_it_is_awaited() -> None:
    parts = make_parts(buffer_size=2)

    with assert_no_checkpoints():
        parts.admission.submit("test", b"null")
        await parts.admission.admit(JobSpec("test", b"null"))
        with pytest.raises(QueueFullError):
            await parts.admission.admit_all(some(1))
        parts.admission.close()


class Witness(MemoryStore):
    """A store that remembers every job that was ever visible in it."""

    ever_visible: list[str]

    def add(self, job: Job) -> None:
        super().add(job)
        self.ever_visible = [*getattr(self, "ever_visible", []), job.id]


@pytest.mark.parametrize("why", ["full", "closed", "no worker"])
async def test_refused_job_was_not_visible_even_for_a_moment(why: str) -> None:
    parts = make_parts(buffer_size=1, store_class=Witness)
    error: type[Exception] = ShuttingDownError
    kept = [] if why == "no worker" else [parts.admission.submit("test", b"null").id]
    if why == "full":
        error = QueueFullError
    elif why == "closed":
        parts.admission.close()
    else:
        parts.receive.close()
    text = "no room in the buffer" if why == "full" else "shutting down"

    for _ in range(2):
        with pytest.raises(error, match=rf"\A{text}\Z"):
            parts.admission.submit("test", b"null")
        with pytest.raises(error, match=rf"\A{text}\Z"):
            parts.admission.submit_all(some(1))

    assert getattr(parts.store, "ever_visible", []) == stored(parts.store) == kept
    if why != "no worker":
        assert drained(parts.receive) == kept


@pytest.mark.interleavings(20)
async def test_ids_and_times_are_in_the_order_of_admission() -> None:
    moments = map(datetime.fromtimestamp, count(), iter(lambda: NOON.tzinfo, None))
    parts = make_parts(buffer_size=1000, now=moments.__next__)

    async def client() -> None:
        for _ in range(10):
            parts.admission.submit("test", b"null")
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client)

    jobs = parts.store.page_nowait(limit=1000)
    assert drained(parts.receive) == [job.id for job in jobs]
    assert [job.created_at for job in jobs] == sorted(job.created_at for job in jobs)
    assert len(jobs) == 100


@pytest.mark.parametrize("due", [None, 0.0])
async def test_a_re_run_is_admitted_as_one_however_it_is_submitted(due: float | None) -> None:
    parts = make_parts()
    old = parts.admission.submit("test", b"1")
    parts.workers.claim(parts.receive.receive_nowait())
    parts.workers.complete(old.id, Ending(outcome=Outcome.FAILED))

    new = await parts.admission.admit(JobSpec("test", b"1", due, rerun_of=old.id))

    assert new.rerun_of == old.id
    assert parts.store.find_nowait(old.id).rerun_as == new.id


async def test_second_submission_with_a_key_leaves_no_id_without_a_record() -> None:
    parts = make_parts()
    key = IdempotencyKey(text="k", digest=b"digest")
    job = await parts.admission.admit(JobSpec("test", b"null", key=key))

    with pytest.raises(DuplicateJobError):
        await parts.admission.admit(JobSpec("test", b"null", key=key))
    with pytest.raises(DuplicateJobError):
        await parts.admission.admit_all([JobSpec("test", b"1"), JobSpec("test", b"2", key=key)])

    assert parts.store.find_key_nowait("k") == job
    assert drained(parts.receive) == stored(parts.store) == [job.id]
    assert parts.capacity.free == 99


# Many at once. --------------------------------------------------------------------------------


async def test_all_are_admitted_in_their_order() -> None:
    parts = make_parts(buffer_size=3)

    jobs = parts.admission.submit_all(some(3))

    assert [job.payload for job in jobs] == [b"0", b"1", b"2"]
    assert drained(parts.receive) == stored(parts.store) == [job.id for job in jobs]
    assert parts.admission.submit_all([]) == []


async def test_if_there_is_not_room_for_all_none_is_admitted() -> None:
    parts = make_parts(buffer_size=3)
    first = parts.admission.submit("test", b"null")

    with pytest.raises(QueueFullError):
        parts.admission.submit_all(some(3))

    assert parts.capacity.free == 2
    assert stored(parts.store) == drained(parts.receive) == [first.id]


async def test_running_workers_are_slots_beside_the_buffer(nursery: trio.Nursery) -> None:
    parts = make_parts(workers=3, buffer_size=2)
    begun = start_workers(parts, nursery)
    await wait_all_tasks_blocked()
    assert parts.capacity.free == 5

    with pytest.raises(QueueFullError):
        parts.admission.submit_all(some(6))
    assert parts.store.statistics() == EMPTY
    jobs = parts.admission.submit_all(some(5))
    with pytest.raises(QueueFullError):
        parts.admission.submit("test", b"null")

    await wait_all_tasks_blocked()
    assert sorted(begun) == [job.id for job in jobs[:3]]
    assert parts.admission.buffered == 2


async def test_job_with_a_slot_finds_room_in_the_channel_though_its_worker_is_cancelled() -> None:
    parts = make_parts(workers=3, buffer_size=2)

    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        # The workers have not even run again, but will never receive.
        jobs = parts.admission.submit_all(some(5))

    assert parts.pool.unfinished().ids == ([], [job.id for job in jobs])
    assert parts.capacity.free == 2 - 5


async def test_peak_of_the_buffer_is_the_most_that_waited_at_once(nursery: trio.Nursery) -> None:
    parts = make_parts(workers=1, buffer_size=3)
    assert parts.admission.peak_buffered == 0
    parts.admission.submit_all(some(2))
    start_workers(parts, nursery)  # one takes a job, and keeps it
    await wait_all_tasks_blocked()

    parts.admission.submit_all(some(2))

    assert parts.admission.peak_buffered == 3
    with pytest.raises(QueueFullError):
        parts.admission.submit("test", b"null")
    assert parts.admission.peak_buffered == parts.capacity.buffer_size


async def test_jobs_that_idle_workers_take_do_not_use_the_buffer(nursery: trio.Nursery) -> None:
    parts = make_parts(workers=2)
    start_workers(parts, nursery)
    await wait_all_tasks_blocked()

    parts.admission.submit_all(some(2))

    assert (parts.admission.buffered, parts.admission.peak_buffered) == (0, 0)


async def test_closing_refuses_more_and_keeps_what_is_in() -> None:
    parts = make_parts()
    admitted = parts.admission.submit("test", b"null")
    assert not parts.admission.closed

    parts.admission.close()
    parts.admission.close()

    assert parts.admission.closed
    with pytest.raises(ShuttingDownError):
        parts.admission.submit_all([])
    assert stored(parts.store) == drained(parts.receive) == [admitted.id]
    with pytest.raises(trio.EndOfChannel):
        await parts.receive.receive()


# Exceptions: no slot is lost. -------------------------------------------------------------------


class ProgramError(Exception):
    """Raised by code of the program's, or because memory is exhausted."""


def fail() -> NoReturn:
    raise ProgramError


async def submit(admission: Admission) -> None:
    admission.submit("test", b"0")


async def submit_all(admission: Admission) -> None:
    admission.submit_all(some(3))


async def admit(admission: Admission) -> None:
    key = IdempotencyKey(text="k", digest=b"digest")
    await admission.admit(JobSpec("test", b"0", key=key))


async def admit_up_to(admission: Admission) -> None:
    await admission.admit_up_to(some(3))


async def admit_up_to_nowait(admission: Admission) -> None:
    admission.admit_up_to_nowait(some(3))


ways_in = pytest.mark.parametrize(
    "way_in", [submit, submit_all, admit, admit_up_to, admit_up_to_nowait]
)
WayIn = Callable[[Admission], Awaitable[None]]


@ways_in
@pytest.mark.parametrize("broken", ["now", "new_id"])
async def test_without_an_id_and_a_time_no_job_is_admitted(way_in: WayIn, broken: str) -> None:
    parts = make_parts(buffer_size=4)
    ids = iter([] if way_in in (submit, admit) else [Uuid7()()])  # then the second one fails
    admission = Admission(
        parts.send,
        parts.store,
        parts.capacity,
        parts.pool.schedule,
        new_id=Uuid7() if broken == "now" else lambda: next(ids, None) or fail(),
        now=fail if broken == "now" else lambda: NOON,
    )

    with pytest.raises(ProgramError):
        await way_in(admission)

    assert stored(parts.store) == drained(parts.receive) == []
    assert parts.capacity.free == 4


@ways_in
async def test_log_that_raises_costs_neither_a_slot_nor_a_job(way_in: WayIn) -> None:
    parts = make_parts(buffer_size=4)
    log = logging.getLogger("trio_jobs.pool.admission")
    log.addFilter(lambda _: fail())
    log.setLevel(logging.DEBUG)
    try:
        with pytest.raises(ProgramError):
            await way_in(parts.admission)
    finally:
        log.filters.clear()
        log.setLevel(logging.NOTSET)

    ids = stored(parts.store)
    assert len(ids) == (1 if way_in in (submit, admit) else 3)
    assert parts.capacity.free == 4 - len(ids)
    assert drained(parts.receive) == ids


@ways_in
async def test_store_that_raises_costs_no_slot(way_in: WayIn) -> None:
    class BrokenStore(MemoryStore):
        def add(self, job: Job) -> None:
            fail()

    parts = make_parts(buffer_size=4, store_class=BrokenStore)

    with pytest.raises(ProgramError):
        await way_in(parts.admission)

    [job_id] = drained(parts.receive)
    with pytest.raises(JobNotFoundError):  # what a worker logs
        parts.workers.claim(job_id)
    assert parts.capacity.free == 4


async def test_slot_that_comes_back_wakes_the_task_that_waits_for_it() -> None:
    parts = make_parts(buffer_size=3)
    admission = Admission(
        parts.send,
        parts.store,
        parts.capacity,
        parts.pool.schedule,
        new_id=fail,
        now=lambda: NOON,
    )
    parts.admission.submit("test", b"0")
    parts.admission.submit("test", b"0")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.admission.admit_up_to, some(1))
        await wait_all_tasks_blocked()  # it leaves the last slot to a single submission
        assert parts.capacity.free == 1
        with pytest.raises(ProgramError):
            admission.submit("test", b"0")

    assert len(parts.store) == 3
    assert parts.capacity.free == 0


async def test_feeding_gives_back_the_slots_of_ids_that_it_has_not_queued() -> None:
    parts = make_parts(buffer_size=4)
    ids = [job.id for job in parts.admission.submit_all(some(3))]
    drained(parts.receive)
    parts.capacity.slot_freed(3)
    assert parts.capacity.free == 4
    parts.receive.close()  # no worker is left

    with pytest.raises(ShuttingDownError):
        await parts.admission.feed(deque(ids))

    assert parts.capacity.free == 4


# Cancelled clients: at every step that Trio's scheduler makes. --------------------------------


async def body(chunks: int) -> AsyncIterator[bytes]:
    for n in range(chunks):
        await trio.lowlevel.checkpoint()
        yield b"%d" % n


async def client(parts: Parts, told: list[str], scope: trio.CancelScope) -> None:
    """Read a body, submit, answer; then a batch: what a request does, all of it cancellable."""
    with scope:
        payload = b"".join([chunk async for chunk in body(3)])
        told.append((await parts.admission.admit(JobSpec("test", payload))).id)
        await trio.lowlevel.checkpoint()
        payload = b"".join([chunk async for chunk in body(2)])
        told += [job.id for job in await parts.admission.admit_all(some(3))]
        await trio.lowlevel.checkpoint()


async def run_with_hang_up_at(step: int) -> tuple[int, bool]:
    """One client that hangs up at a step, another that stays, a task that receives.

    Returns:
        How many steps there were, and whether the client left unserved.
    """
    parts = make_parts(buffer_size=8)
    leaver = trio.CancelScope()
    told_leaver: list[str] = []
    told_other: list[str] = []
    received: list[str] = []
    with At(step, leaver.cancel) as instrument:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver, parts.receive, received)
            async with trio.open_nursery() as clients:
                clients.start_soon(client, parts, told_leaver, leaver)
                clients.start_soon(client, parts, told_other, trio.CancelScope())
            parts.admission.close()

    # All that was admitted went through the channel, once, and has its record; a step is taken
    # whole or not at all, and the client knows which.
    assert received == stored(parts.store) == sorted(told_leaver + told_other)
    assert len(told_other) == 4
    assert len(told_leaver) in (0, 1, 4)
    assert parts.store.statistics().pending == len(received)
    return instrument.steps, len(told_leaver) < 4


@pytest.mark.interleavings(5)
async def test_admission_is_atomic_wherever_the_client_hangs_up() -> None:
    steps, _ = await run_with_hang_up_at(step=0)

    unserved = [(await run_with_hang_up_at(step))[1] for step in range(1, steps + 1)]

    assert steps > 10
    assert {True, False} == set(unserved)  # early and late


# Retry-After. ---------------------------------------------------------------------------------


async def claims(capacity: Capacity, number: int, *, every: float) -> None:
    for _ in range(number):
        capacity.measure_claim()
        await trio.sleep(every)


async def test_without_any_claim_yet_clients_shall_look_again_in_a_second(
    autojump_clock: MockClock,
) -> None:
    capacity = Capacity(1)
    await trio.sleep(30)

    assert capacity.retry_after() == capacity.retry_after(slots=1000) == 1


async def test_retry_after_follows_the_time_between_claims(autojump_clock: MockClock) -> None:
    capacity = Capacity(1)

    await claims(capacity, 100, every=0.1)
    assert [capacity.retry_after(number) for number in (1, 10, 11, 100)] == [1, 1, 2, 10]

    await claims(capacity, 100, every=2.3)
    assert [capacity.retry_after(number) for number in (1, 2, 9)] == [3, 5, 21]


async def test_retry_after_is_whole_seconds_from_1_to_60(autojump_clock: MockClock) -> None:
    capacity = Capacity(1)
    capacity.measure_claim()

    answers = []
    for _ in range(100):
        answers.append(capacity.retry_after())
        await trio.sleep(0.9)

    assert answers[0] == 1
    assert answers == sorted(answers)
    assert answers[-1] == capacity.retry_after(slots=10**9) == 60
    await trio.sleep(8 * 3600)
    assert capacity.retry_after() == 60
    assert {type(answer) for answer in answers} == {int}


async def test_idle_night_does_not_make_the_next_refusal_say_a_minute(
    autojump_clock: MockClock,
) -> None:
    capacity = Capacity(1)
    await claims(capacity, 64, every=0.1)
    await trio.sleep(8 * 3600)

    await claims(capacity, 10, every=0.1)  # a burst, until the buffer is full

    assert capacity.retry_after() == 1


async def test_refusals_carry_the_measured_time(autojump_clock: MockClock) -> None:
    parts = make_parts(buffer_size=4)
    for job in parts.admission.submit_all(some(4)):
        assert parts.receive.receive_nowait() == job.id
        parts.workers.claim(job.id)
        await trio.sleep(3)
    assert parts.store.statistics().processing == 4
    assert parts.store.page_nowait(limit=1)[0].status is JobStatus.PROCESSING

    with pytest.raises(QueueFullError) as one:
        parts.admission.submit("test", b"null")
    with pytest.raises(QueueFullError) as batch:
        parts.admission.submit_all(some(5))

    assert (one.value.retry_after, batch.value.retry_after) == (3, 15)
