"""300 changes of the pool while it works: nothing is lost, refused or run twice by them."""

from collections import Counter
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from tests.proof.share import swept
from tests.support import RunningPool, running_pool
from trio_jobs import Handler, Job, JobStatus, Outcome, RetryPolicy
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import IntakePausedError, QueueFullError
from trio_jobs.pool.store import InvalidTransitionError
from trio_jobs.testing.schedules import seeded_schedule

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 100  # workers
TYPES = ("quick", "slow", "uneven", "again")


class Load:
    """Clients that submit, and what has become of their jobs."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311  (to be replayed)
        self._numbers = count()
        self.began: Counter[int] = Counter()
        self.jobs: list[Job] = []
        self.cancelled: set[str] = set()
        self.refused = 0
        self.inside = 0
        self.over = False

    async def quick(self, number: int) -> None:
        self.began[number] += 1

    async def slow(self, number: int) -> None:
        await self._work(number, 5)

    async def uneven(self, number: int) -> None:
        await self._work(number, self.random.choice([0, 0, 0.1, 1, 20]))

    async def again(self, number: int) -> None:
        """Fail at the first attempt."""
        await self._work(number, 0.1)
        if self.began[number] == 1:
            raise ValueError

    async def _work(self, number: int, seconds: float) -> None:
        self.began[number] += 1
        self.inside += 1
        try:
            await trio.sleep(seconds)
        finally:
            self.inside -= 1

    def specs(self, number: int) -> list[JobSpec]:
        return [
            JobSpec(self.random.choice(TYPES), b"%d" % next(self._numbers), None, None)
            for _ in range(number)
        ]

    async def stream(self, pool: RunningPool) -> None:
        """Wait for room for each job: none is refused."""
        while not self.over:
            try:
                self.jobs += await pool.parts.admission.admit_up_to(self.specs(20))
            except IntakePausedError:
                self.refused += 1
            await trio.sleep(self.random.choice([0, 0.01, 1]))

    async def single(self, pool: RunningPool) -> None:
        """Submit one after the other, also while there is no room."""
        while not self.over:
            for _ in range(self.random.randrange(60)):
                [spec] = self.specs(1)
                try:
                    self.jobs.append(pool.submit(spec.type, spec.payload))
                except (QueueFullError, IntakePausedError):
                    self.refused += 1
            await trio.sleep(self.random.choice([0, 0.1, 1, 3]))

    async def cancels(self, pool: RunningPool) -> None:
        """Cancel jobs that wait, that run, and that have ended."""
        while not self.over:
            await trio.sleep(0.5)
            for job in self.random.sample(self.jobs[-300:], min(3, len(self.jobs))):
                try:
                    await pool.parts.pool.cancel(job.id)
                except InvalidTransitionError:
                    continue
                self.cancelled.add(job.id)


async def change(pool: RunningPool, random: Random) -> None:
    """Ask for another number of workers; pause and resume now and then."""
    if random.random() < 0.3:
        types = random.sample(TYPES, random.randint(1, len(TYPES)))
        if random.random() < 0.5:
            pool.paused.pause(types)
        else:
            await pool.paused.resume(types)
    if random.random() < 0.1:
        intake = pool.parts.admission.intake
        random.choice([intake.pause, intake.resume, intake.resume])()
    tasks = pool.parts.pool.worker_tasks
    before, number = tasks._count, random.choice([1, random.randint(1, MOST), random.randint(1, 8)])
    await pool.set_workers(number)
    assert pool.workers == number >= len(tasks._staying) > 0
    assert number <= tasks._count <= max(before, number)


@pytest.mark.parametrize(
    ("seed", "changes"),
    [(0, 100), *(pytest.param(n, 300, marks=pytest.mark.proof) for n in swept("changes", 3))],
)
async def test_every_job_is_ended_once_whatever_an_operator_changes(
    seed: int, changes: int, autojump_clock: MockClock
) -> None:
    assert autojump_clock
    load = Load(seed)
    retry = RetryPolicy(attempts=2, backoff=(3,))
    handlers: dict[str, Callable[..., object] | Handler] = {
        "quick": load.quick,
        "slow": Handler.of(load.slow, max_running=None if seed % 2 else 4),
        "uneven": load.uneven,
        "again": Handler.of(load.again, retry=retry),
    }
    with seeded_schedule(seed):
        async with (
            running_pool(handlers, workers=10, buffer_size=30) as pool,
            trio.open_nursery() as clients,
        ):
            for client in (load.stream, load.stream, load.single, load.cancels):
                clients.start_soon(client, pool)
            for _ in range(changes):
                await trio.sleep(load.random.choice([0, 0, 0.1, 2]))
                await change(pool, load.random)
                workers = pool.parts.pool.worker_tasks._count
                assert load.inside <= workers <= MOST
            load.over = True
            await pool.paused.resume(TYPES)
            pool.parts.admission.intake.resume()
            await trio.sleep(80_000)  # a stop would leave those that wait for their next attempt

    assert len(load.jobs) > 3 * changes
    ended = [pool.parts.store.find_nowait(job.id) for job in load.jobs]
    assert {job.status for job in ended} == {JobStatus.COMPLETED}
    for job in ended:
        number = int(job.payload)
        if pool.outcome(job) is Outcome.CANCELLED:
            assert job.id in load.cancelled
            assert load.began[number] <= 1 + (job.type == "again")
        else:
            times = 1 + (job.type == "again")
            assert (load.began[number], pool.outcome(job)) == (times, Outcome.SUCCEEDED)
    statistics = pool.parts.pool.statistics()
    assert (statistics.busy, statistics.buffered, statistics.leaving) == (0, 0, 0)
    assert (statistics.held, statistics.waiting, pool.parts.capacity.free) == (0, 0, 30)
