"""A running pool against a plain model of it, over any sequence of what can happen to it.

The pool runs in Trio's guest mode, so that each rule of the state machine can act on it and then
have it run until all of its tasks wait. What it must look like then does not depend on the
scheduler, and so the model can say it.
"""

import contextlib
import queue
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import outcome
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support import noon
from trio_jobs.admission import QueueFullError, ShuttingDownError, Submission, Submissions
from trio_jobs.handlers import Handler, Handlers, Processor
from trio_jobs.ids import Uuid7
from trio_jobs.job import Job, JobStatus, Outcome, current_job_id
from trio_jobs.places import Places
from trio_jobs.store import JobStore, StoreError
from trio_jobs.worker import run_worker

WORKERS = 2
BUFFER = 3
KEPT = 4
TIME_LIMIT = 10

# Seconds until a pool that does not come to rest fails the test.
PATIENCE = 30.0

some_type = st.sampled_from(["work", "limited"])
# Which of the jobs there are, or were: some have been dropped.
some_job = st.integers(0, 20)


@dataclass(slots=True, kw_only=True)
class Expected:
    """A job of the model's."""

    type: str
    status: str = "pending"  # with "released" as a status
    began_at: float = 0.0
    cancel_requested: bool = False
    outcome: Outcome | None = None


@dataclass(slots=True)
class Model:
    """A pool as one would first write it: a list for the channel, a count of workers."""

    jobs: dict[str, Expected] = field(default_factory=dict)
    channel: list[str] = field(default_factory=list)
    completed: set[str] = field(default_factory=set)  # since the last look
    kept: list[str] = field(default_factory=list)
    now: float = 0.0
    closed: bool = False

    def running(self) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.status == "processing"]

    def room(self) -> int:
        return BUFFER - len(self.channel) + WORKERS - len(self.running())

    def admit(self, job_id: str, job_type: str) -> None:
        self.jobs[job_id] = Expected(type=job_type)
        self.channel.append(job_id)

    def complete(self, job_id: str, how: Outcome) -> None:
        job = self.jobs[job_id]
        job.status, job.outcome = "completed", how
        self.completed.add(job_id)

    def settle(self) -> None:
        """Time limits pass, and workers take what there is, until nothing moves any more."""
        for job_id in self.running():
            job = self.jobs[job_id]
            if job.type == "limited" and self.now >= job.began_at + TIME_LIMIT:
                self.complete(job_id, Outcome.TIMED_OUT)
        while self.channel and len(self.running()) < WORKERS:
            job_id = self.channel.pop(0)
            job = self.jobs[job_id]
            if job.cancel_requested:
                self.complete(job_id, Outcome.CANCELLED)
            else:
                job.status, job.began_at = "processing", self.now

    def drop(self, completions: list[str]) -> None:
        """Those that completed at the same time did so in this order; the oldest go."""
        assert sorted(completions) == sorted(self.completed)
        self.completed.clear()
        self.kept += completions
        while len(self.kept) > KEPT:
            del self.jobs[self.kept.pop(0)]


