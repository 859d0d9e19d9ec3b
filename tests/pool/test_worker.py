"""The worker: each job once, N at a time, none left `processing`, and nothing hidden."""

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support import (
    NOON,
    SUCCEEDED,
    At,
    Later,
    MemoryStore,
    Parts,
    make_job,
    make_parts,
    start_workers,
)
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome
from trio_jobs.pool import worker
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.pool.worker import BURST_JOBS, BURST_SECONDS, Process, Workers, run_worker

NO = JobError(type="ValueError", message="no")


async def succeed(_: Job) -> Ending:
    return SUCCEEDED


async def never_returns(_: Job) -> Ending:
    await trio.sleep_forever()
    raise AssertionError


@asynccontextmanager
async def workers(number: int, parts: Parts, process: Process) -> AsyncIterator[trio.Nursery]:
    """Workers on clones of the receive end, started as `main` does; leaving the block drains."""
    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, process, number=number)
        yield nursery
        parts.admission.close()


def submit(parts: Parts, number: int = 1) -> list[str]:
    return [parts.admission.submit("test", b"null").id for _ in range(number)]


def statuses(parts: Parts) -> Counter[JobStatus]:
    return Counter(job.status for job in parts.store.page_nowait(limit=100_000))


# At the same time. ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 10])
async def test_workers_never_process_more_jobs_at_once_than_there_are_workers(number: int) -> None:
    parts = make_parts()

    async with workers(number, parts, never_returns) as nursery:
        submit(parts, number + 5)
        await wait_all_tasks_blocked()

        # The rest waits in the channel: a worker holds no second one.
        assert statuses(parts) == {JobStatus.PROCESSING: number, JobStatus.PENDING: 5}
        assert parts.send.statistics().current_buffer_used == 5
        nursery.cancel_scope.cancel()


# Once. ----------------------------------------------------------------------------------------


