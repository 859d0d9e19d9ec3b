"""Jobs of an earlier process: each runs again, in order, and a poison job condemns no other."""

import logging
from collections import Counter
from datetime import timedelta

import msgspec.structs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.durable import DurableParts, File, make_durable_parts, start_pool
from tests.pool.test_durable_admission import Call
from tests.support import NOON, SUCCEEDED, Later, make_job
from trio_jobs import Ending, Handler, Job, JobContext, JobStatus, Outcome, RetryPolicy
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import QueueFullError


async def succeed(_: object) -> None:
    pass


HANDLERS = {"test": Handler.of(succeed), "one": Handler.of(succeed, max_running=1)}


def file_of(*jobs: Job) -> File:
    return dict(enumerate(jobs, 1))


def suspect(job_id: str, *, type: str = "test") -> Job:  # noqa: A002
    return msgspec.structs.replace(make_job(job_id, type=type), interruptions=1)


@pytest.mark.parametrize("buffer_size", [1, 3, 1000])
async def test_all_run_again_in_order_whatever_the_buffer_holds(buffer_size: int) -> None:
    jobs = [make_job(f"{n:04}") for n in range(100)]
    parts = make_durable_parts(HANDLERS, file=file_of(*jobs), workers=1, buffer_size=buffer_size)
    ran: list[str] = []

    async def process(job: Job) -> Ending:
        ran.append(job.id)
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        start_pool(parts, nursery, process)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert ran == [job.id for job in jobs]
    assert {job.outcome for job in parts.file.values()} == {Outcome.SUCCEEDED}


async def test_new_jobs_get_their_share_beside_those_that_are_recovered() -> None:
    jobs = [make_job(f"0{n:04}") for n in range(1000)]
    parts = make_durable_parts(HANDLERS, file=file_of(*jobs), workers=1, buffer_size=2)
    ran: list[str] = []

    async def process(job: Job) -> Ending:
        ran.append(job.id)
        await trio.lowlevel.checkpoint()
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        start_pool(parts, nursery, process)
        new = await parts.admission.admit_up_to([JobSpec("test", b"")])
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert ran.index(new[0].id) < 500
    assert len(ran) == 1001


async def test_waiting_job_is_due_at_its_time(autojump_clock: MockClock) -> None:
    later = msgspec.structs.replace(make_job("a"), run_at=NOON + timedelta(seconds=60))
    began = trio.current_time()
    parts = make_durable_parts(
        HANDLERS,
        file=file_of(later, make_job("b")),
        now=lambda: NOON + timedelta(seconds=trio.current_time() - began),
    )
    ran: dict[str, float] = {}

    async def process(job: Job) -> Ending:
        ran[job.id] = trio.current_time() - began
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        start_pool(parts, nursery, process)
        await trio.sleep(70)
        nursery.cancel_scope.cancel()

    assert ran == {"a": pytest.approx(60, abs=0.01), "b": 0}


