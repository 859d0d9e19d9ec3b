"""What a pool counts of its jobs, against a plain recount of them."""

import math
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.durable import ONCE, DurableParts, make_durable_parts
from tests.durable import start_pool as start_durable_pool
from tests.proof.share import swept
from tests.support import (
    NOON,
    SUCCEEDED,
    HandlerRegistry,
    HttpSettings,
    Later,
    MemoryStore,
    Parts,
    PoolSettings,
    StoreSettings,
    make_parts,
    noon,
    start_pool,
)
from trio_jobs import Ending, Handler, Job, JobError, JobStatus, Outcome, RetryPolicy, Snooze
from trio_jobs.pool.ended_jobs import EndedJobs
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.observation import Observation
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.refusals import AdmissionError
from trio_jobs.pool.reruns import Selection, rerun_all
from trio_jobs.pool.statistics import OTHER, TypeStatistics
from trio_jobs.pool.store import InvalidTransitionError, JobNotFoundError
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.pool.wiring import make_pool
from trio_jobs.settings import MetricsSettings
from trio_jobs.store_in_file import RecoveredFile
from trio_jobs.testing.schedules import seeded_schedule

MAX_TYPES = MetricsSettings().max_types


class Clocks:
    """The wall clock, which goes with Trio's."""

    def __init__(self) -> None:
        self.began = trio.current_time()

    def now(self) -> datetime:
        return NOON + timedelta(seconds=trio.current_time() - self.began)


def observation_of(parts: Parts | DurableParts) -> Observation:
    assert parts.pool.observation is not None
    return parts.pool.observation


# Ends. ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class End:
    """How a job of the test ends, and how many seconds before the last one."""

    type: str
    outcome: Outcome
    before: float
    run: float | None
    wait: float
    attempts: int


some_ends = st.lists(
    st.builds(
        End,
        type=st.sampled_from(["a", "b"]),
        outcome=st.sampled_from(Outcome),
        before=st.integers(0, 40).map(lambda n: n / 4) | st.integers(0, 40).map(lambda n: n * 25.5),
        run=st.none() | st.floats(0, 100),
        wait=st.floats(0, 1000),
        attempts=st.integers(1, 2),
    ),
    max_size=60,
)


def job_of(number: int, end: End, last: datetime) -> Job:
    ended = last - timedelta(seconds=end.before)
    began = ended - timedelta(seconds=end.run or 0)
    return Job(
        id=str(number),
        type=end.type,
        payload=b"null",
        status=JobStatus.COMPLETED,
        created_at=began - timedelta(seconds=end.wait),
        started_at=began,
        completed_at=ended,
        duration=end.run,
        attempts=end.attempts,
        ending=Ending(outcome=end.outcome),
    )


def is_near(found: float | None, durations: list[float], share: float) -> bool:
    if not durations:
        return found is None
    true = sorted(durations)[max(math.ceil(share * len(durations)), 1) - 1]
    return found is not None and abs(found - true) <= 0.032 * true + 2e-6