@pytest.mark.interleavings(20)
async def test_every_job_is_processed_exactly_once() -> None:
    parts = make_parts(buffer_size=50)
    processed: Counter[str] = Counter()
    submitted: list[str] = []

    async def process(job: Job) -> Ending:
        processed[job.id] += 1
        assert parts.store.find_nowait(job.id) == job
        assert job.status is JobStatus.PROCESSING
        for _ in range(len(processed) % 3):
            await trio.lowlevel.checkpoint()
        return SUCCEEDED

    async def client() -> None:
        while len(submitted) < 1000:
            if parts.capacity.free:
                submitted.extend(submit(parts))
            await trio.lowlevel.checkpoint()

    async with workers(7, parts, process), trio.open_nursery() as clients:
        for _ in range(3):
            clients.start_soon(client)

    assert processed == dict.fromkeys(submitted, 1)
    assert statuses(parts) == {JobStatus.COMPLETED: len(submitted)}
    assert len(submitted) >= 1000


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("processing", "job 'a' is processing; only a pending job can become processing"),
        ("completed", "job 'a' is completed; only a pending job can become processing"),
        ("released", "job 'a' was released; it is not handed out again"),
        ("dropped", "no job 'a'"),
        ("never admitted", "no job 'a'"),
    ],
)
async def test_second_copy_of_an_id_is_not_processed_and_the_worker_goes_on(
    where: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts = make_parts(keep_completed=0 if where == "dropped" else 2)
    processed: list[str] = []
    if where != "never admitted":
        parts.store.add(make_job("a"))
        parts.workers.claim("a")
    if where in ("completed", "dropped"):
        parts.workers.complete("a", SUCCEEDED)
    if where == "released":
        parts.workers.release("a")
    before = parts.store.page_nowait(limit=2)
    copies = 2 * BURST_JOBS // 3  # they do not end a burst

    async with workers(1, parts, recording(processed)):
        for _ in range(copies):
            parts.send.send_nowait("a")
        (next_job,) = submit(parts)

    assert processed == [next_job]
    assert [job for job in parts.store.page_nowait(limit=2) if job.id == "a"] == before
    assert len(caplog.records) == copies
    record = caplog.records[0]
    assert (record.name, record.levelname) == ("trio_jobs.pool.worker", "ERROR")
    assert record.message == "claim_refused"
    assert (record.job_id, record.reason) == ("a", reason)  # type: ignore[attr-defined]


def recording(processed: list[str]) -> Process:
    async def process(job: Job) -> Ending:
        processed.append(job.id)
        await trio.lowlevel.checkpoint()
        return SUCCEEDED

    return process


@pytest.mark.interleavings(10)
async def test_copies_of_pending_ids_are_processed_once() -> None:
    parts = make_parts()
    processed: list[str] = []

    async with workers(3, parts, recording(processed)):
        job_ids = submit(parts, 20)
        for job_id in job_ids:
            parts.send.send_nowait(job_id)
            parts.send.send_nowait(job_id)

    assert sorted(processed) == job_ids
    assert statuses(parts) == {JobStatus.COMPLETED: 20}


# Postponed. -----------------------------------------------------------------------------------


async def test_postponed_job_frees_its_worker_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    parts = make_parts()
    processed: list[str] = []

    async def process(job: Job) -> Ending | Later:
        processed.append(job.id)
        if job.type == "busy":
            return Later(seconds=30, error=NO)
        return Later(seconds=5, snooze=True) if job.type == "early" else SUCCEEDED

    async with workers(1, parts, process):
        ids = [parts.admission.submit(type_, b"null").id for type_ in ("busy", "early", "test")]
        await wait_all_tasks_blocked()
        free = parts.capacity.free

    assert processed == ids
    assert free == parts.capacity.buffer_size + 1
    assert statuses(parts) == {JobStatus.PENDING: 2, JobStatus.COMPLETED: 1}
    fields = [
        (record.levelname, record.job_id, record.seconds, getattr(record, "error", None))  # type: ignore[attr-defined]
        for record in caplog.records
        if record.message == "job_postponed"
    ]
    assert fields == [("WARNING", ids[0], 30, "ValueError: no"), ("INFO", ids[1], 5, None)]


# The end: drain, cancellation. ----------------------------------------------------------------


class CleanupError(Exception):
    """Raised while a process unwinds."""


async def test_cancelled_worker_releases_its_job_whatever_the_cleanup_raises() -> None:
    # `JobExecutor` never lets this out, but nothing may stay processing.
    parts = make_parts()

    async def process(_: Job) -> Ending:
        try:
            await trio.sleep_forever()
        finally:
            raise CleanupError

    with pytest.RaisesGroup(CleanupError, CleanupError):
        async with workers(2, parts, process) as nursery:
            ids = submit(parts, 5)
            await wait_all_tasks_blocked()  # two of the jobs are being processed
            nursery.cancel_scope.cancel()

    assert statuses(parts) == {JobStatus.PENDING: 5}
    assert parts.store.unfinished().ids == (ids[:2], ids[2:])


async def run_with_cancellation_at(step: int) -> int:
    """Some jobs and workers, cancelled at a step; returns how many steps there were."""
    parts = make_parts()
    channel = parts.receive.clone()
    processed: list[str] = []
    with trio.CancelScope() as scope, At(step, scope.cancel) as instrument:
        async with workers(3, parts, recording(processed)):
            submit(parts, 8)
            parts.admission.close()

    # An id is in the channel exactly as long as nobody has claimed its job.
    left = [job_id async for job_id in channel]
    begun, not_begun = parts.store.unfinished().ids
    assert left == not_begun
    assert len(processed) + len(left) == 8
    assert set(begun) <= set(processed)
    assert statuses(parts)[JobStatus.PROCESSING] == 0
    return instrument.steps


@pytest.mark.interleavings(10)
async def test_whatever_step_workers_are_cancelled_at_the_channel_and_the_store_agree() -> None:
    steps = await run_with_cancellation_at(step=0)

    for step in range(1, steps + 1):
        await run_with_cancellation_at(step)


# Bursts: quick jobs without a turn of the event loop in between. --------------------------------


@pytest.mark.parametrize("number", [1, 4])
async def test_no_job_is_refused_while_a_worker_is_idle(number: int, mock_clock: MockClock) -> None:
    # Each turn of the event loop serves every connection that is ready: 16 jobs come in.
    connections, turns = 16, 50
    parts = make_parts(buffer_size=100)
    finished = trio.Event()
    busy = connections

    async def connection() -> None:
        nonlocal busy
        for _ in range(turns):
            submit(parts)
            await trio.lowlevel.checkpoint()
        busy -= 1
        if not busy:
            finished.set()

    async with workers(number, parts, succeed) as nursery:
        for _ in range(connections):
            nursery.start_soon(connection)
        await finished.wait()

    assert statuses(parts) == {JobStatus.COMPLETED: connections * turns}


async def processed_between_turns(jobs: int, mock_clock: MockClock, *, seconds: float) -> list[int]:
    """How many jobs that never wait, and take so long, have been processed at each turn."""
    parts = make_parts(buffer_size=1000)
    processed = 0
    seen: list[int] = []

    async def process(job: Job) -> Ending:
        nonlocal processed
        processed += 1
        mock_clock.jump(seconds)
        return SUCCEEDED

    async def other() -> None:
        while processed < jobs:
            seen.append(processed)
            await trio.lowlevel.checkpoint()

    async with workers(1, parts, process) as nursery:
        submit(parts, jobs)
        nursery.start_soon(other)
    return [*seen, processed]


@pytest.mark.parametrize(
    ("seconds", "most"),
    [
        (0, BURST_JOBS),
        (BURST_SECONDS / 10, 11),  # the last one goes beyond
        (BURST_SECONDS / 2, 3),
        (2 * BURST_SECONDS, 1),
    ],
)
async def test_others_get_their_turn_within_a_bursts_bounds(
    seconds: float, most: int, mock_clock: MockClock
) -> None:
    seen = await processed_between_turns(200, mock_clock, seconds=seconds)

    # Twice, where the other one's step comes first in one turn and last in the next.
    assert max(after - before for before, after in pairwise(seen)) <= 2 * most
    assert seen[-1] == 200


@pytest.mark.parametrize("readable", [True, False], ids=["private name", "public names"])
async def test_a_pool_that_is_cancelled_is_noticed_before_the_next_job(
    readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not readable:
        monkeypatch.setattr(worker, "_readable_task", lambda: None)
    parts = make_parts()
    processed: list[str] = []

    async def process(job: Job) -> Ending:
        processed.append(job.id)
        if len(processed) == 3:
            nursery.cancel_scope.cancel()
        return SUCCEEDED

    async with workers(1, parts, process) as nursery:
        ids = submit(parts, 10)

    assert processed == ids[:3]
    assert statuses(parts) == {JobStatus.COMPLETED: 3, JobStatus.PENDING: 7}


@pytest.mark.parametrize("names", [{}, {"_cancel_status": object()}])
def test_a_task_without_the_private_names_is_not_read(
    names: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio.lowlevel, "current_task", lambda: SimpleNamespace(**names))

    assert worker._readable_task() is None


@pytest.mark.parametrize("when", ["waiting", "in a burst"])
async def test_a_worker_whose_clone_is_closed_ends_and_takes_no_other_job(when: str) -> None:
    parts = make_parts()
    clone = parts.receive.clone()
    processed: list[str] = []

    async def process(job: Job) -> Ending:
        processed.append(job.id)
        clone.close()
        return SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_worker, clone, parts.store, process)
        if when == "waiting":
            await wait_all_tasks_blocked()
            clone.close()
        else:
            ids = submit(parts, 5)

    assert processed == ([] if when == "waiting" else ids[:1])
    assert parts.send.statistics().open_receive_channels == 1  # the original


@pytest.mark.parametrize("when", ["idle", "busy"])
async def test_pool_is_smaller_by_the_worker_whose_clone_is_closed(when: str) -> None:
    parts = make_parts(workers=2, buffer_size=1)
    clones = [parts.receive.clone(), parts.receive.clone()]
    finish = trio.Event()

    async def process(job: Job) -> Ending:
        await finish.wait()
        return SUCCEEDED

    running = Workers(
        parts.store,
        lambda: nullcontext(process),
        capacity=parts.capacity,
        waiters=parts.waiters,
        schedule=parts.pool.schedule,
        show=parts.pool.workers._show,
    )
    async with trio.open_nursery() as nursery:
        for clone in clones:
            nursery.start_soon(running.run, clone)
        parts.receive.close()
        await wait_all_tasks_blocked()
        if when == "busy":
            submit(parts, 3)
            await wait_all_tasks_blocked()
        clones[0].close()
        await wait_all_tasks_blocked()
        assert parts.admission.submit_all([]) == []
        finish.set()
        await wait_all_tasks_blocked()

        assert statuses(parts) == ({JobStatus.COMPLETED: 3} if when == "busy" else {})
        assert parts.capacity.free == 2
        submit(parts)
        parts.admission.close()

    assert set(statuses(parts)) == {JobStatus.COMPLETED}


async def test_last_worker_whose_clone_is_closed_ends_the_pool() -> None:
    parts = make_parts()
    clone = parts.receive.clone()
    parts.receive.close()

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="before its channel has ended")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.workers.run, clone)
            await wait_all_tasks_blocked()
            clone.close()


