"""A running pool against a plain model of it, over any sequence of what can happen to it.

The pool runs in Trio's guest mode, so that each rule of the state machine can act on it and then
have it run until all of its tasks wait. What it must look like then does not depend on the
scheduler, and so the model can say it.
"""

import contextlib
import math
import queue
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from typing import Any

import outcome
import pytest
import trio
from hypothesis import event, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import engine
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.proof.share import examples_of_round, rounds, share_of
from tests.stores.test_store_model import StoreMachine, refused
from tests.support import (
    HandlerRegistry,
    MemoryStore,
    StoreError,
    current_job_id,
    make_parts,
    start_pool,
)
from trio_jobs import (
    Ending,
    Handler,
    Job,
    Outcome,
    QueueFullError,
    RetryPolicy,
    ShuttingDownError,
)
from trio_jobs.job import IdempotencyKey
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.counted_moves import CountedMoves
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import IntakePausedError
from trio_jobs.pool.reruns import Selection, rerun_all, rerun_nowait
from trio_jobs.pool.store import DuplicateJobError

MOST_WORKERS = 3
MOST_BUFFERED = 4
MOST_KEPT = 4
MOST_WAITING = 4
TIME_LIMIT = 10

# Seconds until a pool that does not come to rest fails the test.
PATIENCE = 60.0

# Seconds for making the sequence that fails a short one; Hypothesis would take five minutes.
SHRINKING = 30

# How many calls there are in a sequence, at the most.
CALLS = 40
some_calls = st.integers(5, 20)

# Of the jobs of the type "again", which come back after a ValueError.
ATTEMPTS = 3
PAUSE = 4
POLICY = RetryPolicy(attempts=ATTEMPTS, backoff="constant", base=PAUSE, jitter=False)

some_type = st.sampled_from(["work", "limited", "again"])
some_key = st.none() | st.sampled_from(["a", "b", "c"])
# Which of several; and the status of the jobs of which it is one ("taken" is a second kind of
# processing, "gone" is none).
some_number = st.integers(0, 20)
some_status = st.sampled_from(["pending", "processing", "taken", "completed", "released", "gone"])
some_outcome = st.sampled_from(Outcome)

# The types whose number of running jobs may be limited.
LIMITED = ("work", "again")
NO_SUCCESS = tuple(outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED)

# The ways of a job that the sequences must contain; they are made in rounds, at least two.
MOST_ROUNDS = 20
WAYS = {
    "processing, succeeded",
    "processing, failed",
    "processing, timed_out",
    "processing, cancelled",
    "pending, cancelled",
    "waiting, cancelled",
    "postponed",
    "fed",
    "began again",
    "held",
    "held, cancelled",
    "let go",
    "paused",
    "paused, cancelled",
    "resumed",
    "re-run",
    "re-run with others",
    "a re-run, succeeded",
    "a re-run, failed",
    "passed over",
    "released",
    "dropped",
    "another dropped",
}


@dataclass(slots=True, kw_only=True)
class Expected:
    """A job of the model's."""

    type: str
    status: str = "pending"  # also "released", and "taken": claimed by a rule
    began_at: float = 0.0
    attempts: int = 0
    waits: bool = False  # since it is delayed or was postponed, until it is claimed
    cancel_requested: bool = False
    outcome: Outcome | None = None
    key: str | None = None
    rerun_of: str | None = None
    rerun_as: str | None = None