class PoolMachine(RuleBasedStateMachine):
    """Each rule does one thing to the pool and to the model; then both settle, and are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.ids: list[str] = []  # all there ever were
        self.began: Counter[str | None] = Counter()
        self.endings: dict[str, trio.Event] = {}
        self.errors: dict[str, BaseException] = {}
        self.completions: list[str] = []
        self.over = False
        self._host: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._ended: outcome.Outcome[None] | None = None
        self._settled = False
        self._result: outcome.Outcome[object] | None = None
        self._clock = MockClock()
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
        self.send, receive = trio.open_memory_channel[str](BUFFER)
        places = Places()

        def completed(job: Job) -> None:
            self.completions.append(job.id)
            places.note_completion()

        self.store = JobStore(
            now=noon,
            keep_completed=KEPT,
            keep_completed_bytes=1_000_000,
            claimed=places.note_claim,
            completed=completed,
        )
        self.submissions = Submissions(
            self.send, self.store, places=places, new_id=Uuid7(), now=noon
        )
        handlers = Handlers(
            {
                "work": Handler.of(self._handle),
                "limited": Handler.of(self._handle, timeout=TIME_LIMIT),
            }
        )
        self.processor = Processor(handlers, workers=WORKERS, max_result_bytes=1000)
        async with trio.open_nursery() as pool:
            self.scope = pool.cancel_scope
            for n in range(WORKERS):
                pool.start_soon(
                    run_worker, receive.clone(), self.store, self.processor, name=f"worker-{n}"
                )
            receive.close()
            await self._settle()
            async for command in commands:
                self._result = outcome.capture(command)
                await self._settle()

    async def _handle(self, _: object) -> str:
        job_id = current_job_id.get()
        assert job_id is not None
        self.began[job_id] += 1
        ending = self.endings[job_id] = trio.Event()
        await ending.wait()
        if job_id in self.errors:
            raise self.errors[job_id]
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
        """Run this in the event loop, and let the pool come to rest."""
        self._settled, self._result = False, None
        self._token.run_sync_soon(self._commands.send_nowait, command)
        self._pump()
        assert self._result is not None
        self.model.settle()
        self.model.drop(self.completions)
        self.completions.clear()
        return self._result.unwrap()

    def teardown(self) -> None:
        """End the run, whatever it is doing."""
        if self._ended is None:
            self._token.run_sync_soon(self.scope.cancel)
            while self._ended is None:
                self._host.get(timeout=PATIENCE)()
        self._ended.unwrap()

    def _some(self, number: int) -> str:
        return self.ids[number % len(self.ids)] if self.ids else "unknown"

    # What can happen.

    @precondition(lambda self: not self.over)
    @rule(job_type=some_type)
    def submit(self, job_type: str) -> None:
        def command() -> None:
            job = self.submissions.submit(job_type, b"null")
            self.model.admit(job.id, job_type)
            self.ids.append(job.id)

        room, closed = self.model.room(), self.model.closed
        try:
            self._do(command)
        except QueueFullError:
            assert room == 0
            assert not closed
        except ShuttingDownError:
            assert closed
        else:
            assert room > 0
            assert not closed

    @precondition(lambda self: not self.over)
    @rule(types=st.lists(some_type, max_size=BUFFER + WORKERS + 1))
    def submit_batch(self, types: list[str]) -> None:
        def command() -> None:
            batch = [Submission(job_type, b"null") for job_type in types]
            for job in self.submissions.submit_all(batch):
                self.model.admit(job.id, job.type)
                self.ids.append(job.id)

        room, closed = self.model.room(), self.model.closed
        try:
            self._do(command)
        except QueueFullError:
            assert len(types) > room
            assert not closed
        except ShuttingDownError:
            assert closed
        else:
            assert len(types) <= room
            assert not closed

    @precondition(lambda self: not self.over and self.model.running())
    @rule(number=some_job, error=st.sampled_from([None, ValueError(), SystemExit(0)]))
    def end_a_handler(self, number: int, error: BaseException | None) -> None:
        running = self.model.running()
        job_id = running[number % len(running)]
        if error is not None:
            self.errors[job_id] = error
        self.model.complete(job_id, Outcome.SUCCEEDED if error is None else Outcome.FAILED)
        self._do(self.endings[job_id].set)

    @precondition(lambda self: not self.over)
    @rule(number=some_job)
    def cancel(self, number: int) -> None:
        job_id = self._some(number)

        def command() -> None:
            self.store.request_cancel(job_id)
            self.processor.cancel(job_id)

        job = self.model.jobs.get(job_id)
        allowed = job is not None and job.status in ("pending", "processing")
        if job is not None and allowed:
            job.cancel_requested = True
            if job.status == "processing":
                self.model.complete(job_id, Outcome.CANCELLED)
        with refused(unless=allowed):
            self._do(command)

    @precondition(lambda self: not self.over)
    @rule(number=some_job)
    def delete(self, number: int) -> None:
        job_id = self._some(number)
        job = self.model.jobs.get(job_id)
        allowed = job is not None and job.status == "completed"
        if allowed:
            del self.model.jobs[job_id]
            self.model.kept.remove(job_id)
        with refused(unless=allowed):
            self._do(lambda: self.store.delete(job_id))

    @precondition(lambda self: not self.over)
    @rule(seconds=st.integers(1, TIME_LIMIT))
    def let_time_pass(self, seconds: int) -> None:
        self.model.now += seconds
        self._do(lambda: self._clock.jump(seconds))

    @rule(number=some_job, limit=st.integers(0, 10))
    def look_at_a_page(self, number: int, limit: int) -> None:
        after = self._some(number)
        expected = [job_id for job_id in sorted(self.model.jobs) if job_id > after]
        assert [job.id for job in self.store.page(after=after, limit=limit)] == expected[:limit]

    @precondition(lambda self: not self.over and len(self.ids) > 5)
    @rule()
    def begin_the_drain(self) -> None:
        self.model.closed = True
        self._do(self.submissions.close)

    @precondition(lambda self: not self.over and len(self.ids) > 5)
    @rule()
    def cut_off(self) -> None:
        for job_id in self.model.running():
            self.model.jobs[job_id].status = "released"
        self.over = True
        self._settled = False
        self._token.run_sync_soon(self.scope.cancel)
        while self._ended is None:
            self._host.get(timeout=PATIENCE)()

    # What must be so, whenever the pool has come to rest.

    @invariant()
    def each_job_is_where_the_model_has_it(self) -> None:
        shown = {job.id: job for job in self.store.page(limit=1000)}
        assert {job_id: str(job.status) for job_id, job in shown.items()} == {
            job_id: "pending" if job.status == "released" else job.status
            for job_id, job in self.model.jobs.items()
        }
        for job_id, job in shown.items():
            ending = None if job.ending is None else job.ending.outcome
            assert ending == self.model.jobs[job_id].outcome

    @invariant()
    def channel_and_store_agree(self) -> None:
        if not self.over:  # the last worker to go empties it
            assert list(self.send._state.data) == self.model.channel
        assert self.store.statistics().processing == (0 if self.over else len(self.model.running()))

    @invariant()
    def nothing_runs_twice_or_although_it_was_cancelled(self) -> None:
        assert set(self.began.values()) <= {1}
        for job_id, job in self.model.jobs.items():
            if job.status in ("processing", "released") or job.outcome in (
                Outcome.SUCCEEDED,
                Outcome.FAILED,
                Outcome.TIMED_OUT,
            ):
                assert self.began[job_id] == 1
            elif job.status == "pending":
                assert not self.began[job_id]

    @invariant()
    def the_unfinished_are_told_apart(self) -> None:
        begun, not_begun = self.store.unfinished()
        jobs = self.model.jobs
        assert begun == [each for each in jobs if jobs[each].status in ("processing", "released")]
        assert not_begun == [each for each in jobs if jobs[each].status == JobStatus.PENDING]


@contextlib.contextmanager
def refused(*, unless: bool) -> Generator[None]:
    """The block must run through exactly if the model says so."""
    try:
        yield
    except StoreError:
        assert not unless
    else:
        assert unless


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=40, stateful_step_count=30)
