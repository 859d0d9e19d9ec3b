"""Servers over a database whose connections are cut before and after each message: each job once.

A scenario is repeated, with a cut at its first message, at its second, and so on, until it ends
before the cut; a share of the sweep (`SWEEP_EVERY`) leaves messages out. Clients notice nothing:
what they ask for is done, once.
"""

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from tests.postgres.databases import Database
from tests.postgres.proxy import Proxy, When
from tests.proof.share import first_step, step_width
from trio_jobs import (
    DurableJobs,
    Handler,
    JobContext,
    JobNotFoundError,
    Outcome,
    Retry,
    RetryPolicy,
    StoreDatabaseError,
    open_jobs,
)

UNFINISHED = "select id, type, owner from trio_jobs.jobs where completed_at is null"
OWNED = "select id, type, owner from trio_jobs.jobs where owner is not null"
FORGET = "truncate trio_jobs.jobs"
WAIT_FOR_TWO_FREE_JOBS = """
    do $$ begin
        while 2 > (
            select count(*) from trio_jobs.jobs where completed_at is null and owner is null
        ) loop
            perform pg_sleep(0.005);
        end loop;
    end $$
"""


def messages(*sweep: str) -> Iterator[int]:
    """The numbers of the messages to cut at, from 0 on, for the sweep of this name."""
    return itertools.count(first_step(" ".join(sweep)) - 1, step_width())


both_sides = pytest.mark.parametrize("when", ["before", "after"])


@dataclass
class Life:
    """A server, and what happened in it.

    Attributes:
        database: The database, past the proxy.
        jobs: The server.
        runs: How often a handler has begun, by the payloads.
        expected: How often it has to.
        hangs: Set when a job runs that goes on until it is cancelled.
    """

    database: Database
    jobs: DurableJobs = field(init=False)
    runs: Counter[int] = field(default_factory=Counter)
    expected: Counter[int] = field(default_factory=Counter)
    hangs: trio.Event = field(default_factory=trio.Event)

    def expect(self, *, runs: int = 1) -> int:
        """The payload of a job that has to run so often."""
        payload = len(self.expected)
        self.expected[payload] = runs
        return payload

    @asynccontextmanager
    async def server(self, proxy: Proxy) -> AsyncIterator[DurableJobs]:
        """A server with one worker, behind the proxy, for the length of the block."""
        async with open_jobs(self.handlers, url=proxy.url, workers=1) as jobs:
            yield jobs

    @property
    def handlers(self) -> dict[str, Handler]:
        """The handlers, which note what they do."""

        async def work(payload: int) -> int:
            self.runs[payload] += 1
            return payload

        async def again(payload: int, context: JobContext) -> int:
            self.runs[payload] += 1
            if context.attempt == 1:
                raise Retry(after=0.01)
            return payload

        async def fail(payload: int) -> None:
            self.runs[payload] += 1
            raise ValueError

        async def hang(payload: int) -> None:
            self.runs[payload] += 1
            self.hangs.set()
            await trio.sleep_forever()

        async def until_two_are_free(payload: int) -> None:
            self.runs[payload] += 1
            self.hangs.set()
            await self.database.fetch(WAIT_FOR_TWO_FREE_JOBS)

        return {
            "work": Handler.of(work),
            "once": Handler.of(work, repeatable=False),
            "again": Handler.of(again, retry=RetryPolicy(attempts=2)),
            "fail": Handler.of(fail),
            "hang": Handler.of(hang),
            "until_two_are_free": Handler.of(until_two_are_free),
        }


Scenario = Callable[[Life], Awaitable[None]]


async def one_job(life: Life) -> None:
    payload = life.expect()
    job = await life.jobs.submit("work", payload)
    assert await life.jobs.result(job.id) == payload


async def jobs_together(life: Life) -> None:
    payloads = [life.expect() for _ in range(5)]
    jobs = await life.jobs.submit_all(("work", each) for each in payloads)
    assert [await life.jobs.result(job.id) for job in jobs] == payloads


async def not_repeatable(life: Life) -> None:
    payload = life.expect()
    job = await life.jobs.submit("once", payload)
    assert await life.jobs.result(job.id) == payload


async def another_attempt(life: Life) -> None:
    payload = life.expect(runs=2)
    job = await life.jobs.submit("again", payload)
    assert await life.jobs.result(job.id) == payload


async def later(life: Life) -> None:
    payload = life.expect()
    job = await life.jobs.submit("work", payload, delay=0.01)
    assert await life.jobs.result(job.id) == payload


async def same_key(life: Life) -> None:
    payload = life.expect()
    first = await life.jobs.submit("work", payload, key=f"k{payload}")
    again = await life.jobs.submit("work", payload, key=f"k{payload}")
    assert again.id == first.id
    await life.jobs.result(first.id)


async def cancel_of_a_waiting_job(life: Life) -> None:
    job = await life.jobs.submit("work", life.expect(runs=0), delay=1000)
    await life.jobs.cancel(job.id)
    assert (await life.jobs.wait(job.id)).outcome is Outcome.CANCELLED