async def test_empty_batch_is_admitted_also_while_workers_that_have_ended_leave_jobs() -> None:
    parts = make_parts(workers=3, buffer_size=2)
    async with trio.open_nursery() as nursery:
        start_workers(parts, nursery, never_returns)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        submit(parts, 5)
    assert parts.capacity.free == -3

    assert parts.admission.submit_all([]) == []


# Failures of our own: loud. -------------------------------------------------------------------


class BugError(Exception):
    """A mistake in our own code."""


@pytest.mark.parametrize("broken", ["claim", "process", "complete"])
async def test_bug_ends_the_pool_with_the_original_error(broken: str) -> None:
    class BrokenStore(MemoryStore):
        pass

    def fail(*_: object, **__: object) -> NoReturn:
        raise BugError

    async def fail_to_process(_: Job) -> NoReturn:
        raise BugError

    if broken != "process":
        setattr(BrokenStore, broken, fail)
    parts = make_parts(store_class=BrokenStore)
    ended: list[str] = []

    async def other() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("other")

    with pytest.RaisesGroup(BugError):
        async with workers(
            2, parts, fail_to_process if broken == "process" else succeed
        ) as nursery:
            nursery.start_soon(other)
            await wait_all_tasks_blocked()
            submit(parts)
            await trio.sleep_forever()

    assert ended == ["other"]
    left = JobStatus.PROCESSING if broken == "complete" else JobStatus.PENDING
    assert statuses(parts) == {left: 1}
    with pytest.raises(ShuttingDownError):
        submit(parts)  # no worker is left


