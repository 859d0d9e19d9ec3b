"""The store: every move and every refusal, the bounds, the order, and what it costs."""

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from types import FrameType

import pytest
from msgspec.structs import replace
from trio.testing import assert_no_checkpoints

from tests.support import NONE_DROPPED, NOON, SUCCEEDED, make_job, noon
from trio_jobs.job import Ending, IdempotencyKey, Job, JobStatus, Outcome
from trio_jobs.pool.store import (
    DuplicateJobError,
    InvalidTransitionError,
    JobNotFoundError,
    StoreStatistics,
)
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.memory import MemoryStore


def make_store(
    *,
    now: Callable[[], datetime] = noon,
    keep_completed: int = 1000,
    keep_completed_bytes: int = 1_000_000,
) -> MemoryStore:
    bounds = StoreSettings(keep_completed=keep_completed, keep_completed_bytes=keep_completed_bytes)
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
    return store.page_nowait(limit=sys.maxsize), store.statistics(), store.unfinished().ids


# Moves. ---------------------------------------------------------------------------------------


def test_job_goes_from_pending_to_processing_to_completed() -> None:
    times = iter([NOON + timedelta(seconds=1), NOON + timedelta(seconds=3)])
    store = make_store(now=times.__next__)
    job = make_job("a")

    store.add(job)
    assert store.find_nowait("a") == job

    claimed = store.claim("a")
    assert claimed == store.find_nowait("a")
    assert claimed == replace(
        job, status=JobStatus.PROCESSING, started_at=NOON + timedelta(seconds=1)
    )

    completed = store.complete("a", SUCCEEDED, duration=2.5)
    assert completed == store.find_nowait("a")
    assert completed == replace(
        claimed,
        status=JobStatus.COMPLETED,
        completed_at=NOON + timedelta(seconds=3),
        duration=2.5,
        ending=SUCCEEDED,
    )


def test_a_wall_clock_that_is_set_back_takes_no_time_before_another() -> None:
    times = iter([NOON - timedelta(seconds=1), NOON - timedelta(hours=1)])
    store = make_store(now=times.__next__)
    store.add(make_job("a"))

    assert store.claim("a").started_at == NOON
    assert store.complete("a", SUCCEEDED).completed_at == NOON


def test_released_job_is_as_it_was_admitted(store: MemoryStore) -> None:
    job = make_job("a")
    store.add(job)
    store.claim("a")

    store.release("a")

    assert store.find_nowait("a") == job


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


MOVES: dict[str, Callable[[MemoryStore], Job | None]] = {
    "claim": lambda store: store.claim("a"),
    "complete": lambda store: store.complete("a", SUCCEEDED),
    "release": lambda store: store.release("a"),
}


