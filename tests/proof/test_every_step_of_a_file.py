"""A pool over a file, cut off at every single step: nobody was told what a crash takes back."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from tests.durable import ONCE, DurableParts, File, make_durable_parts, start_pool
from tests.proof.share import swept
from tests.support import NOON, SUCCEEDED, At, Later, make_job
from trio_jobs import Ending, Handler, IdempotencyKey, Job, JobStatus, Outcome
from trio_jobs.job import JobError
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import AdmissionError, QueueFullError, StoreTimeoutError
from trio_jobs.pool.store import StoreError
from trio_jobs.testing.schedules import seeded_schedule

WORKERS = 3
BUFFER_SIZE = 4

STREAM = b'"stream"'  # the payload of a stream's jobs

FAILED = Job(
    id="00000000-failed",
    type="ok",
    payload=b"",
    created_at=NOON,
    status=JobStatus.COMPLETED,
    ending=Ending(outcome=Outcome.FAILED, error=JobError(type="E", message="m")),
)


def left_by_a_crash() -> File:
    """What an earlier process has left: pending, running and ended jobs."""
    died = {"status": JobStatus.PROCESSING, "started_at": NOON, "attempts": 1}
    jobs = [FAILED]
    jobs += [make_job(f"00000001-{n}", type="ok") for n in range(4)]
    jobs += [replace(make_job(f"00000002-{n}", type="ok"), **died) for n in range(2)]
    jobs += [replace(make_job("00000003", type=ONCE), **died), make_job("00000004", type=ONCE)]
    return dict(enumerate(jobs, 1))


async def never_called(_: object) -> None:
    raise AssertionError


HANDLERS = {
    "ok": Handler.of(never_called),
    "again": Handler.of(never_called, max_running=1),
    "slow": Handler.of(never_called),
    ONCE: Handler.of(never_called),
}


@dataclass(kw_only=True)
class Life:
    """One life of the program: what clients were told, and which jobs began."""

    parts: DurableParts
    accepted: dict[str, Job] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    shown: dict[str, Job] = field(default_factory=dict)
    begun: Counter[tuple[str, int]] = field(default_factory=Counter)
    clients: list[trio.CancelScope] = field(default_factory=list)
    pool: trio.CancelScope = field(default_factory=trio.CancelScope)
    everything: trio.CancelScope = field(default_factory=trio.CancelScope)
    crashed: File | None = None
    visible: list[Job] = field(default_factory=list)
    told: tuple[dict[str, Job], dict[str, Job], Counter[tuple[str, int]]] | None = None

    # What can happen at a step.

    def nothing(self) -> None:
        pass

    def first_client_leaves(self) -> None:
        self._leave(0)

    def second_client_leaves(self) -> None:
        self._leave(1)

    def third_client_leaves(self) -> None:
        self._leave(2)

    def fourth_client_leaves(self) -> None:
        self._leave(3)

    def fifth_client_leaves(self) -> None:
        self._leave(4)

    def pool_is_cut_off(self) -> None:
        self.pool.cancel()
        self.parts.admission.close()

    def stop_begins(self) -> None:
        self.parts.admission.close()

    def types_are_paused(self) -> None:
        self.parts.pool.paused.pause(HANDLERS)

    def one_type_is_paused(self) -> None:
        self.parts.pool.paused.pause(["again"])

    def disk_is_full(self) -> None:
        self.parts.journal.refuse()

    def process_dies(self) -> None:
        """All that is told or begun from now on is not."""
        self.crashed = dict(self.parts.file)
        store = self.parts.store
        self.visible = [store.shown_nowait(job_id) for job_id in store._jobs]
        self.told = dict(self.accepted), dict(self.shown), self.begun.copy()
        self.everything.cancel()

    def _leave(self, number: int) -> None:
        if number < len(self.clients):
            self.clients[number].cancel()

    # The program.

    async def process(self, job: Job) -> Ending | Later:
        self.begun[job.id, job.attempts] += 1
        if job.cancel_requested:
            return Ending(outcome=Outcome.CANCELLED)
        if job.type == "slow":
            await trio.sleep(2)
        elif job.type == "again" and job.attempt == 1:
            return Later(seconds=1)
        else:
            await trio.lowlevel.checkpoint()
        return SUCCEEDED

    async def client(self, number: int, *calls: Callable[[], Awaitable[Any]]) -> None:
        scope = self.clients[number]
        with scope:
            for call in calls:
                try:
                    answer = await self.until_room(call)
                except (AdmissionError, StoreError, StoreTimeoutError) as error:
                    self.refused[type(error).__name__] += 1
                    continue
                for job in answer if isinstance(answer, list) else [answer]:
                    self.accepted[job.id] = job

    async def until_room(self, call: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401
        while True:
            try:
                return await call()
            except QueueFullError:
                self.refused["QueueFullError"] += 1
                await trio.sleep(0.5)

    async def watch(self) -> None:
        """A client that reads the list again and again."""
        with self.clients[4]:
            while True:
                for job in await self.parts.store.page(limit=100):
                    if job.outcome is not None:
                        self.shown[job.id] = job
                await trio.sleep(0.25)

    async def cancel_one(self) -> list[Job]:
        [job] = await self.parts.admission.admit_all([JobSpec("slow", b"", 3.0)])
        self.accepted[job.id] = job
        return [await self.parts.pool.cancel(job.id)]

    async def delete_one(self) -> list[Job]:
        await self.parts.store.delete(FAILED.id)
        return []

    async def run(self) -> None:
        """The clients, the disk and the pool, until the pool has ended."""
        admission = self.parts.admission
        key = IdempotencyKey(text="k", digest=b"")
        rerun = JobSpec("ok", FAILED.payload, rerun_of=FAILED.id)
        calls: list[list[Callable[[], Awaitable[Any]]]] = [
            [
                lambda: admission.admit(JobSpec("ok", b"", key=key)),
                lambda: admission.admit(JobSpec(ONCE, b"")),
                self.cancel_one,
            ],
            [
                lambda: admission.admit(JobSpec("ok", b"", key=key)),
                lambda: admission.admit_all([JobSpec("again", b"")] * 2),
                lambda: admission.admit_all([rerun]),
            ],
            [
                lambda: admission.admit_up_to([JobSpec("ok", STREAM)] * 3),
                lambda: admission.admit_up_to([JobSpec("slow", STREAM, 1.0)] * 3),
                lambda: admission.admit_up_to([JobSpec("ok", STREAM)] * 3),
            ],
            [
                lambda: admission.admit_all([rerun]),
                lambda: admission.admit_all([JobSpec(ONCE, b""), JobSpec("ok", b"", 1.0)]),
                self.delete_one,
            ],
        ]
        self.clients += [trio.CancelScope() for _ in range(5)]
        with self.everything:
            async with trio.open_nursery() as outer:
                outer.start_soon(self.parts.journal.run, 1)
                outer.start_soon(self.watch)
                async with trio.open_nursery() as inner:
                    inner.start_soon(self.run_pool)
                    for number, each in enumerate(calls):
                        inner.start_soon(self.client, number, *each)
                outer.cancel_scope.cancel()

    async def run_pool(self) -> None:
        with self.pool:
            async with trio.open_nursery() as pool:
                start_pool(self.parts, pool, self.process)
                await trio.sleep(8)  # the clients are done, unless they are held up
                self.parts.admission.close()

    async def go_on(self) -> None:
        """A life without clients."""
        async with trio.open_nursery() as outer:
            outer.start_soon(self.parts.journal.run)
            await self.run_pool()
            outer.cancel_scope.cancel()


def make_life(file: File, *, keeps_pending: bool, began: float = 0.0) -> Life:
    start = NOON + timedelta(seconds=began - trio.current_time())
    parts = make_durable_parts(
        HANDLERS,
        file=file,
        workers=WORKERS,
        buffer_size=BUFFER_SIZE,
        keeps_pending=keeps_pending,
        now=lambda: start + timedelta(seconds=trio.current_time()),
    )
    return Life(parts=parts)


def run_life(action: Callable[[Life], None], step: int, *, keeps_pending: bool) -> tuple[Life, int]:
    """Run the program; act at this step. Returns the number of steps, too."""
    lives: list[Life] = []
    steps = 0

    async def main() -> None:
        nonlocal steps
        life = make_life(left_by_a_crash(), keeps_pending=keeps_pending)
        lives.append(life)
        with At(step, lambda: action(life)) as at:
            await life.run()
        steps = at.steps

    with seeded_schedule(step):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    return lives[0], steps


def check(life: Life, action: Callable[[Life], None]) -> None:
    """The life has told no lie, and the next one goes on where it has ended."""
    accepted, shown, begun = life.told or (life.accepted, life.shown, life.begun)
    file = dict(life.parts.file) if life.crashed is None else life.crashed
    jobs = {job.id: job for _, job in sorted(file.items())}
    assert accepted.keys() <= jobs.keys()
    assert list(jobs) == sorted(jobs)  # ids are in the order of admission, as pages want them
    for job_id, job in shown.items():
        if job_id != FAILED.id:  # it may be marked as re-run, or be deleted
            assert jobs[job_id] == job
    for job in life.visible:  # to a client that looks a job up right before the crash
        assert job.outcome is None
        assert jobs[job.id].cancel_requested or not job.cancel_requested
    assert max(begun.values(), default=1) == 1
    assert sum(job.key is not None for job in jobs.values()) <= 1
    reruns = [job.id for job in jobs.values() if job.rerun_of is not None]
    assert len(reruns) <= 1
    if FAILED.id in jobs:
        assert jobs[FAILED.id].rerun_as == (reruns[0] if reruns else None)

    parts = life.parts
    if life.crashed is None:
        streamed = {job.id for job in jobs.values() if job.payload == STREAM}
        assert streamed == {job.id for job in accepted.values() if job.payload == STREAM}
        assert parts.journal.entries == [] or action is Life.pool_is_cut_off
        assert parts.admission._under_way == parts.admission._delayed_under_way == 0
        assert parts.admission._names == {}
        if action is not Life.pool_is_cut_off:
            assert parts.pool.capacity.free == BUFFER_SIZE
            assert parts.store.statistics().processing == 0
            assert not parts.pool.left_behind()
            if not parts.admission.keeps_pending:
                assert not parts.pool.unfinished().not_begun

    async def live_again() -> Life:
        second = make_life(file, keeps_pending=False, began=3600)
        await second.go_on()
        return second

    second = trio.run(live_again, clock=MockClock(autojump_threshold=0))
    assert {job.status for job in second.parts.file.values()} == {JobStatus.COMPLETED}
    assert max(second.begun.values(), default=1) == 1
    for (job_id, _), number in second.begun.items():
        assert job_id not in shown
        if jobs[job_id].type == ONCE:
            assert number + sum(begun[job_id, n] for n in range(9)) == 1
    for job in second.parts.file.values():
        if job.type == ONCE and job.id != "00000003":
            starts = sum(counts[job.id, n] for counts in (begun, second.begun) for n in range(9))
            assert starts == 1 or (starts == 0 and job.outcome is Outcome.INTERRUPTED)
        if life.crashed is not None:
            continue
        assert job.interruptions <= 1 or action is Life.pool_is_cut_off


ACTIONS = [
    Life.process_dies,
    Life.pool_is_cut_off,
    Life.stop_begins,
    Life.types_are_paused,
    Life.one_type_is_paused,
    Life.disk_is_full,
    Life.first_client_leaves,
    Life.second_client_leaves,
    Life.third_client_leaves,
    Life.fourth_client_leaves,
    Life.fifth_client_leaves,
]


def test_scenario_has_everything_in_it() -> None:
    life, steps = run_life(Life.nothing, 0, keeps_pending=False)

    check(life, Life.nothing)
    outcomes = {job.outcome for job in life.parts.file.values()}
    assert outcomes == {Outcome.SUCCEEDED, Outcome.CANCELLED, Outcome.INTERRUPTED}
    assert life.refused["DuplicateJobError"] == 1
    assert life.refused["InvalidTransitionError"] == 1
    assert {job.type for job in life.shown.values()} == {"ok", "again", "slow", ONCE}
    assert steps > 100


@pytest.mark.parametrize("keeps_pending", [False, True], ids=["all", "running"])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_at_every_step(action: Callable[[Life], None], keeps_pending: bool) -> None:
    _, steps = run_life(Life.nothing, 0, keeps_pending=keeps_pending)

    for step in swept(f"{action.__name__} {keeps_pending}", steps):
        life, _ = run_life(action, step, keeps_pending=keeps_pending)
        try:
            check(life, action)
        except AssertionError as error:
            error.add_note(f"at step {step} of {steps}")
            raise
