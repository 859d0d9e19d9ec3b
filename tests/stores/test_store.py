"""The store in memory: each move and each refusal, the bounds, pages, keys, and what it costs.

`StoreMachine` (`test_store_model.py`) has any sequence of its calls; these are the texts and the
corners.
"""

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from types import FrameType

import pytest
from msgspec.structs import replace
from trio.testing import assert_no_checkpoints

from tests.support import (
    NONE_DROPPED,
    NOON,
    SUCCEEDED,
    Later,
    StoreSettings,
    StoreStatistics,
    make_job,
    noon,
)
from trio_jobs import (
    Ending,
    IdempotencyKey,
    InvalidTransitionError,
    Job,
    JobError,
    JobNotFoundError,
    JobStatus,
    Outcome,
)
from trio_jobs.job import MAX_DELAY, Waiting
from trio_jobs.pool.store import DuplicateJobError
from trio_jobs.stores.memory import MemoryStore


def make_store(
    *,
    now: Callable[[], datetime] = noon,
    keep_completed: int = 1000,
    keep_failed: int = 1000,
    keep_completed_bytes: int = 1_000_000,
) -> MemoryStore:
    bounds = StoreSettings(
        keep_completed=keep_completed,
        keep_failed=keep_failed,
        keep_completed_bytes=keep_completed_bytes,
    )
    return MemoryStore(bounds, now=now)


@pytest.fixture
def store() -> MemoryStore:
    return make_store()


def run_through(store: MemoryStore, job: Job, ending: Ending = SUCCEEDED) -> Job:
    store.add(job)
    store.claim(job.id)
    return store.complete(job.id, ending)


def contents(store: MemoryStore) -> tuple[list[Job], StoreStatistics, object]:
    """All that can be seen of a store from outside."""
    return store.page_nowait(limit=sys.maxsize), store.statistics(), store.unfinished()