@dataclass(slots=True)
class Model:
    """A pool as one would first write it: a list for the channel, a count of workers."""

    workers: int
    buffer_size: int
    keep_completed: int
    keep_failed: int
    max_waiting: int
    max_running: int | None
    permits: dict[str, str] = field(default_factory=dict)  # types of the jobs that have a permit
    held: dict[str, str] = field(default_factory=dict)  # by id the type, oldest first
    types: set[str] = field(default_factory=set)  # that are paused
    paused: dict[str, str] = field(default_factory=dict)  # the jobs held by that, by id the type
    takes: bool = True  # whether the intake is open
    leaving: set[str] = field(default_factory=set)  # those of the due that are next to get a slot
    schedule: dict[str, float] = field(default_factory=dict)
    jobs: dict[str, Expected] = field(default_factory=dict)
    channel: list[str] = field(default_factory=list)
    began: list[str] = field(default_factory=list)
    completed: set[str] = field(default_factory=set)  # since the last look
    kept: list[str] = field(default_factory=list)  # that succeeded
    kept_others: list[str] = field(default_factory=list)
    now: float = 0.0
    closed: bool = False
    ways: Counter[str] = field(default_factory=Counter)  # that jobs have gone
    submitted: Counter[str] = field(default_factory=Counter)  # by type, as are the failed attempts
    attempts_failed: Counter[str] = field(default_factory=Counter)
    ended: Counter[tuple[str, Outcome]] = field(default_factory=Counter)

    def those(self, *statuses: str) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.status in statuses]

    def running(self) -> list[str]:
        return self.those("processing")

    def room(self) -> int:
        return self.buffer_size - len(self.channel) + self.workers - len(self.running())

    def allows(self, job_id: str, *statuses: str) -> bool:
        return job_id in self.jobs and self.jobs[job_id].status in statuses

    def may_be_rerun(self, job_id: str) -> bool:
        job = self.jobs.get(job_id)
        return job is not None and job.outcome in NO_SUCCESS and job.rerun_as is None

    def selected(self, selection: Selection) -> list[str]:
        """Those of which the selection makes re-runs, oldest first."""
        those = [
            job_id
            for job_id, job in sorted(self.jobs.items())
            if self.may_be_rerun(job_id)
            and job.outcome in selection.query.outcomes
            and (not selection.query.types or job.type in selection.query.types)
        ]
        return those[: selection.limit]

    def has_permit_for(self, job_type: str) -> bool:
        """Whether one more job of the type may run."""
        if self.max_running is None or job_type not in LIMITED:
            return True
        return list(self.permits.values()).count(job_type) < self.max_running

    def is_full(self, job_type: str) -> bool:
        would_wait = job_type in self.types or not self.has_permit_for(job_type)
        return would_wait and len(self.schedule) >= self.max_waiting

    def hold(self, job_id: str) -> None:
        self.held[job_id] = self.jobs[job_id].type
        self.schedule[job_id] = math.inf
        self.ways["held"] += 1

    def give_up_permit(self, job_id: str) -> None:
        """The first that is held gets the permit, and what was the slot of the other job."""
        job_type = self.permits.pop(job_id, "")
        for held in [each for each, type_ in self.held.items() if type_ == job_type]:
            still_held = self.is_held(held)
            del self.held[held]
            if still_held:
                del self.schedule[held]
                self.permits[held] = job_type
                self.channel.append(held)
                self.ways["let go"] += 1
                return

    def is_held(self, job_id: str) -> bool:
        """Whether it gets a permit; a cancelled one is due, and needs none once it is leaving."""
        return job_id in self.held and job_id in self.schedule and job_id not in self.leaving

    def admit(self, job_id: str, job_type: str, key: str | None = None) -> None:
        self.submitted[job_type] += 1
        self.jobs[job_id] = Expected(type=job_type, key=key)
        self.channel.append(job_id)

    def admit_later(self, job_id: str, job_type: str, delay: float) -> None:
        self.submitted[job_type] += 1
        self.jobs[job_id] = Expected(type=job_type, waits=True)
        self.schedule[job_id] = self.now + delay

    def note_rerun(self, job_id: str, old_id: str) -> None:
        self.jobs[job_id].rerun_of, self.jobs[old_id].rerun_as = old_id, job_id

    def postpone(self, job_id: str) -> None:
        job = self.jobs[job_id]
        job.status, job.waits = "pending", True
        self.attempts_failed[job.type] += 1
        self.schedule[job_id] = self.now + PAUSE
        self.ways["postponed"] += 1
        self.give_up_permit(job_id)

    def due(self) -> list[str]:
        """Those that wait for a slot."""
        return [job_id for job_id, due in self.schedule.items() if due <= self.now]

    def claim(self, job_id: str, status: str) -> None:
        job = self.jobs[job_id]
        job.status, job.waits, job.attempts = status, False, job.attempts + 1

    def complete(self, job_id: str, how: Outcome) -> None:
        job = self.jobs[job_id]
        self.ways[f"{job.status}, {how}"] += 1
        if job.rerun_of is not None:
            self.ways[f"a re-run, {how}"] += 1
        job.status, job.outcome = "completed", how
        self.ended[job.type, how] += 1
        self.attempts_failed[job.type] += how in {Outcome.FAILED, Outcome.TIMED_OUT}
        self.completed.add(job_id)
        self.give_up_permit(job_id)

    def settle(self, moves: list[tuple[str, str]]) -> None:
        """Time limits pass, and workers take what there is, until nothing moves any more.

        When due jobs get a slot, and when workers come to their jobs, depends on the order in which
        slots came free: these moves were noted. Each must be allowed, and none may be missing.
        """
        for job_id in self.running():
            job = self.jobs[job_id]
            if job.type == "limited" and self.now >= job.began_at + TIME_LIMIT:
                self.complete(job_id, Outcome.TIMED_OUT)
        for move, job_id in moves:
            if move == "due":
                assert self.schedule[job_id] <= self.now
                self.leaving.add(job_id)
            elif move == "fed":
                self.leaving.remove(job_id)
                due = self.schedule.pop(job_id)
                assert due <= min(self.now, *self.schedule.values(), math.inf)
                self.channel.append(job_id)
                self.ways["fed"] += 1
            else:
                # Each idle worker has received one; the scheduler says which one claims first.
                assert job_id in self.channel[: self.workers - len(self.running())]
                self.channel.remove(job_id)
                self.take(job_id)
        assert not self.channel or len(self.running()) == self.workers
        for job_id, job_type in self.held.items():
            assert not self.is_held(job_id) or not self.has_permit_for(job_type)
        assert self.closed or not self.due() or self.room() <= 1

    def take(self, job_id: str) -> None:
        """A worker comes to a job."""
        if not self.allows(job_id, "pending"):
            self.ways["passed over"] += 1
            return
        job = self.jobs[job_id]
        if not job.cancel_requested:
            if job_id not in self.permits and not self.has_permit_for(job.type):
                self.hold(job_id)
                return
            if job.type in self.types:
                self.ways["paused with a permit" if job_id in self.permits else "paused"] += 1
                self.paused[job_id] = job.type
                self.schedule[job_id] = math.inf
                self.give_up_permit(job_id)
                return
            if self.max_running is not None and job.type in LIMITED:
                self.permits[job_id] = job.type
        self.paused.pop(job_id, None)
        waited = job.waits
        self.claim(job_id, "processing")
        if job.cancel_requested:
            job.status = "waiting" if waited else "pending"  # for the count of ways
            self.complete(job_id, Outcome.CANCELLED)
        else:
            job.began_at = self.now
            self.began.append(job_id)
            if job.attempts > 1:
                self.ways["began again"] += 1

    def resume(self, types: Collection[str]) -> None:
        self.types.difference_update(types)
        for job_id, type_ in list(self.paused.items()):
            if type_ in types:
                del self.paused[job_id]
                if self.schedule.get(job_id) == math.inf:  # else its cancel was requested
                    self.schedule[job_id] = self.now
                    self.ways["resumed"] += 1

    def drop(self, completions: list[str]) -> None:
        """Those that completed at the same time did so in this order; the oldest go."""
        assert sorted(completions) == sorted(self.completed)
        self.completed.clear()
        for job_id in completions:
            succeeded = self.jobs[job_id].outcome is Outcome.SUCCEEDED
            kept = self.kept if succeeded else self.kept_others
            kept.append(job_id)
            if len(kept) > (self.keep_completed if succeeded else self.keep_failed):
                del self.jobs[kept.pop(0)]
                self.ways["dropped" if succeeded else "another dropped"] += 1

    def cut_off(self) -> None:
        """Nobody processes anything any more."""
        self.closed = True
        for job_id in self.running():
            self.release(job_id)
            self.ways["released"] += 1

    def release(self, job_id: str) -> None:
        job = self.jobs[job_id]
        job.status, job.attempts = "released", job.attempts - 1