@pytest.mark.parametrize(
    ("where", "move", "refusal"),
    [
        ("pending", "complete", "is pending; only a processing job can become completed"),
        ("pending", "release", "is pending; only a processing job can become pending"),
        ("processing", "claim", "is processing; only a pending job can become processing"),
        ("completed", "claim", "is completed; only a pending job can become processing"),
        ("completed", "complete", "is completed; only a processing job can become completed"),
        ("completed", "release", "is completed; only a processing job can become pending"),
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


@pytest.mark.parametrize("move", ["get", *MOVES])
def test_unknown_job_is_refused_and_nothing_changes(store: MemoryStore, move: str) -> None:
    store.add(make_job("b"))
    before = contents(store)

    with pytest.raises(JobNotFoundError, match=r"\Ano job 'a'\Z"):
        {"get": lambda store: store.find_nowait("a"), **MOVES}[move](store)

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
    # Wall clocks are passed in: the times are read before anything is changed.
    readings = iter([NOON])
    store = make_store(now=readings.__next__)
    bring = make_job("a")
    store.add(bring)
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

    assert [job.id for job in store.page_nowait(limit=10)] == ["b", "d"]
    for dropped in "ca":
        with pytest.raises(JobNotFoundError):
            store.find_nowait(dropped)


def test_finished_jobs_beyond_the_bytes_are_dropped_oldest_completion_first() -> None:
    store = make_store(keep_completed_bytes=100)

    for job_id in "abcd":
        run_through(
            store,
            make_job(
                job_id,
                type="t",
                payload=b"-" * 29,
            ),
            ending_of(b"-" * 10),
        )

    assert [job.id for job in store.page_nowait(limit=10)] == ["c", "d"]
    assert store.statistics().completed_bytes == 80

    run_through(store, make_job("e", type="t", payload=b"-" * 60), ending_of(b"-" * 39))

    assert [job.id for job in store.page_nowait(limit=10)] == ["e"]
    assert store.statistics().completed_bytes == 100


def ending_of(result: bytes) -> Ending:
    return Ending(outcome=Outcome.SUCCEEDED, result=result)


def test_pending_and_processing_jobs_are_never_dropped() -> None:
    store = make_store(keep_completed=0, keep_completed_bytes=0)
    store.add(make_job("pending", payload=b"-" * 1000))
    store.add(make_job("processing", payload=b"-" * 1000))
    store.add(make_job("released", payload=b"-" * 1000))
    store.claim("processing")
    store.claim("released")
    store.release("released")

    for n in range(100):
        run_through(store, make_job(f"finished-{n}"))

    assert {job.id for job in store.page_nowait(limit=1000)} == {
        "pending",
        "processing",
        "released",
    }
    assert store.statistics() == StoreStatistics(
        pending=2,
        processing=1,
        completed=0,
        completed_bytes=0,
        dropped=NONE_DROPPED | {Outcome.SUCCEEDED: 100},
    )


def test_dropped_jobs_are_counted_by_outcome() -> None:
    store = make_store(keep_completed=1)
    outcomes = [Outcome.FAILED, Outcome.SUCCEEDED, Outcome.FAILED, Outcome.TIMED_OUT]
    for n, outcome in enumerate(outcomes):
        run_through(store, make_job(f"{n}"), Ending(outcome=outcome))

    store.delete_nowait("3")

    assert store.statistics().dropped == NONE_DROPPED | {Outcome.FAILED: 2, Outcome.SUCCEEDED: 1}


def test_completing_returns_the_record_even_if_it_is_not_kept() -> None:
    store = make_store(keep_completed=0)

    assert run_through(store, make_job("a")).status is JobStatus.COMPLETED
    assert len(store) == 0


def test_id_of_a_dropped_job_is_unknown_to_every_move() -> None:
    store = make_store(keep_completed=0)
    run_through(store, make_job("a"))

    for move in MOVES.values():
        with pytest.raises(JobNotFoundError, match=r"\Ano job 'a'\Z"):
            move(store)


def test_records_that_were_read_stay_as_they_were(store: MemoryStore) -> None:
    store.add(make_job("a"))
    read = store.find_nowait("a"), *store.page_nowait(limit=1)

    store.claim("a")
    store.complete("a", SUCCEEDED)
    store.page_nowait(limit=10).clear()

    assert read == (make_job("a"), make_job("a"))
    assert len(store.page_nowait(limit=10)) == 1


def test_statistics_count_where_the_jobs_are(store: MemoryStore) -> None:
    for job_id in "abcdef":
        store.add(make_job(job_id, type="t", payload=b"12345"))
    for job_id in "abcd":
        store.claim(job_id)
    store.complete("a", ending_of(b"1234"))
    store.release("b")

    assert len(store) == 6
    assert store.statistics() == StoreStatistics(
        pending=3, processing=2, completed=1, completed_bytes=10, dropped=NONE_DROPPED
    )
    assert store.unfinished().ids == (["b", "c", "d"], ["e", "f"])


# Pages. ---------------------------------------------------------------------------------------


def ids(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


def test_pages_follow_each_other_without_a_gap_or_a_repetition(store: MemoryStore) -> None:
    for n in range(25):
        store.add(make_job(f"{n:02}"))

    pages = [store.page_nowait(limit=10)]
    while len(pages[-1]) == 10:
        pages.append(store.page_nowait(after=pages[-1][-1].id, limit=10))

    assert [len(page) for page in pages] == [10, 10, 5]
    assert [job_id for page in pages for job_id in ids(page)] == [f"{n:02}" for n in range(25)]


def test_page_after_a_dropped_or_a_foreign_id_goes_on_where_it_would_be() -> None:
    store = make_store(keep_completed=0)
    for job_id in "bdfh":
        store.add(make_job(job_id))
    store.claim("d")
    store.complete("d", SUCCEEDED)

    assert ids(store.page_nowait(after="d", limit=10)) == ["f", "h"]
    assert ids(store.page_nowait(after="a", limit=10)) == ["b", "f", "h"]
    assert ids(store.page_nowait(after="e", limit=1)) == ["f"]
    assert ids(store.page_nowait(after="h", limit=10)) == []
    assert ids(store.page_nowait(after="zz", limit=10)) == []
    assert ids(store.page_nowait(limit=0)) == []


def test_page_is_ordered_by_id_whatever_has_happened_to_the_jobs(store: MemoryStore) -> None:
    for job_id in "cab":
        store.add(make_job(job_id))
    for job_id in "bac":
        store.claim(job_id)
    store.complete("c", SUCCEEDED)
    store.release("a")

    assert ids(store.page_nowait(limit=10)) == ["a", "b", "c"]


def test_jobs_that_come_in_between_two_pages_are_on_a_later_one(store: MemoryStore) -> None:
    store.add(make_job("a"))
    store.add(make_job("b"))
    first = store.page_nowait(limit=1)
    store.add(make_job("c"))

    assert ids(store.page_nowait(after=first[-1].id, limit=10)) == ["b", "c"]


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


def test_memory_stays_at_its_plateau_over_200_000_jobs() -> None:
    # Blocks rather than bytes: counting those costs nothing. Many sizes of
    # objects are too large for a block, such as the tables of big dicts; so the
    # store's own containers are measured as well.
    store = make_store(keep_completed=1000)

    def run(start: int, end: int) -> tuple[int, int]:
        for n in range(start, end):
            run_through(store, make_job(f"{n:010}"))
        containers = [getattr(store, name) for name in vars(store)]
        return sys.getallocatedblocks(), sum(map(sys.getsizeof, containers))

    blocks, size = run(0, 20_000)
    later_blocks, later_size = run(20_000, 200_000)

    assert len(store) == 1000
    assert later_blocks < blocks + 500
    assert later_size <= 2 * size


# Cancel, delete, keys. -----------------------------------------------------------------------


async def test_awaited_methods_are_the_plain_ones_without_a_checkpoint(
    store: MemoryStore,
) -> None:
    job = run_through(store, keyed("a", "k"))
    store.add(make_job("b"))

    with assert_no_checkpoints():
        assert await store.find("a") == await store.find_key("k") == job
        assert await store.page(after="a", limit=5) == [make_job("b")]
        assert (await store.request_cancel("b")).cancel_requested
        await store.delete("a")

    assert store.page_nowait(limit=5) == [store.find_nowait("b")]


def keyed(job_id: str, key: str) -> Job:
    return replace(make_job(job_id), key=IdempotencyKey(text=key, digest=b"digest"))


def test_cancel_request_is_noted_on_a_pending_and_on_a_processing_job() -> None:
    store = make_store()
    store.add(make_job("a"))

    assert (
        store.request_cancel_nowait("a")
        == store.find_nowait("a")
        == replace(make_job("a"), cancel_requested=True)
    )
    claimed = store.claim("a")
    assert claimed.cancel_requested
    assert store.request_cancel_nowait("a") == claimed
    assert store.statistics().processing == 1


def test_completed_job_cannot_be_cancelled() -> None:
    store = make_store()
    store.add(make_job("a"))
    store.claim("a")
    completed = store.complete("a", SUCCEEDED)

    with pytest.raises(InvalidTransitionError, match="'a' is completed; it can not be cancelled"):
        store.request_cancel_nowait("a")
    assert store.find_nowait("a") == completed
    with pytest.raises(JobNotFoundError):
        store.request_cancel_nowait("b")


def test_deleted_job_is_gone_with_its_bytes() -> None:
    store = make_store()
    store.add(make_job("a"))
    store.claim("a")
    store.complete("a", SUCCEEDED)

    store.delete_nowait("a")

    assert store.page_nowait(limit=10) == []
    assert store.statistics() == StoreStatistics(
        pending=0, processing=0, completed=0, completed_bytes=0, dropped=NONE_DROPPED
    )
    with pytest.raises(JobNotFoundError):
        store.delete_nowait("a")


def test_only_a_completed_job_can_be_deleted() -> None:
    store = make_store()
    store.add(make_job("a"))
    with pytest.raises(InvalidTransitionError, match="'a' is pending"):
        store.delete_nowait("a")
    store.claim("a")
    with pytest.raises(InvalidTransitionError, match="only a completed job can be deleted"):
        store.delete_nowait("a")
    assert store.find_nowait("a").status is JobStatus.PROCESSING


def test_key_finds_its_job_as_it_is_now() -> None:
    store = make_store()
    store.add(keyed("a", "k"))
    store.claim("a")

    assert store.find_key_nowait("k") == store.find_nowait("a")
    assert store.find_key_nowait("other") is None


def test_second_job_with_a_key_is_refused() -> None:
    store = make_store()
    store.add(keyed("a", "k"))

    with pytest.raises(DuplicateJobError, match="the key 'k'"):
        store.add(keyed("b", "k"))
    assert len(store) == 1


@pytest.mark.parametrize("how", ["dropped", "deleted"])
def test_key_goes_with_its_job(how: str) -> None:
    store = make_store(keep_completed=0 if how == "dropped" else 1)
    for job_id in ("a", "b", "c"):
        store.add(keyed(job_id, "k"))
        store.claim(job_id)
        store.complete(job_id, SUCCEEDED)
        if how == "deleted":
            store.delete_nowait(job_id)
        assert store.find_key_nowait("k") is None
