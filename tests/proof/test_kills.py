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
JOBS, ROUNDS = 180, 6

# Every twentieth job is a victim: its limit is about as long as it runs.
LIMIT = 0.0008

# Seconds: so long a job reaches its limit, or is there for a cancel.
LONG = 3600.0


class Round:
    """Some jobs, a few of which reach their limit or are cancelled, or do so nearly.

    In the last round one is sure to reach it, and another one to be cancelled.
    """

    def __init__(self, pool: RunningPool, ledger: Path, chance: Random, *, last: bool) -> None:
        self.pool = pool
        self.ledger = ledger
        self.chance = chance
        self.last = last
        self.jobs: list[Job] = []
        self.victims: set[int] = set()
        self.cancelled: set[int] = set()

    async def run(self) -> None:
        for number in range(JOBS):
            seconds, job_type = 0.0002, "tiny"
            if self.chance.randrange(20) == 0:
                self.victims.add(number)
                seconds, job_type = self.chance.uniform(0.0002, 0.0012), "limited"
            if self.last and number == JOBS - 2:
                self.victims.add(number)
                seconds, job_type = LONG, "limited"
            elif self.last and number == JOBS - 1:
                seconds, job_type = LONG, "tiny"
            tiny = tasks.Tiny(str(self.ledger), number, seconds)
            self.jobs.append(self.pool.submit(job_type, msgspec.json.encode(tiny)))
        while left := [n for n, job in enumerate(self.jobs) if self.pool.outcome(job) is None]:
            await trio.sleep(self.chance.uniform(0, 0.003))
            if self.chance.randrange(3) == 0:
                number = self.chance.randrange(JOBS - 2) if len(left) > 1 else left[0]
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
        for number in range(ROUNDS):
            each = Round(pool, tmp_path / str(number), chance, last=number == ROUNDS - 1)
            await each.run()
            ends += each.check()

    # Each way was seen.
    assert ends[Outcome.SUCCEEDED]
    assert ends[Outcome.TIMED_OUT]
    assert ends[Outcome.CANCELLED]
