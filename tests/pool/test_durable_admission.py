"""Admission over a file: a job is in when it is on the disk, and never twice."""

from datetime import timedelta
from typing import cast

import msgspec.structs
import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.durable import TIMEOUT, DurableParts, StepReader, make_durable_parts, start_pool
from tests.support import NOON, SUCCEEDED
from trio_jobs import Ending, Handler, IdempotencyKey, Job, JobError, JobStatus, Outcome
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import (
    QueueFullError,
    ShuttingDownError,
    StoreTimeoutError,
    StoreUnavailableError,
    StoreWriteError,
)
from trio_jobs.pool.reruns import Selection, rerun_all
from trio_jobs.pool.store import DuplicateJobError, InvalidTransitionError, JobNotFoundError

SPEC = JobSpec("test", b"null")


async def sleep_forever(_: object) -> None:
    await trio.sleep_forever()


ENDLESS = {"default": Handler.of(sleep_forever)}


def key(text: str = "k") -> IdempotencyKey:
    return IdempotencyKey(text=text, digest=b"")


async def admitted(parts: DurableParts, *specs: JobSpec) -> list[Job]:
    """Admit these, with a disk that answers."""
    jobs: list[Job] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        jobs = await parts.admission.admit_all(specs or [SPEC])
        nursery.cancel_scope.cancel()
    return jobs


class Call:
    """A task that admits; its outcome."""

    def __init__(self, nursery: trio.Nursery, call: object, *args: object, **more: object) -> None:
        self.result: object = None
        self.scope = trio.CancelScope()

        @nursery.start_soon
        async def run() -> None:
            with self.scope:
                try:
                    self.result = await call(*args, **more)  # type: ignore[operator]
                except Exception as error:  # noqa: BLE001 - the test looks at it
                    self.result = error


async def test_job_is_not_there_before_it_is_on_the_disk() -> None:
    parts = make_durable_parts()

    async with trio.open_nursery() as nursery:
        call = Call(nursery, parts.admission.admit, SPEC)
        await wait_all_tasks_blocked()
        before = (call.result, await parts.store.page(limit=10), parts.admission.buffered)
        parts.journal.commit()
        await wait_all_tasks_blocked()

    assert before == (None, [], 0)
    assert isinstance(call.result, Job)
    assert parts.receive.receive_nowait() == call.result.id
    assert [job.id for job in parts.file.values()] == [call.result.id]
    assert await parts.store.find(call.result.id) == call.result


async def test_slots_are_reserved_while_jobs_are_on_their_way_to_the_disk() -> None:
    parts = make_durable_parts(buffer_size=2)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            Call(nursery, parts.admission.admit, SPEC)
        await wait_all_tasks_blocked()
        with pytest.raises(QueueFullError):
            await parts.admission.admit(SPEC)
        parts.journal.refuse()
        await wait_all_tasks_blocked()

    assert parts.pool.capacity.free == 2


async def test_refused_write_keeps_nothing_and_says_why() -> None:
    parts = make_durable_parts(buffer_size=3)

    async with trio.open_nursery() as nursery:
        call = Call(nursery, parts.admission.admit_all, [SPEC, SPEC, JobSpec("test", b"", 5.0)])
        await wait_all_tasks_blocked()
        parts.journal.refuse("database or disk is full")

    assert isinstance(call.result, StoreWriteError)
    assert str(call.result) == "database or disk is full"
    assert (parts.pool.capacity.free, parts.pool.schedule.count, parts.file) == (3, 0, {})
    assert await admitted(parts)  # the next one is tried again


async def test_client_that_leaves_during_the_commit_changes_nothing() -> None:
    parts = make_durable_parts(buffer_size=1)

    async with trio.open_nursery() as nursery:
        call = Call(nursery, parts.admission.admit, SPEC)
        await wait_all_tasks_blocked()
        call.scope.cancel()
        await wait_all_tasks_blocked()
        with pytest.raises(QueueFullError):
            await parts.admission.admit(SPEC)
        parts.journal.commit()

    [job] = parts.file.values()
    assert parts.receive.receive_nowait() == job.id


