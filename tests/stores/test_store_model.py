"""The store against a plain model of it, over any sequence of calls."""

import contextlib
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from tests.proof.share import scaled
from tests.support import NOON, Later, StoreError, StoreSettings, StoreStatistics, make_job
from trio_jobs import Ending, JobError, JobStatus, Outcome
from trio_jobs.job import MAX_DELAY
from trio_jobs.pool.job_query import JobQuery, Order
from trio_jobs.stores.memory import MemoryStore

KEEP_COMPLETED = 3
KEEP_FAILED = 2
KEEP_COMPLETED_BYTES = 60
BOUNDS = StoreSettings(
    keep_completed=KEEP_COMPLETED,
    keep_failed=KEEP_FAILED,
    keep_completed_bytes=KEEP_COMPLETED_BYTES,
)

# Few ids, so that the calls meet; any of them may be known, unknown or dropped.
some_id = st.sampled_from([f"{n:02}" for n in range(8)])
some_ending = st.one_of(
    st.builds(
        Ending, outcome=st.just(Outcome.SUCCEEDED), result=st.binary(max_size=KEEP_COMPLETED_BYTES)
    ),
    st.builds(
        Ending,
        outcome=st.sampled_from([Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED]),
        error=st.builds(JobError, type=st.just("E"), message=st.text(max_size=5)),
    ),
)
some_later = st.builds(
    Later,
    seconds=st.floats(0, MAX_DELAY),
    error=st.none() | st.builds(JobError, type=st.just("E"), message=st.just("no")),
    snooze=st.booleans(),
)


@dataclass(kw_only=True)
class Model:
    """A store as one would first write it: lists, scanned every time."""

    status: dict[str, str] = field(default_factory=dict)  # with "released" as a status
    size: dict[str, int] = field(default_factory=dict)
    completions: list[str] = field(default_factory=list)  # of jobs still kept
    outcome: dict[str, Outcome] = field(default_factory=dict)  # also of those dropped
    dropped: Counter[Outcome] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    snoozes: Counter[str] = field(default_factory=Counter)
    run_at: dict[str, datetime] = field(default_factory=dict)  # of those that wait
    cancel_requested: set[str] = field(default_factory=set)
    rerun_of: dict[str, str] = field(default_factory=dict)
    rerun_as: dict[str, str] = field(default_factory=dict)

    def allows(self, job_id: str, *statuses: str) -> bool:
        return self.status.get(job_id) in statuses

    def drop_beyond_the_bounds(self) -> None:
        if len(self.kept(succeeded=True)) > KEEP_COMPLETED:
            self.drop(self.kept(succeeded=True)[0])
        if len(self.kept(succeeded=False)) > KEEP_FAILED:
            self.drop(self.kept(succeeded=False)[0])
        while self.bytes(self.completions) > KEEP_COMPLETED_BYTES:
            successes, others = self.kept(succeeded=True), self.kept(succeeded=False)
            larger = others if self.bytes(others) > self.bytes(successes) else successes
            self.drop(larger[0])

    def kept(self, *, succeeded: bool) -> list[str]:
        return [
            each
            for each in self.completions
            if (self.outcome[each] is Outcome.SUCCEEDED) == succeeded
        ]

    def bytes(self, job_ids: list[str]) -> int:
        return sum(self.size[each] for each in job_ids)

    def drop(self, job_id: str) -> None:
        self.completions.remove(job_id)
        self.forget(job_id)
        self.dropped[self.outcome[job_id]] += 1

    def forget(self, job_id: str) -> None:
        del self.status[job_id]
        self.cancel_requested.discard(job_id)
        self.rerun_of.pop(job_id, None)
        self.rerun_as.pop(job_id, None)

    def count(self, *statuses: str) -> int:
        return sum(status in statuses for status in self.status.values())