async def test_job_without_a_handler_is_kept_and_named_and_can_be_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = [make_job("a", type="gone"), make_job("b"), make_job("c", type="gone")]

    with caplog.at_level(logging.WARNING):
        parts = make_durable_parts(HANDLERS, file=file_of(*jobs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        start_pool(parts, nursery)
        await wait_all_tasks_blocked()
        await parts.pool.cancel("c")
        await wait_all_tasks_blocked()
        parts.admission.close()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    [record] = [each for each in caplog.records if each.msg == "job_type_unknown"]
    assert (record.__dict__["job_type"], record.__dict__["count"]) == ("gone", 2)
    assert [job.outcome for job in parts.file.values()] == [
        None,
        Outcome.SUCCEEDED,
        Outcome.CANCELLED,
    ]
    assert parts.pool.kept == 1


async def delayed(parts: DurableParts) -> Job:
    """Submit a job that may begin in an hour."""
    async with trio.open_nursery() as nursery:
        call = Call(nursery, parts.admission.admit, JobSpec("test", b"", 3600.0))
        await wait_all_tasks_blocked()
        parts.journal.commit()
    if isinstance(call.result, Exception):
        raise call.result
    assert isinstance(call.result, Job)
    return call.result


@pytest.mark.parametrize("type_", ["test", "gone"])
async def test_old_jobs_that_are_due_leave_room_for_new_ones(type_: str) -> None:
    past = msgspec.structs.replace(make_job("past", type=type_), run_at=NOON - timedelta(seconds=1))
    jobs = [*(make_job(f"{n:04}", type=type_) for n in range(100)), past]
    parts = make_durable_parts(HANDLERS, file=file_of(*jobs), max_waiting=2)

    for _ in range(2):
        await delayed(parts)
    with pytest.raises(QueueFullError, match="too many jobs wait for a later time"):
        await delayed(parts)

    schedule = parts.pool.schedule
    assert (schedule.count, schedule.room) == (103, 0)


async def test_old_jobs_that_wait_for_a_time_count_as_new_ones_do() -> None:
    later = [
        msgspec.structs.replace(make_job(f"{n}"), run_at=NOON + timedelta(seconds=60))
        for n in range(3)
    ]
    parts = make_durable_parts(HANDLERS, file=file_of(*later), max_waiting=3)

    with pytest.raises(QueueFullError):
        await delayed(parts)


async def test_room_is_that_of_new_jobs_at_each_moment_of_a_recovery() -> None:
    known = [make_job(f"a{n}") for n in range(20)]
    unknown = [make_job(f"b{n}", type="gone") for n in range(20)]
    parts = make_durable_parts(
        HANDLERS, file=file_of(*known, *unknown), workers=1, buffer_size=2, max_waiting=5
    )
    schedule = parts.pool.schedule
    rooms: set[int] = set()

    async def process(_: Job) -> Ending:
        rooms.add(schedule.room)
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        start_pool(parts, nursery, process)
        await wait_all_tasks_blocked()
        assert (rooms, schedule.count, schedule.room) == ({5}, 20, 5)
        for job in unknown:
            await parts.pool.cancel(job.id)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert (schedule.count, schedule.room) == (0, 5)
    assert all(job.outcome is not None for job in parts.file.values())


@pytest.mark.parametrize("keeps_pending", [True, False])
async def test_stop_before_the_old_jobs_have_slots_keeps_them_or_runs_them(
    keeps_pending: bool,
) -> None:
    jobs = [make_job(f"{n:02}") for n in range(20)]
    parts = make_durable_parts(
        HANDLERS, file=file_of(*jobs), workers=1, buffer_size=2, keeps_pending=keeps_pending
    )
    began = trio.Event()
    go_on = trio.Event()

    async def process(_: Job) -> Ending:
        began.set()
        await go_on.wait()
        return SUCCEEDED

    async with trio.open_nursery() as journal:
        journal.start_soon(parts.journal.run)
        async with trio.open_nursery() as nursery:
            start_pool(parts, nursery, process)
            await began.wait()
            parts.admission.close()
            go_on.set()
        journal.cancel_scope.cancel()

    outcomes = Counter(job.outcome for job in parts.file.values())
    assert outcomes == (
        {None: 19, Outcome.SUCCEEDED: 1} if keeps_pending else {Outcome.SUCCEEDED: 20}
    )
    assert parts.pool.kept == (19 if keeps_pending else 0)


async def test_suspects_run_one_at_a_time_beside_all_others() -> None:
    jobs = [suspect(f"s{n}") for n in range(5)] + [make_job(f"t{n}") for n in range(20)]
    parts = make_durable_parts(HANDLERS, file=file_of(*jobs), workers=10)
    running: set[str] = set()
    most = {"s": 0, "t": 0}

    async def process(job: Job) -> Ending:
        running.add(job.id)
        for kind in most:
            most[kind] = max(most[kind], sum(each.startswith(kind) for each in running))
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        running.remove(job.id)
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        start_pool(parts, nursery, process)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert most["s"] == 1
    assert most["t"] > 1
    assert {job.outcome for job in parts.file.values()} == {Outcome.SUCCEEDED}


async def test_next_suspect_begins_when_the_end_of_the_last_is_on_the_disk() -> None:
    parts = make_durable_parts(HANDLERS, file=file_of(suspect("a"), suspect("b")))
    seen: list[tuple[str, Outcome | None]] = []

    async def process(job: Job) -> Ending:
        other = parts.in_file("b" if job.id == "a" else "a")
        assert other is not None
        seen.append((job.id, other.outcome))
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        start_pool(parts, nursery, process)
        for _ in range(10):
            await wait_all_tasks_blocked()
            parts.journal.commit(1)
        nursery.cancel_scope.cancel()

    assert {job_id for job_id, _ in seen} == {"a", "b"}
    assert [outcome for _, outcome in seen] == [None, Outcome.SUCCEEDED]


async def test_postponed_suspect_gives_its_turn_away(autojump_clock: MockClock) -> None:
    parts = make_durable_parts(HANDLERS, file=file_of(suspect("a"), suspect("b")), workers=5)
    order: list[tuple[str, int]] = []
    running = 0

    async def process(job: Job) -> Ending | Later:
        nonlocal running
        running += 1
        assert running == 1
        await trio.sleep(3)
        running -= 1
        order.append((job.id, job.attempts))
        return SUCCEEDED if job.attempts > 1 else Later(seconds=1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        start_pool(parts, nursery, process)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()

    assert order == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]


async def test_cancelled_suspect_holds_up_no_other() -> None:
    jobs = [suspect(each) for each in "abcd"]
    parts = make_durable_parts(HANDLERS, file=file_of(*jobs), workers=3)
    gate = trio.Event()
    ran: list[str] = []

    async def process(job: Job) -> Ending:
        if job.cancel_requested:
            return Ending(outcome=Outcome.CANCELLED)
        await gate.wait()
        ran.append(job.id)
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        start_pool(parts, nursery, process)
        await wait_all_tasks_blocked()
        for job_id in ("b", "d"):
            await parts.pool.cancel(job_id)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert sorted(ran) == ["a", "c"]
    assert {job.status for job in parts.file.values()} == {JobStatus.COMPLETED}


@pytest.mark.parametrize("keeps_pending", [False, True])
async def test_suspects_keep_the_limit_of_their_type_and_a_drain_ends(keeps_pending: bool) -> None:
    jobs = [suspect("a", type="one"), make_job("b", type="one"), suspect("c", type="one")]
    parts = make_durable_parts(
        HANDLERS, file=file_of(*jobs), workers=5, keeps_pending=keeps_pending
    )
    running = 0
    ran: list[str] = []

    async def process(job: Job) -> Ending:
        nonlocal running
        running += 1
        assert running == 1
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        running -= 1
        ran.append(job.id)
        return SUCCEEDED

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.journal.run)
            async with trio.open_nursery() as pool:
                start_pool(parts, pool, process)
                await trio.testing.wait_all_tasks_blocked()
                parts.admission.close()
            nursery.cancel_scope.cancel()

    assert sorted(ran) == ["a", "b", "c"]


@pytest.mark.parametrize("buffer_size", [1, 3, 1000])
@pytest.mark.parametrize("steps", [0, 1, 30])
async def test_drain_of_all_runs_those_that_are_not_fed_yet(buffer_size: int, steps: int) -> None:
    jobs = [make_job(f"{n:04}", type="one" if n % 10 == 5 else "test") for n in range(100)]
    jobs += [suspect(f"s{n}", type="one" if n == 3 else "test") for n in range(5)]
    parts = make_durable_parts(
        HANDLERS, file=file_of(*jobs), workers=3, buffer_size=buffer_size, keeps_pending=False
    )
    running: set[str] = set()
    ran: list[str] = []

    async def process(job: Job) -> Ending:
        running.add(job.id)
        assert sum(each.startswith("s") for each in running) <= 1
        await trio.lowlevel.checkpoint()
        running.remove(job.id)
        ran.append(job.id)
        return SUCCEEDED

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.journal.run)
            async with trio.open_nursery() as pool:
                start_pool(parts, pool, process)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                parts.admission.close()
            nursery.cancel_scope.cancel()

    assert sorted(ran) == [job.id for job in jobs]
    assert {job.outcome for job in parts.file.values()} == {Outcome.SUCCEEDED}
    assert parts.pool.kept == 0
    assert parts.pool.capacity.free == buffer_size