async def cancel_of_a_running_job(life: Life) -> None:
    job = await life.jobs.submit("hang", life.expect())
    await life.hangs.wait()
    life.hangs = trio.Event()
    await life.jobs.cancel(job.id)
    assert (await life.jobs.wait(job.id)).outcome is Outcome.CANCELLED


async def run_now(life: Life) -> None:
    payload = life.expect()
    job = await life.jobs.submit("work", payload, delay=1000)
    await life.jobs.run_now(job.id)
    assert await life.jobs.result(job.id) == payload


async def rerun(life: Life) -> None:
    job = await life.jobs.submit("fail", life.expect(runs=2))
    assert (await life.jobs.wait(job.id)).outcome is Outcome.FAILED
    second = await life.jobs.rerun(job.id)
    assert (await life.jobs.wait(second.id)).outcome is Outcome.FAILED


async def delete(life: Life) -> None:
    job = await life.jobs.submit("work", life.expect())
    await life.jobs.result(job.id)
    await life.jobs.delete(job.id)
    with pytest.raises(JobNotFoundError):
        await life.jobs.get(job.id)


async def look(life: Life) -> None:
    job = await life.jobs.submit("work", life.expect())
    await life.jobs.result(job.id)
    assert (await life.jobs.get(job.id)).outcome is Outcome.SUCCEEDED
    assert [each.id for each in await life.jobs.page()] == [job.id]


SCENARIOS = [
    one_job,
    jobs_together,
    not_repeatable,
    another_attempt,
    later,
    same_key,
    cancel_of_a_waiting_job,
    cancel_of_a_running_job,
    run_now,
    rerun,
    delete,
    look,
]


@both_sides
@pytest.mark.parametrize("name", ["pump", "reader"])
async def test_cut_of_what_clients_ask_for_changes_nothing(
    database: Database, proxy: Proxy, name: str, when: When
) -> None:
    life = Life(database)
    async with life.server(proxy) as life.jobs:
        for scenario in SCENARIOS:
            for number in messages(scenario.__name__, name, when):
                cut = proxy.cut_at(number, when, name=name)
                await scenario(life)

                assert life.runs == life.expected, scenario
                assert await database.fetch(UNFINISHED) == [], scenario
                await database.fetch(FORGET)
                if not cut.done.is_set():
                    break


@both_sides
async def test_cut_of_what_servers_tell_each_other_changes_nothing(
    database: Database, proxy: Proxy, when: When
) -> None:
    life = Life(database)
    async with life.server(proxy) as other, life.server(proxy) as life.jobs:
        for number in messages("listener", when):
            held = await life.jobs.submit("hang", life.expect())
            await life.hangs.wait()
            life.hangs = trio.Event()
            cut = proxy.cut_at(number, when, name="listener")

            # One of the two has no worker for these.
            for server in (life.jobs, other):
                job = await server.submit("work", payload := life.expect())
                assert await server.result(job.id) == payload
            for server in (life.jobs, other):
                job = await server.submit("hang", life.expect())
                await life.hangs.wait()
                life.hangs = trio.Event()
                await server.cancel(job.id)
                assert (await server.wait(job.id)).outcome is Outcome.CANCELLED

            await other.cancel(held.id)
            assert (await life.jobs.wait(held.id)).outcome is Outcome.CANCELLED
            assert life.runs == life.expected
            assert await database.fetch(UNFINISHED) == []
            await database.fetch(FORGET)
            if not cut.done.is_set():
                break


@pytest.mark.parametrize("name", ["pump", "listener", "check"])
async def test_server_whose_start_is_cut_off_starts_or_says_so(
    database: Database, proxy: Proxy, name: str
) -> None:
    for number in messages("start", name):
        life = Life(database)
        cut = proxy.cut_at(number, "before", name=name)
        try:
            async with life.server(proxy) as life.jobs:
                await one_job(life)
                has_started = not cut.done.is_set()
        except StoreDatabaseError:
            has_started = False

        assert life.runs == life.expected
        assert await database.fetch(UNFINISHED) == []
        if has_started:
            break


@both_sides
@pytest.mark.parametrize("name", ["pump", "listener"])
async def test_cut_of_a_stop_gives_back_what_has_not_begun(
    database: Database, proxy: Proxy, name: str, when: When
) -> None:
    for number in messages("stop", name, when):
        life = Life(database)
        async with life.server(proxy) as life.jobs:
            # Two that were fetched ahead, or none: they are free when the third ends.
            await life.jobs.submit("until_two_are_free", life.expect())
            await life.hangs.wait()
            for _ in range(2):
                await life.jobs.submit("work", life.expect(runs=0))
            cut = proxy.cut_at(number, when, name=name)

        assert life.runs == life.expected
        assert await database.fetch(OWNED) == []
        assert len(await database.fetch(UNFINISHED)) == 2
        await database.fetch(FORGET)
        if not cut.done.is_set():
            break
