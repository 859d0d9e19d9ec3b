"""Tiny jobs in processes under time limits and cancels that come by chance: a kill hits one job."""

from collections import Counter
from math import ceil
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio

from tests.handlers import tasks
from tests.proof.share import share_of
from tests.support import RunningPool, running_pool
from trio_jobs import Handler, Job, Outcome

WORKERS = 40
JOBS = 180

# Every twentieth job is a victim: its limit is about as long as it runs.
LIMIT = 0.0008


class Round:
    """Some jobs, a few of which reach their limit or are cancelled, or do so nearly."""

    def __init__(self, pool: RunningPool, ledger: Path, chance: Random) -> None:
        self.pool = pool
        self.ledger = ledger
        self.chance = chance
        self.jobs: list[Job] = []
        self.victims: set[int] = set()
        self.cancelled: set[int] = set()

    async def run(self) -> None:
        for number in range(JOBS):
            seconds, job_type = 0.0002, "tiny"
            if self.chance.randrange(20) == 0:
                self.victims.add(number)
                seconds, job_type = self.chance.uniform(0.0002, 0.0012), "limited"
            tiny = tasks.Tiny(str(self.ledger), number, seconds)
            self.jobs.append(self.pool.submit(job_type, msgspec.json.encode(tiny)))
        while any(self.pool.outcome(job) is None for job in self.jobs):
            await trio.sleep(self.chance.uniform(0, 0.003))
            if self.chance.randrange(3) == 0:
                number = self.chance.randrange(JOBS)
                if self.pool.executor.cancel(self.jobs[number].id):
                    self.cancelled.add(number)

    def check(self) -> Counter[Outcome | None]:
        outcomes = [self.pool.outcome(job) for job in self.jobs]
        begun = Counter(int(line.split()[0]) for line in self.ledger.read_text().splitlines())
        for number, outcome in enumerate(outcomes):
            assert begun[number] <= 1  # none runs twice
            if number in self.cancelled:
                assert outcome is Outcome.CANCELLED
            elif number in self.victims:
                assert outcome in (Outcome.SUCCEEDED, Outcome.TIMED_OUT)
            else:
                assert outcome is Outcome.SUCCEEDED
            if outcome is Outcome.SUCCEEDED:
                assert begun[number] == 1
        return Counter(outcomes)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, ceil(share_of(4))))]
)
async def test_no_kill_hits_a_job_that_has_only_come_near(seed: int, tmp_path: Path) -> None:
    functions = {
        "tiny": Handler.of(tasks.note_and_compute, run="process"),
        "limited": Handler.of(tasks.note_and_compute, run="process", timeout=LIMIT),
    }
    chance = Random(seed)  # noqa: S311 - not a secret
    ends: Counter[Outcome | None] = Counter()

    async with running_pool(functions, workers=WORKERS, processes=2, buffer_size=JOBS) as pool:
        for number in range(10):
            each = Round(pool, tmp_path / str(number), chance)
            await each.run()
            ends += each.check()

    # Each way was seen; a loaded machine is not sure to let a victim succeed.
    assert ends[Outcome.SUCCEEDED]
    assert ends[Outcome.TIMED_OUT]
    assert ends[Outcome.CANCELLED]