async def test_stream_knows_how_many_jobs_are_in_although_it_is_cancelled() -> None:
    parts = make_durable_parts(buffer_size=3)

    async with trio.open_nursery() as nursery:
        call = Call(nursery, parts.admission.admit_up_to, [SPEC] * 5)
        await wait_all_tasks_blocked()
        call.scope.cancel()
        await wait_all_tasks_blocked()
        before = call.result
        parts.journal.commit()

    assert before is None
    assert isinstance(call.result, list)
    assert [job.id for job in call.result] == [job.id for job in parts.file.values()]


async def test_batch_is_one_commit_and_keeps_its_order() -> None:
    parts = make_durable_parts()

    jobs = await admitted(parts, *[JobSpec("test", b"%d" % n) for n in range(5)])

    assert [job.payload for job in parts.file.values()] == [b"0", b"1", b"2", b"3", b"4"]
    assert [parts.receive.receive_nowait() for _ in jobs] == [job.id for job in jobs]


async def test_delayed_jobs_count_against_the_waiting_room_while_they_are_written() -> None:
    parts = make_durable_parts(max_waiting=2)
    delayed = JobSpec("test", b"null", 60.0)

    async with trio.open_nursery() as nursery:
        calls = [Call(nursery, parts.admission.admit, delayed) for _ in range(3)]
        await wait_all_tasks_blocked()
        refused = [call for call in calls if isinstance(call.result, QueueFullError)]
        parts.journal.commit()

    assert len(refused) == 1
    assert parts.pool.schedule.count == 2


async def test_delay_counts_from_the_submission_not_from_the_commit(
    autojump_clock: MockClock,
) -> None:
    parts = make_durable_parts(ENDLESS)

    async with trio.open_nursery() as nursery:
        start_pool(parts, nursery)
        Call(nursery, parts.admission.admit, JobSpec("test", b"null", 5.0))
        await trio.sleep(3)
        parts.journal.commit()
        await trio.sleep(1.9)
        early = dict(parts.pool.executor.running)
        await trio.sleep(0.2)
        late = dict(parts.pool.executor.running)
        nursery.cancel_scope.cancel()

    assert (len(early), len(late)) == (0, 1)


# Time. -----------------------------------------------------------------------------------------


async def test_disk_that_hangs_is_not_waited_for_for_ever(autojump_clock: MockClock) -> None:
    parts = make_durable_parts(buffer_size=1)

    with pytest.raises(StoreTimeoutError):
        await parts.admission.admit(SPEC)

    assert trio.current_time() == TIMEOUT
    parts.journal.commit()  # unknown: in this case it has come in
    assert parts.admission.buffered == 1


async def test_no_job_is_taken_while_the_disk_hangs() -> None:
    parts = make_durable_parts()
    parts.journal.oldest_unwritten_seconds = TIMEOUT + 1

    for submit in (parts.admission.admit(SPEC), parts.admission.admit_all([SPEC])):
        with pytest.raises(StoreUnavailableError):
            await submit
    with pytest.raises(StoreUnavailableError):
        await parts.admission.admit_up_to([SPEC])

    assert parts.journal.entries == []


@pytest.mark.parametrize("others", [[], [SPEC]], ids=["single", "batch"])
async def test_repetition_of_a_job_under_way_to_a_disk_that_hangs_is_unknown(
    others: list[JobSpec], autojump_clock: MockClock
) -> None:
    parts = make_durable_parts()
    specs = [*others, replace(SPEC, key=key())]
    with pytest.raises(StoreTimeoutError):
        await parts.admission.admit(specs[-1])
    parts.journal.oldest_unwritten_seconds = TIMEOUT + 1

    for submit in (parts.admission.admit_all, parts.admission.admit_up_to):
        with pytest.raises(StoreTimeoutError):
            await submit(specs)

    assert len(parts.journal.entries) == 1


async def test_submission_tries_a_disk_that_fails() -> None:
    parts = make_durable_parts()
    parts.journal.oldest_unwritten_seconds = TIMEOUT + 1
    parts.journal.failing = (0.0, "full")

    assert len(await admitted(parts)) == 1


# Names. ----------------------------------------------------------------------------------------


