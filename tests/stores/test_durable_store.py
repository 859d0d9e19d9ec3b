"""The store over a file: nothing is shown that a crash could take back."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.durable import ONCE, TIMEOUT, File, StepJournal, open_store
from tests.support import NOON, SUCCEEDED, Later, make_job
from trio_jobs import (
    Ending,
    IdempotencyKey,
    InvalidTransitionError,
    Job,
    JobNotFoundError,
    JobStatus,
    Outcome,
)
from trio_jobs.pool.refusals import StoreTimeoutError, StoreWriteError
from trio_jobs.stores.durable_store import MAX_UNWRITTEN_ENDS, DurableStore

PENDING, PROCESSING, COMPLETED = JobStatus
CANCELLED = Ending(outcome=Outcome.CANCELLED)


def filled(*jobs: Job, file: File | None = None) -> tuple[DurableStore, StepJournal]:
    """A store with these jobs, on the disk."""
    store, journal = open_store(file)
    if jobs:
        store.add_all(jobs, reruns={}, landed=lambda: None, refused=print)
        journal.commit()
    return store, journal


def in_file(journal: StepJournal, job_id: str = "a") -> Job:
    return next(job for job in journal.file.values() if job.id == job_id)


async def completed(store: DurableStore, journal: StepJournal, job_id: str = "a") -> Job:
    store.claim(job_id)
    store.complete(job_id, SUCCEEDED)
    journal.commit()
    return await store.find(job_id)


# What is shown. --------------------------------------------------------------------------------


async def test_new_jobs_are_in_the_store_when_they_have_landed() -> None:
    store, journal = open_store()
    calls: list[str] = []
    store.add_all(
        [make_job("a"), make_job("b")],
        reruns={},
        landed=lambda: calls.append(store.find_nowait("b").id),
        refused=print,
    )

    with pytest.raises(JobNotFoundError):
        await store.find("a")
    journal.commit()

    assert calls == ["b"]
    assert [job.id for job in await store.page(limit=10)] == ["a", "b"]


async def test_end_is_shown_when_it_is_on_the_disk_and_not_before() -> None:
    store, journal = filled(make_job("a"))
    shown: list[Job] = []
    store.claim("a")
    ended = store.complete("a", SUCCEEDED, show=shown.append)

    before = [await store.find("a"), *await store.page(limit=10)]
    journal.commit()
    after = [await store.find("a"), *await store.page(limit=10)]

    assert [job.status for job in before] == [PROCESSING, PROCESSING]
    assert after == [ended, ended] == [*shown, ended]
    assert len(store) == 0


async def test_key_leads_to_its_job_at_each_moment_of_its_life() -> None:
    key = IdempotencyKey(text="k", digest=b"")
    job = Job(id="a", type="t", payload=b"", created_at=NOON, key=key)
    store, journal = filled(job)

    statuses = [(await store.find_keys(["k", "other"]))["k"].status]
    store.claim("a")
    store.complete("a", SUCCEEDED)
    statuses.append((await store.find_keys(["k"]))["k"].status)
    journal.commit()
    statuses.append((await store.find_keys(["k"]))["k"].status)

    assert statuses == [PENDING, PROCESSING, COMPLETED]
    assert store.find_key_nowait("k") is None


@pytest.mark.parametrize("steps", range(6))
async def test_found_job_that_has_not_ended_is_in_memory_and_its_end_will_be_told(
    steps: int,
) -> None:
    store, journal = open_store()
    told: list[str] = []

    async def find() -> None:
        job = await store.find("a")
        # No checkpoint so far: whoever waits for its end subscribes now.
        told.append(job.status if job.status is COMPLETED else store.find_nowait("a").status)

    store.add_all([make_job("a")], reruns={}, landed=lambda: None, refused=print)
    tell = journal.write()  # on the disk, so listings have its id
    async with trio.open_nursery() as nursery:
        nursery.start_soon(find)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        tell()
        await completed(store, journal)
        await wait_all_tasks_blocked()
        journal.commit()  # what the look-up waits for, if it does

    assert told in ([PENDING], [COMPLETED])


@pytest.mark.parametrize("look", ["find", "find_keys", "page"])
async def test_job_that_ends_during_a_look_up_is_found(look: str) -> None:
    key = IdempotencyKey(text="k", digest=b"")
    store, journal = filled(Job(id="a", type="t", payload=b"", created_at=NOON, key=key))
    found: list[Job] = []

    async def find() -> None:
        if look == "find":
            found.append(await store.find("a"))
        elif look == "page":
            found.extend(await store.page(limit=10))
        else:
            found.extend((await store.find_keys(["other", "k"])).values())

    for steps in range(6):
        store, journal = filled(Job(id="a", type="t", payload=b"", created_at=NOON, key=key))
        store.claim("a")
        store.complete("a", SUCCEEDED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(find)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            journal.commit()

    assert [job.id for job in found] == ["a"] * 6


# The moves. ------------------------------------------------------------------------------------


async def test_moves_are_plain_and_reach_the_file_in_order() -> None:
    store, journal = filled(make_job("a"))

    with assert_no_checkpoints():
        store.claim("a")
        store.postpone("a", Later(seconds=5))
        store.claim("a")
    handed_over = [job for entry in journal.entries for _, job in entry.records if job is not None]
    journal.commit()

    assert [job.status for job in handed_over] == [PROCESSING, PENDING, PROCESSING]
    assert in_file(journal) == store.find_nowait("a") == handed_over[-1]


@pytest.mark.parametrize(
    "move",
    [
        lambda store: store.claim("a"),
        lambda store: store.complete("a", SUCCEEDED),
        lambda store: store.postpone("a", Later(seconds=1)),
        lambda store: store.release("a"),
        lambda store: store.request_cancel_nowait("a"),
    ],
    ids=["claim", "complete", "postpone", "release", "cancel"],
)
@pytest.mark.parametrize("written", [False, True])
async def test_ended_job_makes_no_move(
    move: Callable[[DurableStore], object], written: bool
) -> None:
    store, journal = filled(make_job("a"))
    store.claim("a")
    store.complete("a", SUCCEEDED)
    if written:
        journal.commit()
    entries = len(journal.entries)

    with pytest.raises((InvalidTransitionError, JobNotFoundError)):
        move(store)

    assert len(journal.entries) == entries


async def test_released_job_is_pending_in_the_file_and_not_handed_out_again() -> None:
    store, journal = filled(make_job("a"))
    store.claim("a")
    store.release("a")
    journal.commit()

    with pytest.raises(InvalidTransitionError, match="was released"):
        store.claim("a")

    assert (in_file(journal).status, in_file(journal).attempts) == (PENDING, 0)
    [begun] = store.unfinished().begun
    assert begun.id == "a"


async def test_released_job_that_may_not_run_twice_ends_as_interrupted() -> None:
    store, journal = filled(make_job("a", type=ONCE))
    store.claim("a")
    store.release("a")
    journal.commit()

    assert in_file(journal).outcome is Outcome.INTERRUPTED
    assert [job.id for job in store.unfinished().begun] == ["a"]  # for the log
    assert store.unwritten_ends() == []


async def test_job_that_was_cut_off_before_it_began_may_run_although_only_once() -> None:
    store, journal = filled(make_job("a", type=ONCE))
    job = store.claim("a")
    assert job is not None
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.begun(job)
    store.release("a")
    journal.commit()

    assert in_file(journal).status is PENDING
    assert [job.id for job in store.unfinished().not_begun] == ["a"]


async def test_job_that_may_not_run_twice_is_put_back_if_its_handler_has_not_begun() -> None:
    store, journal = filled(make_job("a", type=ONCE))
    store.claim("a")
    store.release("a", begun=False)
    journal.commit()

    assert (in_file(journal).status, in_file(journal).attempts) == (PENDING, 0)
    assert [job.id for job in store.unfinished().not_begun] == ["a"]


async def test_pending_jobs_are_kept_once_the_drain_has_begun() -> None:
    store, journal = filled(make_job("a"), make_job("b"))
    store.keep_pending()
    await_cancel = store.request_cancel_nowait("b")

    assert store.claim("a") is None
    claimed = store.claim("b")

    assert await_cancel.cancel_requested
    assert claimed is not None
    journal.commit()
    assert in_file(journal, "a").status is PENDING


# What workers wait for. ------------------------------------------------------------------------


async def test_ordinary_job_begins_at_once() -> None:
    store, _ = filled(make_job("a"))
    job = store.claim("a")
    assert job is not None

    with assert_no_checkpoints():
        assert await store.begun(job) is job


@pytest.mark.parametrize("which", ["once", "from the file"])
async def test_claim_that_a_crash_must_not_take_back_is_waited_for(which: str) -> None:
    job = make_job("a", type=ONCE if which == "once" else "test")
    store, journal = filled(job) if which == "once" else filled(file={1: job})
    claimed = store.claim("a")
    assert claimed is not None
    begun: list[Job] = []

    async def begin() -> None:
        begun.append(await store.begun(claimed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(begin)
        await wait_all_tasks_blocked()
        before = list(begun)
        requested = store.request_cancel_nowait("a")
        journal.commit()

    assert before == []
    assert begun == [requested]  # as it is after the wait
    assert in_file(journal).status is PROCESSING


async def test_workers_wait_while_too_many_ends_are_unwritten() -> None:
    jobs = [make_job(f"{n:05}") for n in range(MAX_UNWRITTEN_ENDS + 1)]
    store, journal = filled(*jobs)
    for job in jobs[:-1]:
        store.claim(job.id)
        store.complete(job.id, SUCCEEDED)
    with assert_no_checkpoints():
        await store.caught_up()
    store.claim(jobs[-1].id)
    store.complete(jobs[-1].id, SUCCEEDED)
    caught_up = trio.Event()

    async def catch_up() -> None:
        await store.caught_up()
        caught_up.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up)
        await wait_all_tasks_blocked()
        before = caught_up.is_set()
        journal.commit()

    assert (before, caught_up.is_set()) == (False, True)


# Clients. --------------------------------------------------------------------------------------


async def test_cancel_is_noted_at_once_and_answered_when_it_is_written() -> None:
    store, journal = filled(make_job("a"))
    noted: list[str] = []
    answers: list[Job] = []

    async def cancel() -> None:
        answers.append(await store.request_cancel("a", noted=noted.append))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        await wait_all_tasks_blocked()
        before = list(noted), list(answers)
        journal.commit()

    assert before == (["a"], [])
    assert answers == [in_file(journal)]
    assert answers[0].cancel_requested


async def test_cancel_shows_when_it_is_on_the_disk_and_holds_at_once() -> None:
    key = IdempotencyKey(text="k", digest=b"")
    job = Job(id="a", type="t", payload=b"", created_at=NOON, key=key)
    store, journal = filled(job)

    async def shown() -> set[bool]:
        jobs = [
            store.shown_nowait("a"),
            await store.find("a"),
            *await store.find_many(["a"]),
            *(await store.find_keys(["k"])).values(),
            *await store.page(limit=10),
        ]
        assert len(jobs) == 5
        return {job.cancel_requested for job in jobs}

    store.request_cancel_nowait("a")
    claimed = store.claim("a")
    before = await shown()
    store.request_cancel_nowait("a")
    again = await shown()
    journal.commit(1)
    after = await shown()

    assert claimed is not None
    assert claimed.cancel_requested
    assert (before, again, after) == ({False}, {False}, {True})


@pytest.mark.parametrize("written", [False, True])
async def test_cancel_that_is_refused_hides_nothing(written: bool) -> None:
    store, journal = filled(make_job("a"))
    store.claim("a")
    ended = store.complete("a", SUCCEEDED)
    if written:
        journal.commit()

    with pytest.raises((InvalidTransitionError, JobNotFoundError)):
        store.request_cancel_nowait("a")
    journal.commit()

    assert await store.find("a") == ended


async def test_cancel_of_a_job_whose_end_is_being_written_is_refused_when_it_is_written() -> None:
    store, journal = filled(make_job("a"))
    store.claim("a")
    store.complete("a", SUCCEEDED)
    refused: list[Exception] = []

    async def cancel() -> None:
        try:
            await store.request_cancel("a")
        except InvalidTransitionError as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        await wait_all_tasks_blocked()
        before = list(refused)
        journal.commit()

    assert before == []
    assert len(refused) == 1
    assert in_file(journal).outcome is Outcome.SUCCEEDED


async def test_deleted_job_is_gone_from_the_file() -> None:
    store, journal = filled(make_job("a"))
    await completed(store, journal)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.delete, "a")
        await wait_all_tasks_blocked()
        journal.commit()

    assert journal.file == {}
    with pytest.raises(JobNotFoundError):
        await store.delete("a")


@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_unfinished_job_is_not_deleted(status: str) -> None:
    store, journal = filled(make_job("a"))
    if status == "processing":
        store.claim("a")

    with pytest.raises(InvalidTransitionError, match=f"is {status}; only a completed job"):
        await store.delete("a")

    journal.commit()
    assert len(journal.file) == 1


@pytest.mark.parametrize("what", ["request_cancel", "delete"])
async def test_client_does_not_wait_for_ever_for_a_disk_that_hangs(
    what: str, autojump_clock: MockClock
) -> None:
    store, journal = filled(make_job("a"))
    if what == "delete":
        await completed(store, journal)

    with pytest.raises(StoreTimeoutError, match="within 10 s"):
        await getattr(store, what)("a")

    assert trio.current_time() == TIMEOUT


def test_nothing_is_added_at_once() -> None:
    store, _ = open_store()

    with pytest.raises(TypeError, match="use add_all"):
        store.add(make_job("a"))


# A crash. --------------------------------------------------------------------------------------


async def test_unwritten_claim_and_end_are_taken_back_by_a_crash() -> None:
    store, journal = filled(make_job("a"), make_job("b"))
    for job_id in ("a", "b"):
        store.claim(job_id)
    journal.commit(1)
    store.complete("a", SUCCEEDED)

    again, _ = open_store(journal.file)

    assert [(job.id, job.interruptions) for job in again.unfinished().not_begun] == [
        ("a", 1),
        ("b", 0),
    ]


async def test_numbers_go_on_behind_those_of_the_file() -> None:
    _, journal = filled(make_job("a"), make_job("b"))
    again, journal = open_store(journal.file)

    again.add_all([make_job("c")], reruns={}, landed=lambda: None, refused=print)
    journal.commit()

    assert [job.id for _, job in sorted(journal.file.items())] == ["a", "b", "c"]


async def test_ends_of_a_step_are_written_together_and_without_their_claims() -> None:
    calls: list[Callable[[], None]] = []
    store, journal = open_store(soon=calls.append)
    jobs = [make_job(each) for each in "abcd"]
    store.add_all(jobs, reruns={}, landed=lambda: None, refused=print)
    journal.commit()

    shown: list[str] = []
    for job_id in "abcd":
        store.claim(job_id)
    for job_id in "ad":
        store.complete(job_id, SUCCEEDED, show=lambda job: shown.append(job.id))
    store.postpone("b", Later(seconds=1))
    for call in calls:
        call()
    written = [
        [job.status for _, job in entry.records if job is not None] for entry in journal.entries
    ]

    assert written == [[PENDING], [COMPLETED, COMPLETED], [PROCESSING]]
    assert len(calls) == 1
    assert shown == []
    journal.commit()
    assert shown == ["a", "d"]


async def test_end_is_written_before_it_is_waited_for() -> None:
    store, journal = open_store({1: make_job("a")}, soon=lambda _: None)
    store.claim("a")
    store.complete("a", SUCCEEDED)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.settled)
        await wait_all_tasks_blocked()
        journal.commit()

    assert in_file(journal).status is COMPLETED
    assert len(store) == 0


async def test_claim_is_written_before_it_is_waited_for() -> None:
    store, journal = open_store({1: make_job("a")}, soon=lambda _: None)
    job = store.claim("a")
    assert job is not None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.begun, job)
        await wait_all_tasks_blocked()
        journal.commit()

    assert in_file(journal).status is PROCESSING


# A disk that is full. ---------------------------------------------------------------------------


async def refused_by_a_full_disk(
    journal: StepJournal, ask: Callable[[], Awaitable[object]]
) -> StoreWriteError:
    """What the client gets if the disk refuses all that is handed over until now."""
    errors: list[StoreWriteError] = []

    async def client() -> None:
        with pytest.raises(StoreWriteError) as caught:
            await ask()
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        await wait_all_tasks_blocked()
        journal.refuse()
    [error] = errors
    return error


async def test_full_disk_refuses_a_deletion_and_keeps_the_job() -> None:
    store, journal = filled(make_job("a"))
    await completed(store, journal)

    error = await refused_by_a_full_disk(journal, lambda: store.delete("a"))

    assert (str(error), error.kept) == ("database or disk is full", "nothing was kept")
    assert journal.entries == []
    assert (await store.find("a")).outcome is Outcome.SUCCEEDED


async def test_full_disk_does_not_stop_a_cancel_but_says_that_it_is_not_written() -> None:
    store, journal = filled(make_job("a"))
    store.claim("a")
    noted: list[str] = []

    error = await refused_by_a_full_disk(
        journal, lambda: store.request_cancel("a", noted=noted.append)
    )

    assert noted == ["a"]
    assert "a crash can take that back" in error.kept
    assert not in_file(journal).cancel_requested
    journal.commit()  # there is room
    assert in_file(journal) == store.find_nowait("a")
    assert in_file(journal).cancel_requested


@pytest.mark.parametrize("move", ["complete", "postpone", "release"])
async def test_job_that_moves_while_its_cancel_is_refused_is_written_as_it_is_then(
    move: str,
) -> None:
    store, journal = filled(make_job("a"))
    store.claim("a")
    journal.commit()

    async def ask() -> None:
        await store.request_cancel("a", noted=lambda _: moved())

    def moved() -> None:
        if move == "complete":
            store.complete("a", CANCELLED)
        elif move == "postpone":
            store.postpone("a", Later(seconds=60))
        else:
            store.release("a")

    await refused_by_a_full_disk(journal, ask)
    journal.commit()

    stored = in_file(journal)
    assert stored.cancel_requested
    assert stored.status is (JobStatus.COMPLETED if move == "complete" else JobStatus.PENDING)
    assert len(store) == (0 if move == "complete" else 1)


async def test_cancel_whose_client_has_gone_is_written_when_there_is_room() -> None:
    store, journal = filled(make_job("a"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.request_cancel, "a")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    journal.refuse()
    journal.commit()

    assert in_file(journal).cancel_requested


async def test_look_up_that_needs_an_unwritten_end_is_refused_while_the_disk_is_full() -> None:
    store, journal = filled(make_job("a"))
    store.claim("a")
    store.complete("a", SUCCEEDED)

    error = await refused_by_a_full_disk(journal, lambda: store.delete("a"))

    assert error.kept == "nothing was kept"
    journal.commit()
    assert in_file(journal).outcome is Outcome.SUCCEEDED