@given(ends=some_ends, window_age=st.floats(0, 299), counted_at=st.integers(0, 60))
def test_ends_are_counted_as_a_plain_recount_counts_them(
    ends: list[End], window_age: float, counted_at: int
) -> None:
    """The present window has begun `window_age` seconds ago."""
    last = NOON + timedelta(seconds=0.5)
    ends = sorted(ends, key=lambda end: -end.before)

    async def main() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        observation = Observation(
            MemoryStore(StoreSettings(), now=noon), max_types=MAX_TYPES, now=lambda: last
        )
        clock.jump(window_age)
        for number, end in enumerate(ends):
            job = job_of(number, end, last)
            type_counts = observation._counts_of(job.type)
            type_counts.found += 1
            type_counts.claimed += 1
            observation.ended.note(job)
            if number == counted_at:
                observation._count()

        found = observation.statistics()

        assert found.totals == {each: sum(e.outcome is each for e in ends) for each in Outcome}
        for type_ in ("a", "b"):
            mine = [end for end in ends if end.type == type_]
            if not mine:
                assert type_ not in found.types
                continue
            counts = found.types[type_]
            assert counts.processing == 0
            assert counts.outcomes == Counter(end.outcome for end in mine)
            failed = [e for e in mine if e.outcome in {Outcome.FAILED, Outcome.TIMED_OUT}]
            assert counts.attempts_failed == len(failed)
            ran = [end for end in mine if end.outcome is not Outcome.CANCELLED]
            runs = [end for end in ran if end.run is not None]
            waits = [end for end in ran if end.attempts == 1]
            run, wait = observation.durations()[type_]
            assert (run.count, wait.count) == (len(runs), len(waits))
            assert run.seconds == pytest.approx(sum(end.run or 0 for end in runs))
            assert wait.seconds == pytest.approx(sum(end.wait for end in waits), abs=1e-3)
            # Ends are told apart by whole seconds; leave out the examples at the windows' edge.
            if all(abs(end.before - window_age - 300) > 2 for end in mine):
                recent = [e.run for e in runs if e.before < window_age + 300 and e.run is not None]
                assert is_near(counts.run_p50_seconds, recent, 0.5)
                assert is_near(counts.run_p95_seconds, recent, 0.95)
                recent = [end.wait for end in waits if end.before < window_age + 300]
                assert is_near(counts.wait_p50_seconds, recent, 0.5)
                assert is_near(counts.wait_p95_seconds, recent, 0.95)
        seconds = [NOON - timedelta(seconds=n) for n in range(60, 0, -1)]
        moments = [(last - timedelta(seconds=end.before), end.outcome) for end in ends]
        assert list(found.ended_per_second) == [
            (
                sum(each <= at < each + timedelta(seconds=1) and good for at, good in told),
                sum(each <= at < each + timedelta(seconds=1) and not good for at, good in told),
            )
            for told in [[(at, how is Outcome.SUCCEEDED) for at, how in moments]]
            for each in seconds
        ]

    trio.run(main, clock=MockClock())


async def test_percentiles_forget_what_ended_more_than_ten_minutes_ago(
    autojump_clock: MockClock,
) -> None:
    clocks = Clocks()
    parts = make_parts(now=clocks.now, workers=1)
    observation = observation_of(parts)

    async def run_one(seconds: float) -> None:
        job = parts.admission.submit("email", b"null")
        parts.workers.claim(parts.receive.receive_nowait())
        await trio.sleep(seconds)
        parts.workers.complete(job.id, SUCCEEDED, duration=seconds)

    def longest() -> float | None:
        return observation.statistics().types["email"].run_p95_seconds

    await run_one(8)  # within the first five minutes
    await trio.sleep(342)
    await run_one(1)  # within the next five
    assert longest() == pytest.approx(8, rel=0.032)
    await trio.sleep(350)
    assert longest() == pytest.approx(1, rel=0.032)
    await trio.sleep(10_000)
    assert longest() is None
    run, _ = observation.durations()["email"]
    assert (run.count, run.seconds) == (2, 9)


async def test_waits_are_those_of_jobs_that_did_not_wait_for_a_time(
    autojump_clock: MockClock,
) -> None:
    clocks = Clocks()

    async def handle(kind: str) -> None:
        number[kind] += 1
        if number[kind] == 1 and kind == "snooze":
            raise Snooze(50)
        if number[kind] == 1 and kind == "retry":
            raise ValueError

    number: Counter[str] = Counter()
    policy = RetryPolicy(attempts=2, backoff="constant", base=50, jitter=False)
    parts = make_parts(
        HandlerRegistry({"email": Handler.of(handle, retry=policy)}), now=clocks.now, workers=2
    )
    observation = observation_of(parts)
    for kind in ("snooze", "retry", "plain"):
        parts.admission.submit("email", b'"%s"' % kind.encode())
    parts.admission.submit("email", b'"delayed"', 50.0)
    await trio.sleep(8)
    async with trio.open_nursery() as nursery:
        start_pool(parts, nursery)
        await trio.sleep(100)
        nursery.cancel_scope.cancel()

    run, wait = observation.durations()["email"]
    assert (run.count, wait.count, wait.seconds) == (4, 1, 8)
    assert observation.statistics().types["email"].wait_p95_seconds == pytest.approx(8, rel=0.032)
    assert observation._waited == {}


async def test_seconds_that_are_over_are_forgotten(autojump_clock: MockClock) -> None:
    clocks = Clocks()
    parts = make_parts(now=clocks.now, keep_completed=1)
    observation = observation_of(parts)
    for _ in range(500):
        job = parts.admission.submit("email", b"null")
        parts.workers.claim(parts.receive.receive_nowait())
        parts.workers.complete(job.id, SUCCEEDED)
        await trio.sleep(1)

    assert list(observation.statistics().ended_per_second) == [(1, 0)] * 60
    assert len(observation._seconds) <= 61