async def test_second_request_with_a_key_waits_for_the_commit_of_the_first() -> None:
    parts = make_durable_parts()

    async with trio.open_nursery() as nursery:
        first = Call(nursery, parts.admission.admit, replace(SPEC, key=key()))
        second = Call(nursery, parts.admission.admit, replace(SPEC, key=key()))
        await wait_all_tasks_blocked()
        assert len(parts.journal.entries) == 1
        parts.journal.commit()

    assert sorted(type(call.result).__name__ for call in (first, second)) == [
        "DuplicateJobError",
        "Job",
    ]
    found = await parts.store.find_keys(["k"])
    assert found["k"] in (first.result, second.result)


async def test_second_request_with_a_key_is_taken_if_the_first_is_refused() -> None:
    parts = make_durable_parts()

    async with trio.open_nursery() as nursery:
        calls = [Call(nursery, parts.admission.admit, replace(SPEC, key=key())) for _ in range(2)]
        await wait_all_tasks_blocked()
        parts.journal.refuse()
        await wait_all_tasks_blocked()
        parts.journal.commit()

    kinds = sorted(type(call.result).__name__ for call in calls)
    assert kinds == ["Job", "StoreWriteError"]


async def test_key_of_a_job_that_is_only_in_the_file_is_refused_by_the_file() -> None:
    done = Job(
        id="0",
        type="test",
        payload=b"",
        created_at=NOON,
        key=key(),
        status=JobStatus.COMPLETED,
        ending=SUCCEEDED,
    )
    parts = make_durable_parts(file={1: done})

    async with trio.open_nursery() as nursery:
        call = Call(nursery, parts.admission.admit, replace(SPEC, key=key()))
        await wait_all_tasks_blocked()
        parts.journal.commit()

    assert isinstance(call.result, DuplicateJobError)
    assert (await parts.store.find_keys(["k", "other"])) == {"k": done}


@pytest.mark.parametrize("leaves", [False, True])
async def test_key_is_free_for_others_only_after_the_commit_even_if_its_client_leaves(
    leaves: bool,
) -> None:
    parts = make_durable_parts()

    async with trio.open_nursery() as nursery:
        first = Call(nursery, parts.admission.admit, replace(SPEC, key=key()))
        await wait_all_tasks_blocked()
        if leaves:
            first.scope.cancel()
        second = Call(nursery, parts.admission.admit, replace(SPEC, key=key()))
        await wait_all_tasks_blocked()
        parts.journal.commit()

    assert isinstance(second.result, DuplicateJobError)
    assert len(parts.file) == 1


FAILED = Job(
    id="0",
    type="test",
    payload=b"",
    created_at=NOON,
    status=JobStatus.COMPLETED,
    ending=Ending(outcome=Outcome.FAILED, error=JobError(type="E", message="m")),
)


async def test_rerun_marks_the_old_job_and_adds_the_new_one_in_one_commit() -> None:
    parts = make_durable_parts(file={1: FAILED})

    [new] = await admitted(parts, JobSpec("test", b"", rerun_of="0"))

    old = await parts.store.find("0")
    assert (old.rerun_as, new.rerun_of) == (new.id, "0")


async def test_job_is_rerun_once_however_many_ask() -> None:
    parts = make_durable_parts(file={1: FAILED})

    async with trio.open_nursery() as nursery:
        calls = [
            Call(nursery, parts.admission.admit_all, [JobSpec("test", b"", rerun_of="0")])
            for _ in range(5)
        ]
        for _ in range(20):
            await wait_all_tasks_blocked()
            parts.journal.commit()

    kinds = [type(call.result) for call in calls]
    assert kinds.count(list) == 1
    assert kinds.count(InvalidTransitionError) == 4
    assert len(parts.file) == 2


async def test_many_are_rerun_although_others_are_rerun_meanwhile() -> None:
    """Each re-run that comes in makes the others look again, but only at its own job."""
    jobs = [msgspec.structs.replace(FAILED, id=f"{n:03}") for n in range(200)]
    parts = make_durable_parts(file=dict(enumerate(jobs, 1)), buffer_size=1000)
    specs = [JobSpec("test", b"", rerun_of=job.id) for job in jobs]

    async with trio.open_nursery() as nursery:
        many = Call(nursery, parts.admission.admit_all, specs[:100])
        nursery.start_soon(parts.journal.run)
        for spec in specs[100:]:
            await parts.admission.admit_all([spec])
        with trio.fail_after(60):
            while many.result is None:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    assert isinstance(many.result, list)
    assert len(parts.file) == 400