def ids(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


# Moves. ---------------------------------------------------------------------------------------


def test_job_goes_from_pending_to_processing_to_completed() -> None:
    times = iter([NOON + timedelta(seconds=1), NOON + timedelta(seconds=3)])
    store = make_store(now=times.__next__)
    job = make_job("a")

    store.add(job)
    read = store.find_nowait("a")
    claimed = store.claim("a")
    assert claimed == store.find_nowait("a")
    completed = store.complete("a", SUCCEEDED, duration=2.5)

    assert read == job  # a record that was read stays as it was
    assert claimed == replace(
        job, status=JobStatus.PROCESSING, started_at=NOON + timedelta(seconds=1), attempts=1
    )
    assert completed == replace(
        claimed,
        status=JobStatus.COMPLETED,
        completed_at=NOON + timedelta(seconds=3),
        duration=2.5,
        ending=SUCCEEDED,
    )
    assert store.find_nowait("a") == completed


def test_a_wall_clock_that_is_set_back_takes_no_time_before_another() -> None:
    times = iter([NOON - timedelta(seconds=1), NOON - timedelta(hours=1)])
    store = make_store(now=times.__next__)

    completed = run_through(store, make_job("a"))

    assert (completed.started_at, completed.completed_at) == (NOON, NOON)


def test_released_job_is_as_it_was_admitted(store: MemoryStore) -> None:
    job = make_job("a")
    store.add(job)
    store.claim("a")

    store.release("a")

    assert store.find_nowait("a") == job


FAILED_ONCE = JobError(type="ValueError", message="no")
RETRY = Later(seconds=30, error=FAILED_ONCE)
SNOOZE = Later(seconds=0.5, snooze=True)


def test_postponed_job_is_pending_again_with_a_time(store: MemoryStore) -> None:
    job = make_job("a")
    store.add(job)
    store.claim("a")

    postponed = store.postpone("a", RETRY)

    assert postponed == replace(
        job, attempts=1, run_at=NOON + timedelta(seconds=30), last_error=FAILED_ONCE
    )
    assert store.find_nowait("a") == postponed
    assert postponed.waiting is Waiting.RETRYING
    assert store.statistics().pending == 1


def test_claim_of_a_postponed_job_is_its_next_attempt(store: MemoryStore) -> None:
    store.add(make_job("a"))
    store.claim("a")
    store.postpone("a", RETRY)

    claimed = store.claim("a")
    completed = store.complete("a", SUCCEEDED)

    assert (claimed.attempts, claimed.run_at, claimed.waiting) == (2, None, None)
    assert claimed.last_error == FAILED_ONCE
    assert (completed.attempts, completed.last_error) == (2, None)


def test_snooze_costs_no_attempt_and_keeps_the_last_error(store: MemoryStore) -> None:
    store.add(make_job("a"))
    waiting = []
    for later in (SNOOZE, RETRY, SNOOZE):
        store.claim("a")
        waiting.append(store.postpone("a", later).waiting)

    job = store.find_nowait("a")
    assert (job.attempts, job.snoozes, job.last_error) == (1, 2, FAILED_ONCE)
    assert waiting == [Waiting.DELAYED, Waiting.RETRYING, Waiting.RETRYING]


def test_released_attempt_does_not_count(store: MemoryStore) -> None:
    store.add(make_job("a"))
    store.claim("a")
    store.postpone("a", RETRY)
    store.claim("a")

    store.release("a")

    job = store.find_nowait("a")
    assert (job.attempts, job.run_at, job.waiting) == (1, None, None)
    assert job.last_error == FAILED_ONCE


def test_job_that_is_postponed_after_its_cancel_is_due_at_once(store: MemoryStore) -> None:
    store.add(make_job("a"))
    store.claim("a")
    store.request_cancel_nowait("a")

    postponed = store.postpone("a", RETRY)

    assert postponed.run_at == NOON
    assert postponed.cancel_requested


def test_longest_time_overflows_nothing(store: MemoryStore) -> None:
    store.add(make_job("a"))
    store.claim("a")

    postponed = store.postpone("a", Later(seconds=MAX_DELAY))

    assert postponed.run_at == NOON.replace(year=NOON.year + 10)


async def test_awaited_methods_are_the_plain_ones_without_a_checkpoint(store: MemoryStore) -> None:
    job = run_through(store, keyed("a", "k"))
    store.add(make_job("b"))

    with assert_no_checkpoints():
        assert await store.find("a") == (await store.find_keys(["k", "other"]))["k"] == job
        assert await store.page(after="a", limit=5) == [make_job("b")]
        assert (await store.request_cancel("b")).cancel_requested
        await store.delete("a")

    assert store.page_nowait(limit=5) == [store.find_nowait("b")]


# Refusals: what people read, and that nothing has changed. ------------------------------------


def bring_to(store: MemoryStore, where: str) -> None:
    """Bring the job "a" to a place in its life, beside others that stand everywhere."""
    for other in ("pending", "processing", "completed"):
        store.add(make_job(f"other-{other}"))
    store.claim("other-processing")
    store.claim("other-completed")
    store.complete("other-completed", SUCCEEDED)
    store.add(make_job("a"))
    if where != "pending":
        store.claim("a")
    if where == "completed":
        store.complete("a", SUCCEEDED)
    if where == "released":
        store.release("a")


MOVES: dict[str, Callable[[MemoryStore], object]] = {
    "find": lambda store: store.find_nowait("a"),
    "claim": lambda store: store.claim("a"),
    "postpone": lambda store: store.postpone("a", RETRY),
    "complete": lambda store: store.complete("a", SUCCEEDED),
    "release": lambda store: store.release("a"),
    "cancel": lambda store: store.request_cancel_nowait("a"),
    "delete": lambda store: store.delete_nowait("a"),
}


@pytest.mark.parametrize(
    ("where", "move", "refusal"),
    [
        ("pending", "complete", "is pending; only a processing job can become completed"),
        ("pending", "release", "is pending; only a processing job can become pending"),
        ("pending", "postpone", "is pending; only a processing job can become pending"),
        ("pending", "delete", "is pending; only a completed job can be deleted"),
        ("processing", "claim", "is processing; only a pending job can become processing"),
        ("processing", "delete", "is processing; only a completed job can be deleted"),
        ("completed", "claim", "is completed; only a pending job can become processing"),
        ("completed", "complete", "is completed; only a processing job can become completed"),
        ("completed", "release", "is completed; only a processing job can become pending"),
        ("completed", "postpone", "is completed; only a processing job can become pending"),
        ("completed", "cancel", "is completed; it can not be cancelled"),
        ("released", "claim", "was released; it is not handed out again"),
        ("released", "complete", "is pending; only a processing job can become completed"),
        ("released", "release", "is pending; only a processing job can become pending"),
    ],
)
def test_every_other_move_is_refused_and_changes_nothing(
    store: MemoryStore, where: str, move: str, refusal: str
) -> None:
    bring_to(store, where)
    before = contents(store)

    with pytest.raises(InvalidTransitionError) as caught:
        MOVES[move](store)

    assert str(caught.value) == f"job 'a' {refusal}"
    assert contents(store) == before


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("why", ["never there", "dropped"])
def test_unknown_job_is_refused_and_nothing_changes(why: str, move: str) -> None:
    store = make_store(keep_completed=0)
    store.add(make_job("b"))
    if why == "dropped":
        run_through(store, make_job("a"))
    before = contents(store)

    with pytest.raises(JobNotFoundError, match=r"\Ano job 'a'\Z"):
        MOVES[move](store)

    assert contents(store) == before


@pytest.mark.parametrize("where", ["pending", "processing", "completed", "released"])
def test_id_that_is_there_already_is_refused_and_changes_nothing(
    store: MemoryStore, where: str
) -> None:
    bring_to(store, where)
    before = contents(store)

    with pytest.raises(DuplicateJobError, match=r"\Ajob 'a' is in the store already\Z"):
        store.add(make_job("a", type="another"))

    assert contents(store) == before


@pytest.mark.parametrize("status", [JobStatus.PROCESSING, JobStatus.COMPLETED])
def test_only_a_pending_job_can_be_added(store: MemoryStore, status: JobStatus) -> None:
    with pytest.raises(InvalidTransitionError) as caught:
        store.add(replace(make_job("a"), status=status))

    assert str(caught.value) == f"job 'a' is {status}; only a pending job can be added"
    assert contents(store) == contents(make_store())


def test_clock_that_fails_changes_nothing() -> None:
    store = make_store(now=iter([NOON]).__next__)
    store.add(make_job("a"))
    store.claim("a")
    before = contents(store)

    with pytest.raises(StopIteration):
        store.complete("a", SUCCEEDED)

    assert contents(store) == before


# What is kept. --------------------------------------------------------------------------------


def test_finished_jobs_beyond_the_count_are_dropped_oldest_completion_first() -> None:
    store = make_store(keep_completed=2)
    for job_id in "abcd":
        store.add(make_job(job_id))
        store.claim(job_id)

    for job_id in "cadb":
        store.complete(job_id, SUCCEEDED)

    assert ids(store.page_nowait(limit=10)) == ["b", "d"]


def test_finished_jobs_beyond_the_bytes_are_dropped_oldest_completion_first() -> None:
    store = make_store(keep_completed_bytes=100)

    for job_id in "abcd":
        run_through(store, make_job(job_id, type="t", payload=b"-" * 29), ending_of(10))

    assert ids(store.page_nowait(limit=10)) == ["c", "d"]
    assert store.statistics().completed_bytes == 80

    run_through(store, make_job("e", type="t", payload=b"-" * 60), ending_of(39))

    assert ids(store.page_nowait(limit=10)) == ["e"]
    assert store.statistics().completed_bytes == 100


def ending_of(size: int) -> Ending:
    return Ending(outcome=Outcome.SUCCEEDED, result=b"-" * size)


def test_pending_and_processing_jobs_are_never_dropped() -> None:
    store = make_store(keep_completed=0, keep_completed_bytes=0)
    for job_id in ("pending", "processing", "released"):
        store.add(make_job(job_id, payload=b"-" * 1000))
    store.claim("processing")
    store.claim("released")
    store.release("released")

    for n in range(100):
        assert run_through(store, make_job(f"finished-{n}")).status is JobStatus.COMPLETED

    assert ids(store.page_nowait(limit=1000)) == ["pending", "processing", "released"]
    assert store.statistics() == StoreStatistics(
        pending=2,
        processing=1,
        completed=0,
        completed_bytes=0,
        dropped=NONE_DROPPED | {Outcome.SUCCEEDED: 100},
    )


OTHER_OUTCOMES = [outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED]


@pytest.mark.parametrize("outcome", OTHER_OUTCOMES)
def test_jobs_that_did_not_succeed_are_counted_apart(outcome: Outcome) -> None:
    store = make_store(keep_completed=2, keep_failed=3)
    for n in range(4):
        run_through(store, make_job(f"other {n}"), Ending(outcome=outcome))
        run_through(store, make_job(f"success {n}"))

    assert ids(store.page_nowait(limit=10)) == [
        *("other 1", "other 2", "other 3"),
        *("success 2", "success 3"),
    ]


@pytest.mark.parametrize("most", [Outcome.SUCCEEDED, Outcome.FAILED])
def test_neither_successes_nor_others_push_the_other_out_by_their_bytes(most: Outcome) -> None:
    store = make_store(keep_completed_bytes=100)
    few = Outcome.FAILED if most is Outcome.SUCCEEDED else Outcome.SUCCEEDED
    for n in range(4):
        run_through(store, sized(f"few {n}", 10), Ending(outcome=few))

    for n in range(100):
        run_through(store, sized(f"most {n}", 20), Ending(outcome=most))

    assert ids(store.page_nowait(limit=100)) == [
        *(f"few {n}" for n in range(4)),
        *(f"most {n}" for n in (97, 98, 99)),
    ]
    assert store.statistics().dropped == NONE_DROPPED | {most: 97}


def test_bytes_that_one_kind_leaves_are_the_others_until_they_are_needed() -> None:
    store = make_store(keep_completed_bytes=100)
    for n in range(5):
        run_through(store, sized(f"success {n}", 20), ending_of(0))
    assert store.statistics().completed_bytes == 100

    run_through(store, sized("failure 0", 30), Ending(outcome=Outcome.FAILED))
    assert ids(store.page_nowait(limit=10)) == [
        "failure 0",
        *("success 2", "success 3", "success 4"),
    ]

    # A failure that is larger than the bound is itself the oldest in the end.
    run_through(store, sized("failure 1", 101), Ending(outcome=Outcome.FAILED))
    assert ids(store.page_nowait(limit=10)) == ["success 2", "success 3", "success 4"]
    assert store.statistics().completed_bytes == 60


@pytest.mark.parametrize("last", [Outcome.SUCCEEDED, Outcome.FAILED])
def test_of_a_success_and_a_failure_of_the_same_size_the_success_goes(last: Outcome) -> None:
    store = make_store(keep_completed_bytes=99)

    for outcome in sorted([Outcome.SUCCEEDED, Outcome.FAILED], key=last.__eq__):
        run_through(store, sized(outcome, 50), Ending(outcome=outcome))

    assert ids(store.page_nowait(limit=10)) == [Outcome.FAILED]


def sized(job_id: str, size: int) -> Job:
    return make_job(job_id, type="t", payload=b"-" * (size - 1))


@pytest.mark.parametrize("outcome", Outcome)
def test_deleted_job_leaves_its_place_to_another_of_its_kind(outcome: Outcome) -> None:
    store = make_store(keep_completed=2, keep_failed=2)
    for each in (Outcome.SUCCEEDED, Outcome.FAILED):
        run_through(store, make_job(f"{each} kept"), Ending(outcome=each))
    run_through(store, make_job("deleted", payload=b"-" * 100), Ending(outcome=outcome))
    before = store.statistics().completed_bytes

    store.delete_nowait("deleted")
    assert store.statistics().completed_bytes == before - 100 - len(make_job("deleted").type)
    run_through(store, make_job("next"), Ending(outcome=outcome))

    assert ids(store.page_nowait(limit=10)) == ["failed kept", "next", "succeeded kept"]
    assert store.statistics().dropped == NONE_DROPPED


def test_dropped_jobs_are_counted_by_outcome_and_deleted_ones_are_not() -> None:
    store = make_store(keep_completed=0, keep_failed=1)
    outcomes = [Outcome.FAILED, Outcome.SUCCEEDED, Outcome.FAILED, Outcome.TIMED_OUT]
    for n, outcome in enumerate(outcomes):
        run_through(store, make_job(f"{n}"), Ending(outcome=outcome))

    store.delete_nowait("3")

    assert store.statistics() == StoreStatistics(
        pending=0,
        processing=0,
        completed=0,
        completed_bytes=0,
        dropped=NONE_DROPPED | {Outcome.FAILED: 2, Outcome.SUCCEEDED: 1},
    )


# Pages, cancel, keys. -------------------------------------------------------------------------


def test_pages_follow_each_other_without_a_gap_or_a_repetition(store: MemoryStore) -> None:
    for n in range(25):
        store.add(make_job(f"{n:02}"))

    pages = [store.page_nowait(limit=10)]
    while len(pages[-1]) == 10:
        pages.append(store.page_nowait(after=pages[-1][-1].id, limit=10))

    assert [len(page) for page in pages] == [10, 10, 5]
    assert [job_id for page in pages for job_id in ids(page)] == [f"{n:02}" for n in range(25)]


@pytest.mark.parametrize(
    ("after", "expected"),
    [("d", "fh"), ("a", "bfh"), ("e", "fh"), ("h", ""), ("zz", ""), (None, "bfh")],
)
def test_page_after_a_dropped_or_a_foreign_id_goes_on_where_it_would_be(
    after: str | None, expected: str
) -> None:
    store = make_store(keep_completed=0)
    for job_id in "hfdb":
        store.add(make_job(job_id))
    store.claim("d")
    store.complete("d", SUCCEEDED)

    assert ids(store.page_nowait(after=after, limit=10)) == list(expected)
    assert ids(store.page_nowait(after=after, limit=1)) == list(expected[:1])


def test_cancel_request_is_noted_on_a_pending_and_on_a_processing_job(store: MemoryStore) -> None:
    store.add(make_job("a"))
    asked = replace(make_job("a"), cancel_requested=True)

    assert store.request_cancel_nowait("a") == store.find_nowait("a") == asked
    claimed = store.claim("a")
    assert claimed.cancel_requested
    assert store.request_cancel_nowait("a") == claimed


def keyed(job_id: str, key: str) -> Job:
    return replace(make_job(job_id), key=IdempotencyKey(text=key, digest=b"digest"))


def test_key_finds_its_job_as_it_is_now_and_is_taken(store: MemoryStore) -> None:
    store.add(keyed("a", "k"))
    store.claim("a")

    assert store.find_key_nowait("k") == store.find_nowait("a")
    assert store.find_key_nowait("other") is None
    with pytest.raises(DuplicateJobError, match="the key 'k'"):
        store.add(keyed("b", "k"))
    assert len(store) == 1


@pytest.mark.parametrize("how", ["dropped", "deleted"])
def test_key_goes_with_its_job(how: str) -> None:
    store = make_store(keep_completed=0 if how == "dropped" else 1)
    for job_id in ("a", "b", "c"):
        run_through(store, keyed(job_id, "k"))
        if how == "deleted":
            store.delete_nowait(job_id)
        assert store.find_key_nowait("k") is None


# Cost: counted, never timed. ------------------------------------------------------------------


class CountedId(str):
    """An id that counts how often it is hashed or compared: a scan shows, whoever makes it."""

    __slots__ = ()
    operations = 0

    def __hash__(self) -> int:
        CountedId.operations += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        CountedId.operations += 1
        return super().__eq__(other)

    def __lt__(self, other: str) -> bool:
        CountedId.operations += 1
        return super().__lt__(other)

    def __gt__(self, other: str) -> bool:
        CountedId.operations += 1
        return super().__gt__(other)


def operations(action: Callable[[], object]) -> int:
    """How many calls of Python and C functions, and comparisons of ids, an action takes."""
    calls = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    CountedId.operations = 0
    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(previous)
    return calls + CountedId.operations


def cost_of_one_life(store: MemoryStore, start: int) -> int:
    """The cost of a hundred jobs: in, claimed, completed (others dropped), looked up, paged."""

    def live() -> None:
        for n in range(start, start + 100):
            job_id = CountedId(f"{n:010}")
            store.add(make_job(job_id))
            store.claim(job_id)
            store.find_nowait(job_id)
            store.complete(job_id, SUCCEEDED)
            store.page_nowait(limit=10)
            store.page_nowait(after=job_id, limit=10)
            store.statistics()

    return operations(live)


def test_cost_grows_neither_with_the_jobs_kept_nor_with_those_dropped() -> None:
    keep = 100
    store = make_store(keep_completed=keep)
    for n in range(2 * keep):
        run_through(store, make_job(CountedId(f"{n:010}")))
    small = cost_of_one_life(store, 2 * keep)

    store = make_store(keep_completed=40 * keep)
    for n in range(10 * keep):
        store.add(make_job(CountedId(f"{n:010}")))  # stay pending for good
    for n in range(10 * keep, 100 * keep):
        run_through(store, make_job(CountedId(f"{n:010}")))
    large = cost_of_one_life(store, 100 * keep)

    # The bisections take some comparisons more.
    assert large < 1.5 * small