# Types. ---------------------------------------------------------------------------------------


async def test_types_beyond_the_most_share_one_entry_coming_and_going() -> None:
    parts = make_parts(buffer_size=1000, keep_completed=1)
    observation = observation_of(parts)
    types = [f"type-{n}" for n in range(MAX_TYPES + 20)]
    jobs = [parts.admission.submit(type_, b"null") for type_ in [*types, *types]]

    found = observation.statistics().types
    assert len(found) == MAX_TYPES + 1
    assert (found[OTHER].submitted, found[OTHER].pending) == (40, 40)

    for job in jobs[len(types) :]:
        parts.workers.claim(job.id)
    assert observation.statistics().types[OTHER].processing == 20
    for job in jobs[len(types) :]:
        parts.workers.complete(job.id, SUCCEEDED)

    other = observation.statistics().types[OTHER]
    assert (other.pending, other.processing, other.outcomes) == (20, 0, {Outcome.SUCCEEDED: 20})
    assert all(each.pending == 1 for type_, each in found.items() if type_ != OTHER) is False
    assert {each.pending for each in observation.statistics().types.values()} == {1, 20}


async def test_types_with_handlers_have_entries_whatever_clients_send() -> None:
    handlers = HandlerRegistry({"email": Handler.of(nothing), "default": Handler.of(nothing)})
    parts = make_parts(handlers, buffer_size=1000)
    for n in range(2 * MAX_TYPES):
        parts.admission.submit(f"type-{n}", b"null")
    parts.admission.submit("email", b"null")

    found = observation_of(parts).statistics().types

    assert found["email"].submitted == 1
    assert "default" not in found


@pytest.mark.parametrize("type_", ["x" * 201, "x" * 1_000_000, OTHER])
async def test_type_of_such_a_name_is_counted_with_the_others(type_: str) -> None:
    parts = make_parts()
    observation = observation_of(parts)
    assert OTHER not in observation.statistics().types
    job = parts.admission.submit(type_, b"null")
    assert {name: each.pending for name, each in observation.statistics().types.items()} == {
        OTHER: 1
    }

    parts.workers.claim(job.id)
    parts.workers.complete(job.id, SUCCEEDED)

    [counts] = observation.statistics().types.values()
    assert (counts.pending, counts.processing) == (0, 0)
    assert counts.outcomes == {Outcome.SUCCEEDED: 1}


async def nothing(_payload: object) -> None:
    pass


# The oldest. ----------------------------------------------------------------------------------


async def test_oldest_pending_job_is_the_one_that_could_have_begun_first(
    autojump_clock: MockClock,
) -> None:
    clocks = Clocks()

    async def handle(seconds: float) -> None:
        await trio.sleep(seconds)

    handlers = HandlerRegistry(
        {"work": Handler.of(handle), "limited": Handler.of(handle, max_running=1)}
    )
    parts = make_parts(handlers, workers=2, now=clocks.now)

    def oldest() -> float | None:
        return observation_of(parts).statistics().oldest_pending_seconds

    async with trio.open_nursery() as nursery:
        start_pool(parts, nursery)
        assert oldest() is None
        parts.admission.submit("work", b"1", 100.0)  # begins later
        parts.admission.submit("limited", b"50")
        await trio.sleep(20)
        assert oldest() is None
        parts.admission.submit("limited", b"1")  # held
        await trio.sleep(10)
        assert oldest() == 10
        parts.admission.submit("work", b"1000")
        await trio.sleep(5)
        assert oldest() == 15
        await trio.sleep(20)  # the held one has begun
        assert oldest() is None
        parts.admission.submit("work", b"1000")
        await trio.sleep(65)  # the delayed one has been due for 20 seconds; both workers are busy
        assert oldest() == 20
        nursery.cancel_scope.cancel()


def test_program_with_a_pool_of_its_own_counts_nothing_and_imports_nothing_for_it() -> None:
    program = """
import sys, trio, trio_jobs

async def work(_): pass

async def main():
    async with trio_jobs.open_jobs({"work": work}) as jobs:
        await jobs.result(jobs.submit("work").id)
        assert jobs._pool.observation is None

trio.run(main)
print(*[name for name in sys.modules if name.startswith("trio_jobs.pool.")], sep="\\n")
"""
    command = [sys.executable, "-c", program]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert "trio_jobs.pool.worker" in imported
    parts = ("counted_moves", "ended_jobs", "histogram", "observation", "type_counts")
    assert not {f"trio_jobs.pool.{each}" for each in parts} & set(imported)