async def test_old_jobs_of_many_reruns_are_read_together() -> None:
    jobs = [msgspec.structs.replace(FAILED, id=f"{n:03}", payload=b"null") for n in range(500)]
    parts = make_durable_parts(ENDLESS, file=dict(enumerate(jobs, 1)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.journal.run)
        new = await rerun_all(parts.pool, Selection.of(None, None, 250))
        nursery.cancel_scope.cancel()

    assert [job.rerun_of for job in new] == [job.id for job in jobs[:250]]
    # Their payloads for their handlers, all of them once more before the step, and in that.
    assert cast("StepReader", parts.store._reader).many == [100, 100, 50, 250, 250]


async def test_of_tasks_that_rerun_the_same_jobs_each_gets_what_the_others_leave() -> None:
    jobs = [msgspec.structs.replace(FAILED, id=f"{n:03}", payload=b"null") for n in range(9)]
    parts = make_durable_parts(ENDLESS, file=dict(enumerate(jobs, 1)))
    selections = [Selection.of(None, None, limit) for limit in (3, 3, 5, None, None)]

    async with trio.open_nursery() as nursery:
        calls = [Call(nursery, rerun_all, parts.pool, selection) for selection in selections]
        for _ in range(40):
            await wait_all_tasks_blocked()
            parts.journal.commit()

    made = [call.result for call in calls]
    assert all(isinstance(each, list) for each in made)
    new = [job for each in made if isinstance(each, list) for job in each]
    assert sorted(job.rerun_of or "" for job in new) == [job.id for job in jobs]


async def test_rerun_of_a_job_that_is_gone_is_refused() -> None:
    parts = make_durable_parts(file={1: FAILED})

    with pytest.raises(JobNotFoundError, match="no job 'gone'"):
        await parts.admission.admit_all(
            [JobSpec("test", b"", rerun_of=job_id) for job_id in ("0", "gone")]
        )

    assert parts.journal.entries == []
    assert parts.admission._stale == []


async def test_job_can_be_rerun_if_the_first_rerun_could_not_be_written() -> None:
    parts = make_durable_parts(file={1: FAILED})
    spec = JobSpec("test", b"", rerun_of="0")

    async with trio.open_nursery() as nursery:
        call = Call(nursery, parts.admission.admit_all, [spec])
        await wait_all_tasks_blocked()
        parts.journal.refuse()

    assert isinstance(call.result, StoreWriteError)
    assert (await parts.store.find("0")).rerun_as is None
    assert await admitted(parts, spec)


# Closing. --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps_pending", [True, False])
async def test_closed_admission_refuses_jobs(keeps_pending: bool) -> None:
    parts = make_durable_parts(keeps_pending=keeps_pending)
    parts.admission.close()

    with pytest.raises(ShuttingDownError):
        await parts.admission.admit(SPEC)
    with pytest.raises(ShuttingDownError):
        await parts.admission.admit_up_to([SPEC])
    with pytest.raises(ShuttingDownError):
        parts.admission.admit_up_to_nowait([SPEC])


async def test_pool_without_workers_refuses_jobs_and_writes_none() -> None:
    parts = make_durable_parts()
    async with trio.open_nursery() as pool:
        start_pool(parts, pool)
        await wait_all_tasks_blocked()
        pool.cancel_scope.cancel()

    with pytest.raises(ShuttingDownError):
        await parts.admission.admit(SPEC)
    with pytest.raises(ShuttingDownError):
        await parts.admission.admit_all([SPEC])
    with pytest.raises(ShuttingDownError):
        await parts.admission.admit_up_to([SPEC])
    assert parts.journal.entries == []


async def test_drain_of_all_waits_for_jobs_on_their_way_to_the_disk() -> None:
    parts = make_durable_parts(keeps_pending=False)
    ran: list[str] = []

    async def process(job: Job) -> Ending:
        ran.append(job.id)
        return SUCCEEDED

    with trio.fail_after(60):
        async with trio.open_nursery() as pool:
            start_pool(parts, pool, process)
            async with trio.open_nursery() as clients:
                call = Call(clients, parts.admission.admit, SPEC)
                await wait_all_tasks_blocked()
                parts.admission.close()
                await wait_all_tasks_blocked()
                parts.journal.commit()
            assert isinstance(call.result, Job)
            await wait_all_tasks_blocked()
            parts.journal.commit()

    assert ran == [call.result.id]
    assert [job.status for job in parts.file.values()] == [JobStatus.COMPLETED]


async def test_drain_of_all_waits_for_jobs_that_are_in_and_have_yet_to_begin() -> None:
    parts = make_durable_parts(keeps_pending=False)
    parts.journal.lets_wait = True
    ran: list[str] = []

    async def process(job: Job) -> Ending:
        ran.append(job.id)
        return SUCCEEDED

    with trio.fail_after(60):
        async with trio.open_nursery() as pool:
            start_pool(parts, pool, process)
            async with trio.open_nursery() as clients:
                call = Call(clients, parts.admission.admit, SPEC)
                await wait_all_tasks_blocked()
                parts.journal.commit()
            assert isinstance(call.result, Job)  # the client knows, and no worker
            assert parts.store.statistics().pending == 1
            parts.admission.close()
            await wait_all_tasks_blocked()
            assert ran == []
            parts.journal.make_calls()
            await wait_all_tasks_blocked()
            parts.journal.commit()

    assert ran == [call.result.id]
    assert [job.status for job in parts.file.values()] == [JobStatus.COMPLETED]


async def test_drain_of_running_jobs_leaves_in_the_file_those_that_have_yet_to_begin() -> None:
    parts = make_durable_parts(ENDLESS)
    parts.journal.lets_wait = True

    with trio.fail_after(60):
        async with trio.open_nursery() as pool:
            start_pool(parts, pool)
            async with trio.open_nursery() as clients:
                call = Call(clients, parts.admission.admit, SPEC)
                await wait_all_tasks_blocked()
                parts.journal.commit()
            parts.admission.close()
            await wait_all_tasks_blocked()
            parts.journal.make_calls()

    assert isinstance(call.result, Job)
    assert [job.status for job in parts.file.values()] == [JobStatus.PENDING]
    assert parts.pool.kept == 1


async def test_cancel_of_a_job_that_is_in_and_has_yet_to_begin_ends_it() -> None:
    parts = make_durable_parts(ENDLESS)
    parts.journal.lets_wait = True

    with trio.fail_after(60):
        async with trio.open_nursery() as pool:
            pool.start_soon(parts.journal.run)
            start_pool(parts, pool)
            job = await parts.admission.admit(SPEC)
            await parts.pool.cancel(job.id)
            parts.journal.make_calls()
            await wait_all_tasks_blocked()
            pool.cancel_scope.cancel()

    [ended] = parts.file.values()
    assert (ended.outcome, ended.attempts) == (Outcome.CANCELLED, 1)


async def test_job_that_would_begin_after_the_end_of_the_pool_stays_in_the_file() -> None:
    parts = make_durable_parts()
    parts.journal.lets_wait = True

    async with trio.open_nursery() as pool:
        start_pool(parts, pool)
        async with trio.open_nursery() as clients:
            Call(clients, parts.admission.admit, SPEC)
            await wait_all_tasks_blocked()
            parts.journal.commit()
        pool.cancel_scope.cancel()
    free = parts.pool.capacity.free
    parts.journal.make_calls()

    assert parts.pool.capacity.free == free + 1
    assert [job.status for job in parts.file.values()] == [JobStatus.PENDING]


async def test_drain_of_running_jobs_keeps_the_others_in_the_file() -> None:
    parts = make_durable_parts(ENDLESS, workers=1)
    release = trio.Event()

    async def process(_: Job) -> Ending:
        await release.wait()
        return SUCCEEDED

    with trio.fail_after(60):
        async with trio.open_nursery() as pool:
            start_pool(parts, pool, process)
            async with trio.open_nursery() as clients:
                clients.start_soon(parts.journal.run)
                first, second = await parts.admission.admit_all([SPEC, SPEC])
                await parts.admission.admit(JobSpec("test", b"null", 60.0))
                await wait_all_tasks_blocked()
                late = Call(clients, parts.admission.admit, SPEC)
                await trio.lowlevel.checkpoint()
                parts.admission.close()
                await wait_all_tasks_blocked()
                release.set()
                await wait_all_tasks_blocked()
                clients.cancel_scope.cancel()

    by_id = {job.id: job.status for job in parts.file.values()}
    assert by_id.pop(first.id) is JobStatus.COMPLETED
    assert by_id.pop(second.id) is JobStatus.PENDING
    assert set(by_id.values()) == {JobStatus.PENDING}
    assert not parts.pool.left_behind()
    assert parts.pool.kept == len(by_id) + 1
    assert late.result is None or isinstance(late.result, Job | ShuttingDownError)


async def test_drain_ends_only_when_all_ends_are_on_the_disk() -> None:
    parts = make_durable_parts(workers=2)
    ended = trio.Event()

    async def process(_: Job) -> Ending:
        return SUCCEEDED

    async def run() -> None:
        async with trio.open_nursery() as pool:
            start_pool(parts, pool, process)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        call = Call(nursery, parts.admission.admit, SPEC)
        await wait_all_tasks_blocked()
        parts.journal.commit()
        await wait_all_tasks_blocked()
        assert isinstance(call.result, Job)
        with parts.pool.waiters.subscribe(call.result.id) as completion:
            parts.admission.close()
            await wait_all_tasks_blocked()
            before = ended.is_set(), (await parts.store.find(call.result.id)).status
            parts.journal.commit()
            await completion.wait()
            seen = completion.job

    assert before == (False, JobStatus.PROCESSING)
    assert ended.is_set()
    assert seen is not None
    assert seen.status is JobStatus.COMPLETED


async def test_job_with_a_date_is_due_at_that_date_after_a_restart(
    autojump_clock: MockClock,
) -> None:
    parts = make_durable_parts()
    await admitted(parts, JobSpec("test", b"null", NOON + timedelta(seconds=60)), SPEC)

    again = make_durable_parts(ENDLESS, file=parts.journal.file, workers=1)

    assert again.pool.schedule.count == 2
    assert again.pool.schedule.room == 10_000 - 1


@pytest.mark.parametrize("ends", ["commit", "refuse"])
async def test_stream_waits_for_the_commit_of_another_task_with_the_key_of_its_first_job(
    ends: str,
) -> None:
    parts = make_durable_parts()
    keyed = replace(SPEC, key=key())

    async with trio.open_nursery() as nursery:
        first = Call(nursery, parts.admission.admit, keyed)
        await wait_all_tasks_blocked()
        stream = Call(nursery, parts.admission.admit_up_to, [keyed, SPEC])
        await wait_all_tasks_blocked()
        assert len(parts.journal.entries) == 1
        getattr(parts.journal, ends)()
        await wait_all_tasks_blocked()
        if ends == "refuse":
            parts.journal.commit()

    if ends == "commit":
        assert isinstance(first.result, Job)
        assert stream.result == []
    else:
        assert isinstance(first.result, StoreWriteError)
        assert len(parts.file) == 2
    assert parts.pool.capacity.free == 100 - len(parts.file)


async def test_stream_stops_before_a_job_whose_key_is_on_its_way() -> None:
    parts = make_durable_parts()
    keyed = replace(SPEC, key=key())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.admission.admit, keyed)
        await wait_all_tasks_blocked()
        other = replace(SPEC, key=key("other"))
        nursery.start_soon(parts.admission.admit_up_to, [SPEC, other, keyed, SPEC])
        await wait_all_tasks_blocked()
        nursery.start_soon(parts.admission.admit_up_to, [SPEC, SPEC, other, SPEC])
        await wait_all_tasks_blocked()
        parts.journal.commit()

    assert len(parts.file) == 1 + 2 + 2
    assert parts.pool.capacity.free == 95