async def test_drain_of_all_keeps_what_is_due_later(autojump_clock: MockClock) -> None:
    later = msgspec.structs.replace(make_job("later"), run_at=NOON + timedelta(seconds=5))
    jobs = [later, make_job("again"), make_job("gone", type="gone"), make_job("cancelled")]
    jobs += [make_job(f"{n}") for n in range(20)]
    parts = make_durable_parts(
        HANDLERS, file=file_of(*jobs), workers=1, buffer_size=1, keeps_pending=False
    )

    async def process(job: Job) -> Ending | Later:
        await trio.sleep(1)
        return Later(seconds=2) if job.id == "again" else SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        async with trio.open_nursery() as pool:
            start_pool(parts, pool, process)
            await wait_all_tasks_blocked()
            parts.admission.close()
            await parts.pool.cancel("gone")
        nursery.cancel_scope.cancel()

    kept = {job.id for job in parts.file.values() if job.outcome is None}
    assert kept == {"later", "again"}
    assert parts.pool.kept == 2


async def test_drain_of_all_leaves_to_the_file_what_the_grace_period_is_too_short_for(
    autojump_clock: MockClock,
) -> None:
    jobs = [make_job(f"{n:02}") for n in range(20)] + [suspect("s0"), suspect("s1")]
    parts = make_durable_parts(
        HANDLERS, file=file_of(*jobs), workers=2, buffer_size=2, keeps_pending=False
    )

    async def process(_: Job) -> Ending:
        await trio.sleep(1)
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        with trio.move_on_after(3.5):
            async with trio.open_nursery() as pool:
                start_pool(parts, pool, process)
                await wait_all_tasks_blocked()
                parts.admission.close()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    statuses = [job.status for job in parts.file.values()]
    assert statuses == [JobStatus.COMPLETED] * 6 + [JobStatus.PENDING] * 16