class NotingStore(MemoryStore):
    """A store that notes the order of the completions."""

    def __init__(self, completions: list[str], *args: Any, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **settings)
        self._noted = completions

    def complete(self, job_id: str, ending: Ending, **more: Any) -> Job:  # noqa: ANN401
        job = super().complete(job_id, ending, **more)
        self._noted.append(job_id)
        return job


class NotingDeque(deque[str]):
    """Notes what is added as due, and what is taken as fed, until the capacity is closed."""

    def __init__(self, moves: list[tuple[str, str]], capacity: Capacity) -> None:
        super().__init__()
        self._moves = moves
        self._capacity = capacity

    def append(self, job_id: str) -> None:
        super().append(job_id)
        self._moves.append(("due", job_id))

    def popleft(self) -> str:
        job_id = super().popleft()
        if not self._capacity.closed:
            self._moves.append(("fed", job_id))
        return job_id


def at_once(awaited: Awaitable[list[Job]]) -> list[Job]:
    """What this gives; it makes no checkpoint."""
    try:
        next(awaited.__await__())
    except StopIteration as end:
        jobs: list[Job] = end.value
        return jobs
    raise AssertionError("it makes a checkpoint")


class PoolMachine(RuleBasedStateMachine):
    """Each rule does one thing to the pool and to the model; then both settle, and are compared."""

    def __init__(self, ways: Counter[str] | None = None) -> None:
        """``ways`` counts the ways that jobs have gone."""
        super().__init__()
        self.ways = Counter() if ways is None else ways
        self.ids: list[str] = []  # all there ever were
        self.began: Counter[str | None] = Counter()
        self.endings: dict[str, trio.Event] = {}
        self.errors: dict[str, BaseException] = {}
        self.completions: list[str] = []
        self.moves: list[tuple[str, str]] = []
        self.over = False
        self._host: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._ended: outcome.Outcome[None] | None = None
        self._settled = False
        self._result: outcome.Outcome[object] | None = None
        self._clock = MockClock()

    @initialize(
        workers=st.integers(1, MOST_WORKERS),
        buffer_size=st.integers(1, MOST_BUFFERED),
        keep_completed=st.integers(0, MOST_KEPT),
        keep_failed=st.integers(0, MOST_KEPT),
        max_waiting=st.integers(0, MOST_WAITING),
        max_running=st.none() | st.integers(1, MOST_WORKERS - 1),
        open_for=st.integers(0, CALLS) | some_calls,
        pool_lasts_for=st.integers(0, CALLS) | some_calls,
    )
    def open(
        self,
        workers: int,
        buffer_size: int,
        keep_completed: int,
        keep_failed: int,
        max_waiting: int,
        max_running: int | None,
        open_for: int,
        pool_lasts_for: int,
    ) -> None:
        """The numbers of calls are those before which there is no drain, and no cut."""
        self.model = Model(
            workers=workers,
            buffer_size=buffer_size,
            keep_completed=keep_completed,
            keep_failed=keep_failed,
            max_waiting=max_waiting,
            max_running=max_running,
            ways=self.ways,
        )
        self.open_for, self.pool_lasts_for = open_for, pool_lasts_for
        self.calls = 0
        trio.lowlevel.start_guest_run(
            self._run,
            run_sync_soon_threadsafe=self._host.put,
            done_callback=self._note_end,
            host_uses_signal_set_wakeup_fd=True,
            clock=self._clock,
        )
        self._pump()

    # The pool, and how rules reach it.

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._commands, commands = trio.open_memory_channel[Callable[[], object]](1)
        handlers = HandlerRegistry(
            {
                "work": Handler.of(self._handle, max_running=self.model.max_running),
                "limited": Handler.of(self._handle, timeout=TIME_LIMIT),
                "again": Handler.of(self._handle, retry=POLICY, max_running=self.model.max_running),
            }
        )
        self.parts = parts = make_parts(
            handlers,
            workers=self.model.workers,
            buffer_size=self.model.buffer_size,
            keep_completed=self.model.keep_completed,
            keep_failed=self.model.keep_failed,
            max_waiting=self.model.max_waiting,
            store_class=partial(NotingStore, self.completions),
        )
        self.store, self.admission = parts.store, parts.admission
        assert parts.pool.observation is not None
        self.observation = parts.pool.observation
        # For the moves that no worker makes; the pool counts them as if one did.
        self.counted = CountedMoves(self.store, self.store, self.observation)
        parts.pool.schedule._due = NotingDeque(self.moves, parts.capacity)
        claim = parts.workers.claim

        def note_claim(job_id: str) -> Job | None:
            self.moves.append(("claim", job_id))
            return claim(job_id)

        parts.workers.claim = note_claim  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            self.scope = nursery.cancel_scope
            start_pool(parts, nursery)
            await self._settle()
            async for command in commands:
                self._result = await outcome.acapture(self._carry_out, command)
                await self._settle()

    async def _carry_out(self, command: Callable[[], object]) -> object:
        result = command()
        return await result if isawaitable(result) else result

    async def _handle(self, _: object) -> str:
        job_id = current_job_id.get()
        assert job_id is not None
        self.began[job_id] += 1
        ending = self.endings[job_id] = trio.Event()
        await ending.wait()
        if job_id in self.errors:
            raise self.errors.pop(job_id)
        return "done"

    async def _settle(self) -> None:
        await wait_all_tasks_blocked()
        self._settled = True

    def _note_end(self, ended: outcome.Outcome[None]) -> None:
        self._ended = ended

    def _pump(self) -> None:
        """Run the pool until it waits, or is over."""
        while not self._settled and self._ended is None:
            self._host.get(timeout=PATIENCE)()

    def _do(self, command: Callable[[], object]) -> object:
        """Run this in the event loop, to its end, and let the pool come to rest."""
        if self.over:  # there is none: nothing but the store is left
            self._result = outcome.capture(command)
            self._note_completions()
            return self._result.unwrap()
        self.calls += 1
        self._settled, self._result = False, None
        self._token.run_sync_soon(self._commands.send_nowait, command)
        self._pump()
        assert self._result is not None
        self.model.settle(self.moves)
        self.moves.clear()
        self._note_completions()
        return self._result.unwrap()

    def _note_completions(self) -> None:
        self.model.drop(self.completions)
        self.completions.clear()

    def teardown(self) -> None:
        """End the run, whatever it is doing."""
        if not hasattr(self, "scope"):
            return  # it has not begun
        if self._ended is None:
            self._token.run_sync_soon(self.scope.cancel)
            while self._ended is None:
                self._host.get(timeout=PATIENCE)()
        self._ended.unwrap()

    def _some(self, number: int, status: str) -> str:
        """One of the jobs in this status, if there are any; else one that is not there."""
        jobs = self.model.jobs
        gone = [job_id for job_id in self.ids if job_id not in jobs]
        those = gone if status == "gone" else self.model.those(status)
        return those[number % len(those)] if those else "unknown"

    # What can happen.

    @rule(job_type=some_type)
    def submit(self, job_type: str) -> None:
        def command() -> None:
            job = self.admission.submit(job_type, b"null")
            self.model.admit(job.id, job_type)
            self.ids.append(job.id)

        with self._refused_beyond_room([job_type]):
            self._do(command)

    @rule(
        items=st.lists(
            st.tuples(some_type, some_key),
            max_size=MOST_BUFFERED + MOST_WORKERS + 1,
            unique_by=lambda item: object() if item[1] is None else item[1],
        )
    )
    def submit_batch(self, items: list[tuple[str, str | None]]) -> None:
        self._submit_batch(items)

    @precondition(lambda self: self.model.max_running and not self.model.closed)
    @rule(job_type=st.sampled_from(LIMITED), number=st.integers(1, MOST_WORKERS))
    def submit_more_than_may_run(self, job_type: str, number: int) -> None:
        self._submit_batch([(job_type, None)] * number)

    def _submit_batch(self, items: list[tuple[str, str | None]]) -> None:
        batch = [
            JobSpec(
                job_type, b"null", key=None if key is None else IdempotencyKey(text=key, digest=b"")
            )
            for job_type, key in items
        ]

        def command() -> None:
            for job, (_, key) in zip(at_once(self.admission.admit_all(batch)), items, strict=True):
                self.model.admit(job.id, job.type, key)
                self.ids.append(job.id)

        keys = {job.key for job in self.model.jobs.values()}
        if any(key is not None and key in keys for _, key in items):
            event("refused: known key")
            with pytest.raises(DuplicateJobError):
                self._do(command)
            return
        with self._refused_beyond_room([job_type for job_type, _ in items]):
            self._do(command)

    @rule(number=some_number, status=st.just("completed") | some_status)
    def rerun(self, number: int, status: str) -> None:
        self._rerun(self._some(number, status))

    @precondition(lambda self: any(map(self.model.may_be_rerun, self.model.jobs)))
    @rule(number=some_number)
    def rerun_one_that_may_be(self, number: int) -> None:
        those = list(filter(self.model.may_be_rerun, self.model.jobs))
        self._rerun(those[number % len(those)])

    def _rerun(self, old_id: str) -> None:
        def command() -> None:
            job = rerun_nowait(self.parts.pool, self.store.find_nowait(old_id))
            self.model.admit(job.id, job.type)
            self.model.note_rerun(job.id, old_id)
            self.model.ways["re-run"] += 1
            self.ids.append(job.id)

        if not self.model.may_be_rerun(old_id):
            with pytest.raises(StoreError):
                self._do(command)
            return
        with self._refused_beyond_room([self.model.jobs[old_id].type]):
            self._do(command)

    @precondition(lambda self: not self.over)
    @rule(
        outcomes=st.none() | st.lists(st.sampled_from(NO_SUCCESS), min_size=1),
        types=st.none() | st.lists(some_type, min_size=1),
        limit=st.none() | st.integers(1, 3),
    )
    def rerun_all(
        self, outcomes: list[Outcome] | None, types: list[str] | None, limit: int | None
    ) -> None:
        self._rerun_all(Selection.of(outcomes, types, limit))

    @precondition(lambda self: not self.over and any(map(self.model.may_be_rerun, self.model.jobs)))
    @rule(limit=st.integers(1, 2))
    def rerun_the_first(self, limit: int) -> None:
        self._rerun_all(Selection.of(NO_SUCCESS, None, limit))

    @precondition(lambda self: not self.over and len(self.model.running()) > 1)
    @rule()
    def rerun_the_first_after_a_success(self) -> None:
        """One that is older than those to re-run has succeeded: it counts towards no limit."""
        older, newer = sorted(self.model.running())[:2]
        self._end(older, None)
        self._end(newer, SystemExit)
        self._rerun_all(Selection.of(NO_SUCCESS, None, 1))

    def _rerun_all(self, selection: Selection) -> None:
        old_ids = self.model.selected(selection)

        async def command() -> None:
            jobs = await rerun_all(self.parts.pool, selection)
            for job, old_id in zip(jobs, old_ids, strict=True):
                self.model.admit_later(job.id, self.model.jobs[old_id].type, 0)
                self.model.note_rerun(job.id, old_id)
                self.model.ways["re-run with others"] += 1
                self.ids.append(job.id)

        with self._refused_beyond_waiting(len(old_ids)):
            self._do(command)

    @rule(job_type=some_type, delay=st.integers(0, TIME_LIMIT))
    def submit_delayed(self, job_type: str, delay: int) -> None:
        def command() -> None:
            job = self.admission.submit(job_type, b"null", float(delay))
            self.model.admit_later(job.id, job_type, delay)
            self.ids.append(job.id)

        with self._refused_beyond_waiting(1):
            self._do(command)

    @contextlib.contextmanager
    def _refused_beyond_waiting(self, wanted: int) -> Generator[None]:
        """The block must run through exactly if so many more may wait, and it is open."""
        room = max(self.model.max_waiting - len(self.model.schedule), 0)
        full, closed = wanted > room, self.model.closed
        try:
            yield
        except QueueFullError:
            event("refused: too many wait")
            assert full
            assert not closed
        except ShuttingDownError:
            assert closed
        except IntakePausedError:
            event("refused: paused")
            assert wanted
            assert not closed
            assert not self.model.takes
        else:
            assert not full
            assert not closed
            assert self.model.takes or not wanted

    @contextlib.contextmanager
    def _refused_beyond_room(self, types: Sequence[str]) -> Generator[None]:
        """The block must run through exactly if there is room for these, and it is open."""
        room, closed, wanted = self.model.room(), self.model.closed, len(types)
        full = any(map(self.model.is_full, types))
        # The last slot may be for the due jobs.
        reserved = 1 if self.model.due() else 0
        try:
            yield
        except QueueFullError:
            event("refused: full")
            assert wanted > room - reserved or full
            assert not closed
        except ShuttingDownError:
            event("refused: closed")
            assert closed
        except IntakePausedError:
            event("refused: paused")
            assert wanted
            assert not closed
            assert not self.model.takes
        else:
            assert wanted <= room
            assert not full
            assert not closed
            assert self.model.takes or not wanted

    @precondition(lambda self: not self.over and self.model.running())
    @rule(number=some_number, error=st.sampled_from([None, ValueError, SystemExit]))
    def end_a_handler(self, number: int, error: type[BaseException] | None) -> None:
        self._end(self._some(number, "processing"), error)

    @precondition(
        lambda self: (
            not self.over
            and any(self.model.jobs[each].type == "again" for each in self.model.running())
        )
    )
    @rule(number=some_number, once_more=st.booleans(), error=st.sampled_from([None, SystemExit]))
    def fail_for_good(
        self, number: int, once_more: bool, error: type[BaseException] | None
    ) -> None:
        """A job fails as often as it may; then somebody may re-run it, and that one ends so."""
        those = [each for each in self.model.running() if self.model.jobs[each].type == "again"]
        job_id = those[number % len(those)]
        while self.model.allows(job_id, "processing"):
            self._end(job_id, ValueError)
            if self.model.allows(job_id, "pending"):
                self._let_time_pass(PAUSE)
        if once_more and self.model.may_be_rerun(job_id):
            self._rerun(job_id)
            for new_id in self.model.running():
                if self.model.jobs[new_id].rerun_of == job_id:
                    self._end(new_id, error)

    def _end(self, job_id: str, error: type[BaseException] | None) -> None:
        if error is not None:
            self.errors[job_id] = error()  # a new one: it keeps where it was raised
        job = self.model.jobs[job_id]
        if error is ValueError and job.type == "again" and job.attempts < ATTEMPTS:
            self.model.postpone(job_id)
        else:
            self.model.complete(job_id, Outcome.SUCCEEDED if error is None else Outcome.FAILED)
        self._do(self.endings[job_id].set)

    # The moves that workers make, made by somebody else: a copy of an id finds them refused, and
    # one that is claimed in the channel is passed over.

    @rule(number=some_number, status=st.just("pending") | some_status)
    def claim(self, number: int, status: str) -> None:
        job_id = self._some(number, status)
        if self.model.max_running is not None and self.model.allows(job_id, "pending"):
            return  # `TypeLimits` must know of it: else the type would lose a permit
        if job_id in self.model.paused:
            return  # nor does `PausedTypes` know of it
        if job_id in self.model.schedule:
            return  # no worker has the id of a job that waits
        allowed = self.model.allows(job_id, "pending")
        if allowed:
            self.model.claim(job_id, "taken")
        with refused(unless=allowed):
            self._do(lambda: self.counted.claim(job_id))

    @rule(number=some_number, status=some_status.filter("processing".__ne__), how=some_outcome)
    def complete(self, number: int, status: str, how: Outcome) -> None:
        job_id = self._some(number, status)
        allowed = self.model.allows(job_id, "taken")
        if allowed:
            self.model.complete(job_id, how)
        with refused(unless=allowed):
            show = self.parts.workers._show
            self._do(lambda: self.counted.complete(job_id, Ending(outcome=how), show=show))

    @rule(number=some_number, status=some_status.filter("processing".__ne__))
    def release(self, number: int, status: str) -> None:
        job_id = self._some(number, status)
        allowed = self.model.allows(job_id, "taken")
        if allowed:
            self.model.release(job_id)
        with refused(unless=allowed):
            self._do(lambda: self.counted.release(job_id))

    @precondition(lambda self: self.model.those("pending"))
    @rule(number=some_number)
    def cancel_one_that_waits(self, number: int) -> None:
        self._cancel(self._some(number, "pending"))

    @precondition(lambda self: self.model.held)
    @rule(number=some_number)
    def cancel_one_that_is_held(self, number: int) -> None:
        self._cancel(list(self.model.held)[number % len(self.model.held)])

    @rule(number=some_number, status=some_status)
    def cancel(self, number: int, status: str) -> None:
        self._cancel(self._some(number, status))

    def _cancel(self, job_id: str) -> None:
        def command() -> None:
            self.store.request_cancel_nowait(job_id)
            self.parts.pool.note_cancel(job_id)

        allowed = self.model.allows(job_id, "pending", "processing", "taken", "released")
        if allowed:
            job = self.model.jobs[job_id]
            job.cancel_requested = True
            if job_id in self.model.schedule and job_id not in self.model.leaving:
                self.model.schedule[job_id] = self.model.now  # also if it was due already
            if job_id in self.model.paused:
                self.model.ways["paused, cancelled"] += 1
            if job_id in self.model.held:
                self.model.ways["held, cancelled"] += 1
            if job.status == "processing":
                self.model.complete(job_id, Outcome.CANCELLED)
        with refused(unless=allowed):
            self._do(command)

    @rule(number=some_number, status=some_status)
    def delete(self, number: int, status: str) -> None:
        job_id = self._some(number, status)
        allowed = self.model.allows(job_id, "completed")
        if allowed:
            succeeded = self.model.jobs.pop(job_id).outcome is Outcome.SUCCEEDED
            (self.model.kept if succeeded else self.model.kept_others).remove(job_id)
        with refused(unless=allowed):
            self._do(lambda: self.store.delete_nowait(job_id))

    @precondition(lambda self: not self.over)
    @rule(seconds=st.integers(1, TIME_LIMIT))
    def let_time_pass(self, seconds: int) -> None:
        self._let_time_pass(seconds)

    def _let_time_pass(self, seconds: int) -> None:
        self.model.now += seconds
        self._do(lambda: self._clock.jump(seconds))

    # What operators do.

    @precondition(lambda self: not self.over and not self.model.closed)
    @rule(types=st.sets(some_type, min_size=1))
    def pause(self, types: set[str]) -> None:
        self.model.types |= types
        self._do(lambda: self.parts.pool.paused.pause(types))

    @precondition(lambda self: not self.over and not self.model.closed and self.model.types)
    @rule(types=st.sets(some_type, min_size=1) | st.just({"work", "limited", "again"}))
    def resume(self, types: set[str]) -> None:
        self.model.resume(types)
        self._do(lambda: self.parts.pool.paused.resume(types))

    @precondition(lambda self: not self.over and not self.model.closed)
    @rule(takes=st.booleans() | st.just(value=True))
    def pause_or_resume_the_intake(self, *, takes: bool) -> None:
        self.model.takes = takes
        intake = self.admission.intake
        self._do(intake.resume if takes else intake.pause)

    @precondition(lambda self: not self.over and not self.model.closed)
    @rule(number=st.integers(1, MOST_WORKERS))
    def change_the_workers(self, number: int) -> None:
        """Not to fewer than run: which of these ends first is for the scheduler."""
        self.model.workers = max(number, len(self.model.running()))
        self._do(lambda: self.parts.pool.worker_tasks.set_number(self.model.workers))

    @precondition(lambda self: self.model.paused)
    @rule(number=some_number)
    def cancel_one_that_is_paused(self, number: int) -> None:
        self._cancel(list(self.model.paused)[number % len(self.model.paused)])

    @rule(number=some_number, status=some_status, limit=st.integers(0, 10))
    def look_at_a_page(self, number: int, status: str, limit: int) -> None:
        after = self._some(number, status)
        expected = [job_id for job_id in sorted(self.model.jobs) if job_id > after]
        assert [job.id for job in self.store.page_nowait(after=after, limit=limit)] == expected[
            :limit
        ]

    @precondition(lambda self: not self.model.closed and self.calls >= self.open_for)
    @rule()
    def begin_the_drain(self) -> None:
        event(self._described("drain"))
        self.model.closed = True
        self.model.leaving.clear()  # nobody feeds them any more
        self._do(self.admission.close)

    @precondition(lambda self: not self.over and self.calls >= self.pool_lasts_for)
    @rule()
    def cut_off(self) -> None:
        event(self._described("cut off"))
        self.model.cut_off()
        self.over = True
        self._settled = False
        self._token.run_sync_soon(self.scope.cancel)
        while self._ended is None:
            self._host.get(timeout=PATIENCE)()
        self.admission.close()  # as `main` does

    def _described(self, what: str) -> str:
        model = self.model
        draining = ", draining" if model.closed else ""
        return f"{what}: {len(model.running())} running, {len(model.channel)} queued{draining}"

    # What must be so, whenever the pool has come to rest.

    @invariant()
    def each_job_is_where_the_model_has_it(self) -> None:
        shown = {job.id: job for job in self.store.page_nowait(limit=1000)}
        as_shown = {"released": "pending", "taken": "processing"}
        assert {job_id: str(job.status) for job_id, job in shown.items()} == {
            job_id: as_shown.get(job.status, job.status) for job_id, job in self.model.jobs.items()
        }
        for job_id, job in shown.items():
            ending = None if job.ending is None else job.ending.outcome
            expected = self.model.jobs[job_id]
            assert ending == expected.outcome
            assert job.attempts == expected.attempts
            assert (job.rerun_of, job.rerun_as) == (expected.rerun_of, expected.rerun_as)
            assert (job.run_at is not None) == expected.waits

    @invariant()
    def channel_and_store_agree(self) -> None:
        if not self.over:  # the last worker to go empties it
            assert list(self.parts.send._state.data) == self.model.channel
            # In a drain, idle workers end.
            assert self.parts.capacity.free == self.model.room() or self.model.closed
        assert self.parts.pool.schedule.count == len(self.model.schedule)
        processing = len(self.model.those("processing", "taken"))
        assert self.store.statistics().processing == processing

    @invariant()
    def what_the_workers_have_runs_and_nothing_else(self) -> None:
        assert self.began == Counter(self.model.began)
        assert set(self.parts.pool.executor.running) == set(self.model.running())

    @invariant()
    def the_unfinished_are_told_apart(self) -> None:
        begun, not_begun = self.store.unfinished().ids
        assert begun == self.model.those("processing", "taken", "released")
        assert not_begun == self.model.those("pending")
        waiting = [job.id for job in self.store.unfinished().waiting]
        assert waiting == [each for each in not_begun if self.model.jobs[each].waits]
        held = [job.id for job in self.parts.pool.unfinished().held]
        assert held == sorted(self.model.paused)

    @invariant()
    def counts_are_those_of_a_recount(self) -> None:
        types = self.observation.statistics().types
        jobs = self.model.jobs.values()
        for type_ in ("work", "limited", "again"):
            pending = [j for j in jobs if j.type == type_ and j.status in {"pending", "released"}]
            processing = [
                j for j in jobs if j.type == type_ and j.status in {"processing", "taken"}
            ]
            counts = types[type_]
            assert counts.submitted == self.model.submitted[type_]
            assert counts.pending == len(pending)
            assert counts.retrying == sum(job.waits and job.attempts > 0 for job in pending)
            assert counts.processing == len(processing)
            assert counts.attempts_failed == self.model.attempts_failed[type_]
            ended = {how: n for (each, how), n in self.model.ended.items() if each == type_}
            assert counts.outcomes == ended

    @invariant()
    def those_that_wait_for_a_worker_alone_are_known(self) -> None:
        if not self.over and not self.model.closed:
            waits_for_a_time = {
                job_id
                for job_id, due in self.model.schedule.items()
                if job_id not in self.model.leaving and job_id not in self.model.held
            }
            assert set(self.observation._can_begin) == {
                job_id for job_id in self.model.those("pending") if job_id not in waits_for_a_time
            }


def test_pool_agrees_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_SHRINKING_SECONDS", SHRINKING)
    ways: Counter[str] = Counter()

    class Counted(PoolMachine):
        def __init__(self) -> None:
            super().__init__(ways)

    # Which sequences Hypothesis makes depends on what else is imported: a round may miss a way.
    a_round = settings(max_examples=examples_of_round(75), stateful_step_count=CALLS)
    for tried, number in enumerate(rounds(MOST_ROUNDS), 1):
        seed(number)(Counted)
        run_state_machine_as_test(Counted, settings=a_round)
        if tried > 1 and not WAYS - ways.keys():
            return
    # Else the two agree in what does not happen.
    assert ways.keys() >= WAYS, dict(ways)


@pytest.mark.soak
@pytest.mark.parametrize("machine", [PoolMachine, StoreMachine])
def test_other_sequences_than_the_suites_agree_with_the_model(
    machine: type[RuleBasedStateMachine],
) -> None:
    others = settings(
        max_examples=math.ceil(share_of(2000)),
        stateful_step_count=2 * CALLS,
        derandomize=False,
        print_blob=True,
    )
    run_state_machine_as_test(machine, settings=others)