# What it records and logs. --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "level", "error"),
    [
        (Ending(outcome=Outcome.FAILED, error=NO), "WARNING", "ValueError: no"),
        (Ending(outcome=Outcome.TIMED_OUT), "WARNING", None),
        (Ending(outcome=Outcome.CANCELLED), "INFO", None),
        (SUCCEEDED, "DEBUG", None),
    ],
)
async def test_each_end_is_logged_with_its_level_and_its_own_duration(
    ending: Ending,
    level: str,
    error: str | None,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    times = iter([NOON] * 3 + [NOON - timedelta(days=1)])  # the wall clock is set back
    parts = make_parts(now=times.__next__)

    async def process(_: Job) -> Ending:
        await trio.sleep(2.5)
        return ending

    with caplog.at_level(logging.DEBUG, "trio_jobs.pool.worker"):
        async with workers(1, parts, process):
            (job_id,) = submit(parts)

    assert parts.store.find_nowait(job_id).duration == 2.5
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("DEBUG", "job_started"),
        (level, f"job_{ending.outcome}"),
    ]
    fields = [vars(record) for record in caplog.records]
    assert {(each["job_id"], each["job_type"], each["worker"]) for each in fields} == {
        (job_id, "test", "worker-0")
    }
    assert (fields[1]["duration"], fields[1].get("error")) == (2.5, error)