async def test_clock_that_is_set_forward_in_a_drain_of_all_makes_nothing_due(
    autojump_clock: MockClock,
) -> None:
    later = msgspec.structs.replace(make_job("later"), run_at=NOON + timedelta(seconds=60))
    clock = [NOON]
    parts = make_durable_parts(
        HANDLERS,
        file=file_of(later, make_job("a"), make_job("b")),
        workers=1,
        buffer_size=1,
        keeps_pending=False,
        now=lambda: clock[0],
    )

    async def process(_: Job) -> Ending:
        await trio.sleep(1)
        clock[0] = NOON + timedelta(seconds=120)
        return SUCCEEDED

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.journal.run)
            async with trio.open_nursery() as pool:
                start_pool(parts, pool, process)
                await wait_all_tasks_blocked()
                parts.admission.close()
            nursery.cancel_scope.cancel()

    assert [job.id for job in parts.file.values() if job.outcome is None] == ["later"]


async def live(file: File, poison: str) -> tuple[File, list[str]]:
    """One life of a process that dies whenever the poison job runs: what is left, and who began."""
    parts = make_durable_parts(HANDLERS, file=file, workers=8)
    left: File | None = None
    begun: list[str] = []

    async def process(job: Job) -> Ending:
        nonlocal left
        begun.append(job.id)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        if job.id == poison:
            left = dict(parts.file)
            nursery.cancel_scope.cancel()
            await trio.sleep_forever()
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run, 2)
        start_pool(parts, nursery, process)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return dict(parts.file) if left is None else left, begun


async def test_poison_job_ends_and_no_innocent_one_with_it() -> None:
    file = file_of(*[make_job(f"{n:02}") for n in range(61)])
    lives: list[list[str]] = []

    for _ in range(6):
        file, begun = await live(file, poison="30")
        lives.append(begun)

    outcomes = {job.id: job.outcome for job in file.values()}
    assert outcomes.pop("30") is Outcome.INTERRUPTED
    assert set(outcomes.values()) == {Outcome.SUCCEEDED}
    assert all(len(begun) == len(set(begun)) for begun in lives)
    assert sum("30" in begun for begun in lives) <= 4


async def test_crash_takes_no_attempt_away(autojump_clock: MockClock) -> None:
    contexts: list[tuple[int, bool]] = []

    async def fail(_: object, context: JobContext) -> None:
        contexts.append((context.attempt, context.last_attempt))
        raise OSError

    retry = RetryPolicy(attempts=2, backoff="constant", base=1.0)
    died = msgspec.structs.replace(
        make_job("a"), status=JobStatus.PROCESSING, started_at=NOON, attempts=1
    )
    parts = make_durable_parts({"test": Handler.of(fail, retry=retry)}, file=file_of(died))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        start_pool(parts, nursery)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()

    assert contexts == [(1, False), (2, True)]
    [job] = parts.file.values()
    assert (job.outcome, job.attempts, job.interruptions) == (Outcome.FAILED, 3, 1)