class StoreMachine(RuleBasedStateMachine):
    """Each rule: the model says whether the store must allow it, then both do it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.wall_clock = NOON
        self.store = MemoryStore(BOUNDS, now=self._now)

    def _now(self) -> datetime:
        return self.wall_clock

    @rule(seconds=st.integers(-100, 100))
    def set_the_wall_clock(self, seconds: int) -> None:
        self.wall_clock += timedelta(seconds=seconds)

    @rule(job_id=some_id, payload=st.binary(max_size=20), delay=st.none() | st.integers(1, 100))
    def add(self, job_id: str, payload: bytes, delay: int | None) -> None:
        run_at = None if delay is None else self.wall_clock + timedelta(seconds=delay)
        with refused(unless=job_id not in self.model.status):
            self.store.add(replace(make_job(job_id, type="t", payload=payload), run_at=run_at))
            self.model.status[job_id] = "pending" if run_at is None else "waiting"
            if run_at is not None:
                self.model.run_at[job_id] = run_at
            self.model.attempts[job_id] = self.model.snoozes[job_id] = 0
            self.model.size[job_id] = 1 + len(payload)

    @rule(job_id=some_id, old_id=some_id)
    def rerun(self, job_id: str, old_id: str) -> None:
        model = self.model
        allowed = (
            job_id not in model.status
            and model.allows(old_id, "completed")
            and model.outcome[old_id] is not Outcome.SUCCEEDED
            and old_id not in model.rerun_as
        )
        with refused(unless=allowed):
            self.store.add(replace(make_job(job_id, type="t"), rerun_of=old_id))
            model.status[job_id] = "pending"
            model.attempts[job_id] = model.snoozes[job_id] = 0
            model.size[job_id] = 1 + len(b"null")
            model.rerun_of[job_id], model.rerun_as[old_id] = old_id, job_id

    @precondition(lambda self: self.model.completions)
    @rule(job_id=some_id, number=st.integers(0, KEEP_COMPLETED - 1))
    def rerun_a_completed_one(self, job_id: str, number: int) -> None:
        self.rerun(job_id, self.model.completions[number % len(self.model.completions)])

    @rule(job_id=some_id)
    def claim(self, job_id: str) -> None:
        with refused(unless=self.model.allows(job_id, "pending", "waiting")):
            self.store.claim(job_id)
            self.model.attempts[job_id] += 1
            self.model.status[job_id] = "processing"

    @rule(job_id=some_id, ending=some_ending)
    def complete(self, job_id: str, ending: Ending) -> None:
        with refused(unless=self.model.allows(job_id, "processing")):
            self.store.complete(job_id, ending)
            self.model.status[job_id] = "completed"
            message = ending.error.message if ending.error else ""
            self.model.size[job_id] += len(ending.result or b"") + len(message.encode())
            self.model.completions.append(job_id)
            self.model.outcome[job_id] = ending.outcome
            self.model.drop_beyond_the_bounds()

    @rule(job_id=some_id, payload=st.binary(max_size=20), ending=some_ending)
    def process(self, job_id: str, payload: bytes, ending: Ending) -> None:
        """Few sequences would have these three calls for one job by themselves."""
        if job_id not in self.model.status:
            self.add(job_id, payload, None)
        if self.model.allows(job_id, "pending", "waiting"):
            self.claim(job_id)
        self.complete(job_id, ending)

    @rule(job_id=some_id)
    def release(self, job_id: str) -> None:
        with refused(unless=self.model.allows(job_id, "processing")):
            self.store.release(job_id)
            self.model.attempts[job_id] -= 1
            self.model.status[job_id] = "released"

    @rule(job_id=some_id, later=some_later)
    def postpone(self, job_id: str, later: Later) -> None:
        with refused(unless=self.model.allows(job_id, "processing")):
            self.store.postpone(job_id, later)
            self.model.status[job_id] = "waiting"
            cancelled = job_id in self.model.cancel_requested
            wait = timedelta(seconds=0 if cancelled else later.seconds)
            self.model.run_at[job_id] = self.wall_clock + wait
            if later.snooze:
                self.model.attempts[job_id] -= 1
                self.model.snoozes[job_id] += 1

    @rule(job_id=some_id)
    def request_cancel(self, job_id: str) -> None:
        unfinished = ("pending", "waiting", "processing", "released")
        with refused(unless=self.model.allows(job_id, *unfinished)):
            self.store.request_cancel_nowait(job_id)
            self.model.cancel_requested.add(job_id)
            if self.model.status[job_id] == "waiting":
                self.model.run_at[job_id] = min(self.model.run_at[job_id], self.wall_clock)

    @rule(job_id=some_id, later=some_later)
    def postpone_after_a_cancel(self, job_id: str, later: Later) -> None:
        """As in `process`, few sequences would have these calls by themselves."""
        if self.model.allows(job_id, "pending", "waiting"):
            self.claim(job_id)
        if self.model.allows(job_id, "processing"):
            self.request_cancel(job_id)
        self.postpone(job_id, later)

    @rule(job_id=some_id)
    def delete(self, job_id: str) -> None:
        with refused(unless=self.model.allows(job_id, "completed")):
            self.store.delete_nowait(job_id)
            self.model.completions.remove(job_id)
            self.model.forget(job_id)

    @precondition(lambda self: self.model.completions)
    @rule(number=st.integers(0, KEEP_COMPLETED + KEEP_FAILED - 1))
    def delete_a_completed_one(self, number: int) -> None:
        self.delete(self.model.completions[number % len(self.model.completions)])

    @rule(after=st.none() | some_id, limit=st.integers(0, 10))
    def page(self, after: str | None, limit: int) -> None:
        ids = sorted(self.model.status)
        expected = [each for each in ids if after is None or each > after]
        newest = [each for each in reversed(ids) if after is None or each < after]

        page = self.store.page_nowait(after=after, limit=limit)
        last = self.store.page_nowait(JobQuery(order=Order.NEWEST), after=after, limit=limit)

        assert [job.id for job in page] == expected[:limit]
        assert [job.id for job in last] == newest[:limit]

    @rule(number=st.integers(-1, KEEP_FAILED), limit=st.integers(0, 10))
    def page_by_end(self, number: int, limit: int) -> None:
        query = JobQuery(order=Order.ENDED)
        jobs = query.select(self.store.find_nowait(each) for each in self.model.completions)
        jobs.sort(key=lambda job: (job.completed_at, job.id), reverse=True)
        after = query.position(jobs[number]) if 0 <= number < len(jobs) else None

        page = self.store.page_nowait(query, after=after, limit=limit)

        assert page == (jobs if after is None else jobs[number + 1 :])[:limit]

    @invariant()
    def every_job_is_where_the_model_has_it(self) -> None:
        shown = {job.id: str(job.status) for job in self.store.page_nowait(limit=100)}
        assert shown == {
            job_id: "pending" if status in ("released", "waiting") else status
            for job_id, status in self.model.status.items()
        }
        assert {job_id: str(self.store.find_nowait(job_id).status) for job_id in shown} == shown
        assert len(self.store) == len(shown)

    @invariant()
    def times_and_ending_fit_the_status(self) -> None:
        for job in self.store.page_nowait(limit=100):
            times = [job.created_at, job.started_at, job.completed_at]
            known = [time for time in times if time is not None]
            assert known == sorted(known)
            assert (job.started_at is None) == (job.status is JobStatus.PENDING)
            assert (job.completed_at is None) == (job.status is not JobStatus.COMPLETED)
            assert (job.ending is None) == (job.status is not JobStatus.COMPLETED)
            waits = self.model.status[job.id] == "waiting"
            assert job.run_at == (self.model.run_at[job.id] if waits else None)
            assert job.cancel_requested == (job.id in self.model.cancel_requested)
            assert job.attempts == self.model.attempts[job.id] >= 0
            assert job.snoozes == self.model.snoozes[job.id]
            assert job.rerun_of == self.model.rerun_of.get(job.id)
            assert job.rerun_as == self.model.rerun_as.get(job.id)
            assert job.last_error is None or job.status is not JobStatus.COMPLETED

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.store.statistics() == StoreStatistics(
            pending=self.model.count("pending", "released", "waiting"),
            processing=self.model.count("processing"),
            completed=len(self.model.completions),
            completed_bytes=self.model.bytes(self.model.completions),
            dropped={outcome: self.model.dropped[outcome] for outcome in Outcome},
        )

    @invariant()
    def the_unfinished_are_told_apart(self) -> None:
        begun, not_begun = self.store.unfinished().ids
        status = self.model.status
        assert begun == [
            each for each in sorted(status) if status[each] in ("processing", "released")
        ]
        assert not_begun == [
            each for each in sorted(status) if status[each] in ("pending", "waiting")
        ]
        waiting = [job.id for job in self.store.unfinished().waiting]
        assert waiting == [each for each in sorted(status) if status[each] == "waiting"]


@contextlib.contextmanager
def refused(*, unless: bool) -> Generator[None]:
    """The block must run through exactly if the model says so."""
    try:
        yield
    except StoreError:
        assert not unless
    else:
        assert unless


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=scaled(60), stateful_step_count=40)