# An earlier process. --------------------------------------------------------------------------


@asynccontextmanager
async def pool_over(path: Path) -> AsyncIterator[Pool]:
    """A pool over this file, whose workers do not run."""
    handlers = HandlerRegistry(
        {"work": Handler.of(nothing), ONCE: Handler.of(nothing, repeatable=False)}
    )
    opened = RecoveredFile(path, handlers, StoreSettings(), now=utc_now).open(failed=print)
    send, receive = trio.open_memory_channel[str](20)
    sections = (PoolSettings(workers=2, buffer_size=10), StoreSettings(), HttpSettings())
    with send, receive:
        pool = make_pool(handlers, send, opened.store, *sections, **opened.for_pool)
        opened.start(pool)
        yield pool
        assert await opened.close(pool, seconds=10)


async def test_start_counts_what_an_earlier_process_has_left_and_what_its_death_cut_off(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    async with pool_over(path) as pool:
        specs = [JobSpec(type_, b"null") for type_ in ("work", "work", ONCE, "work")]
        jobs = await pool.admission.admit_all([*specs, JobSpec("work", b"null", 1000.0)])
        for job in jobs[:3]:
            assert pool.store.claim(job.id) is not None
        later = Later(seconds=1000, error=JobError(type="E", message="no"))
        pool.store.postpone(jobs[1].id, later)

    async with pool_over(path) as pool:
        assert pool.observation is not None
        found = pool.observation.statistics()
        work, once = found.types["work"], found.types[ONCE]
        _, ended = pool.observation.ended.since(0)

    assert (work.submitted, work.pending, work.retrying, work.processing) == (0, 4, 1, 0)
    assert (work.interruptions, work.outcomes) == (1, {})
    assert (once.pending, once.processing, once.interruptions) == (0, 0, 1)
    assert once.outcomes == {Outcome.INTERRUPTED: 1}
    assert found.totals[Outcome.INTERRUPTED] == 1
    assert [job.id for job in ended] == [jobs[2].id]


# Whole histories. -----------------------------------------------------------------------------


TYPES = ("quick", "slow", "failing", "snoozing", "limited", ONCE)


class History:
    """Clients that do what comes to their minds, and what became of it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311  (to be replayed)
        self.jobs: list[Job] = []
        self.ends: list[Job] = []
        self.attempts_failed: Counter[str] = Counter()
        self.attempts: Counter[bytes] = Counter()

    def handlers(self) -> dict[str, Handler]:
        policy = RetryPolicy(attempts=3, backoff="constant", base=5, jitter=False)

        async def quick(_payload: object) -> None:
            if self.random.random() < 0.2:
                self.attempts_failed["quick"] += 1
                raise ValueError

        async def slow(_payload: object) -> None:
            await trio.sleep(self.random.choice([0, 0.5, 5]))

        async def failing(_payload: object) -> None:
            await trio.sleep(self.random.choice([0, 1]))
            if self.random.random() < 0.7:
                self.attempts_failed["failing"] += 1
                raise ValueError

        async def snoozing(_payload: object) -> None:
            if self.random.random() < 0.5:
                raise Snooze(self.random.choice([0, 3]))

        return {
            "quick": Handler.of(quick),
            "slow": Handler.of(slow),
            "failing": Handler.of(failing, retry=policy),
            "snoozing": Handler.of(snoozing),
            "limited": Handler.of(slow, max_running=1),
            ONCE: Handler.of(slow, repeatable=False),
        }

    def specs(self, number: int) -> list[JobSpec]:
        dues = [None, None, None, 0.0, 3.0, NOON, NOON + timedelta(seconds=30)]
        return [
            JobSpec(self.random.choice(TYPES), b"null", self.random.choice(dues))
            for _ in range(number)
        ]

    async def act(self, parts: Parts | DurableParts) -> None:
        """One client, for ever."""
        admission, store = parts.admission, parts.store
        while True:
            await trio.sleep(self.random.choice([0, 0.1, 1, 2]))
            what = self.random.randrange(9)
            try:
                if what < 2:
                    self.jobs.append(await admission.admit(*self.specs(1)))
                elif what < 4:
                    self.jobs += await admission.admit_all(self.specs(self.random.randrange(5)))
                elif what < 6:
                    self.jobs += await admission.admit_up_to(self.specs(3))
                elif what == 6:
                    self.jobs += await rerun_all(parts.pool, Selection.of(None, None, 2))
                elif self.jobs:
                    job = self.random.choice(self.jobs[-20:])
                    if what == 7:
                        await parts.pool.cancel(job.id)
                    else:
                        await store.delete(job.id)
            except (AdmissionError, InvalidTransitionError, JobNotFoundError):
                pass

    async def run(self, parts: Parts | DurableParts) -> None:
        """Let four clients act, and look on."""
        async with trio.open_nursery() as clients:
            for _ in range(4):
                clients.start_soon(self.act, parts)
            await self.look_on(parts, 500)
            clients.cancel_scope.cancel()

    async def look_on(self, parts: Parts | DurableParts, looks: int) -> None:
        """Compare at so many moments, and at many of them between two steps of one turn."""
        for _ in range(looks):
            await trio.sleep(self.random.choice([0, 0, 0.05, 0.5, 1]))
            self.check(parts)

    def check(self, parts: Parts | DurableParts) -> None:
        """Compare what was counted with a recount, at this very moment."""
        found = observation_of(parts).statistics()
        unfinished = unfinished_jobs(parts)
        for type_ in TYPES:
            mine = [job for job in unfinished if job.type == type_]
            pending = [job for job in mine if job.status is JobStatus.PENDING]
            ends = [job for job in self.ends if job.type == type_]
            counts = found.types[type_]
            expected = TypeStatistics(
                submitted=len(mine) + len(ends),
                pending=len(pending),
                retrying=sum(job.waiting == "retrying" for job in pending),
                processing=len(mine) - len(pending),
                outcomes=Counter(job.outcome for job in ends if job.outcome is not None),
                attempts_failed=self.attempts_failed[type_],
                interruptions=0,
                run_p50_seconds=counts.run_p50_seconds,
                run_p95_seconds=counts.run_p95_seconds,
                wait_p50_seconds=counts.wait_p50_seconds,
                wait_p95_seconds=counts.wait_p95_seconds,
            )
            assert counts == expected, type_
        assert sum(each.pending for each in found.types.values()) == (
            parts.pool.statistics().pending
        )


def unfinished_jobs(parts: Parts | DurableParts) -> list[Job]:
    """As the store has them in memory: with a file, also those whose ends are unwritten."""
    return [job for job in parts.store._jobs.values() if job.status is not JobStatus.COMPLETED]


@asynccontextmanager
async def noted_ends(history: History, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Note each end that clients see."""
    beside = EndedJobs.beside

    def noting(
        ended: EndedJobs, notify: Callable[[Job], object], *waiting: Collection[str]
    ) -> Callable[[Job], None]:
        note = beside(ended, notify, *waiting)

        def note_too(job: Job) -> None:
            history.ends.append(job)
            note(job)

        return note_too

    with monkeypatch.context() as patches:
        patches.setattr(EndedJobs, "beside", noting)
        yield


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(1 + n, marks=pytest.mark.proof) for n in swept("recount", 6))]
)
async def test_counts_are_those_of_a_recount_at_any_moment_of_a_history(
    kind: str, seed: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, clocks = History(seed), Clocks()
    with seeded_schedule(seed):
        async with noted_ends(history, monkeypatch):
            parts: Parts | DurableParts
            handlers = history.handlers()
            if kind == "memory":
                registry = HandlerRegistry(handlers)
                parts = make_parts(
                    registry, buffer_size=5, max_waiting=8, keep_completed=3, now=clocks.now
                )
            else:
                parts = make_durable_parts(
                    handlers, buffer_size=5, max_waiting=8, keeps_pending=False, now=clocks.now
                )
            async with trio.open_nursery() as journal:
                async with trio.open_nursery() as nursery:
                    if isinstance(parts, DurableParts):
                        journal.start_soon(parts.journal.run, seed)
                        start_durable_pool(parts, nursery)
                    else:
                        start_pool(parts, nursery)
                    await history.run(parts)
                    if seed % 2:
                        parts.admission.close()
                        await history.look_on(parts, 50)
                    nursery.cancel_scope.cancel()
                await wait_all_tasks_blocked()  # all is written, also what the cancel has ended
                history.check(parts)
                journal.cancel_scope.cancel()
    ends = Counter(job.outcome for job in history.ends)
    assert ends.keys() >= {Outcome.SUCCEEDED, Outcome.FAILED}
    assert ends.total() > 50
