"""`GET /jobs/counts`: beside a plain count of the listing, in memory and in a file."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from tests.api.support import Api, assert_problem
from tests.durable import open_store
from tests.support import NOON, counting_turns, make_job, make_parts
from trio_jobs import Ending, JobStatus, Outcome
from trio_jobs.job import Later
from trio_jobs.pool.job_counts import MAX_TYPES, count_jobs
from trio_jobs.pool.job_query import JobQuery, Order

QUERIES = [
    "",
    "status=pending",
    "status=processing&status=pending",
    "status=completed",
    "type=odd",
    "type=odd&status=pending",
    "outcome=failed",
    "outcome=failed&outcome=succeeded&type=even",
    "status=pending&outcome=failed",
    "order=newest",
    "order=ended",
    "order=ended&type=even&rerun=no",
    "rerun=no",
    "since=2000-01-01T00:00:00Z&until=9999-01-01T00:00:00Z",
    "until=2000-01-01T00:00:00Z",
    "order=ended&since=9999-01-01T00:00:00Z",
]


def job_id(n: int) -> str:
    return f"01936d3c-0000-7000-8000-{n:012x}"


def filled() -> Api:
    """An API with jobs in each state."""
    api = Api()
    store = api.parts.store
    for n in range(40):
        job = make_job(job_id(n), type=("even", "odd")[n % 2])
        if n in (30, 31, 32):
            job = replace(job, run_at=NOON + timedelta(seconds=60))
        store.add(job)
    for n in range(20):
        store.claim(job_id(n))
    for n in range(15):
        store.complete(job_id(n), Ending(outcome=tuple(Outcome)[n % 5]))
    store.postpone(job_id(15), Later(seconds=5))
    store.add(replace(make_job(job_id(41), type="even"), rerun_of=job_id(6)))
    return api


async def counted(api: Api, query: str) -> dict[str, Any]:
    answer = await api.client.get(f"/jobs/counts?{query}")
    assert answer.status == 200, answer
    counts: dict[str, Any] = answer.json()
    return counts


@pytest.mark.parametrize("query", QUERIES)
async def test_counts_are_those_of_the_listing(query: str) -> None:
    api = filled()
    jobs = (await api.client.get(f"/jobs?{query}")).json()

    counts = await counted(api, query)

    assert counts["total"] == len(jobs)
    for name in ("status", "outcome", "type"):
        found = Counter(job[name] for job in jobs if name in job)
        assert +Counter(counts[name]) == found
    waiting = [job for job in jobs if "run_at" in job]
    assert counts["waiting"]["retrying"] == sum("attempts" in job for job in waiting)
    assert sum(counts["waiting"].values()) == len(waiting)
    assert counts["other_types"] == 0


async def test_counts_of_no_jobs_name_each_status_and_outcome() -> None:
    assert await counted(Api(), "") == {
        "total": 0,
        "status": dict.fromkeys(JobStatus, 0),
        "waiting": {"delayed": 0, "retrying": 0, "held": 0},
        "outcome": dict.fromkeys(Outcome, 0),
        "type": {},
        "other_types": 0,
    }


async def test_the_most_frequent_types_are_named() -> None:
    api = Api()
    for n in range(MAX_TYPES + 5):
        api.parts.store.add(make_job(job_id(2 * n), type=f"type {n}"))
        if n >= 5:
            api.parts.store.add(make_job(job_id(2 * n + 1), type=f"type {n}"))

    counts = await counted(api, "")

    assert counts["type"] == {f"type {n}": 2 for n in range(5, MAX_TYPES + 5)}
    assert counts["other_types"] == 5


@pytest.mark.parametrize("query", ["limit=5", f"after={job_id(1)}", "page=1", "status=done"])
async def test_a_bad_query_is_400(query: str) -> None:
    assert_problem(await Api().client.get(f"/jobs/counts?{query}"), 400)


async def test_other_tasks_run_while_jobs_are_counted() -> None:
    api = Api()
    for n in range(10_000):
        api.parts.store.add(make_job(job_id(n)))

    async with counting_turns() as turns:
        assert (await counted(api, ""))["total"] == 10_000

    assert len(turns) >= 10


@pytest.mark.interleavings(10)
@pytest.mark.parametrize("order", [each for each in Order if each is not Order.NEXT])
async def test_what_stays_is_counted_once_while_others_come_and_go(order: Order) -> None:
    api = Api(parts=make_parts(keep_failed=1500))
    store = api.parts.store
    for n in range(3000):
        store.add(make_job(job_id(n), type="stays" if 1000 <= n < 1500 else "goes"))
    failed = Ending(outcome=Outcome.FAILED)
    for n in range(1500):
        store.claim(job_id(n))
        store.complete(job_id(n), failed)

    async def come_and_go() -> None:
        for n in range(1500, 2400):
            store.claim(job_id(n))
            store.complete(job_id(n), failed)  # drops the oldest one
            store.add(make_job(job_id(1_000_000 + n), type="comes"))
            if n % 25 == 0:
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_and_go)
        counts = await counted(api, f"order={order}")

    assert counts["type"]["stays"] == 500


async def test_over_a_file_a_job_that_ends_meanwhile_is_counted_once() -> None:
    store, journal = open_store()
    jobs = [make_job("a"), make_job("b", type="other")]
    store.add_all(jobs, reruns={}, landed=lambda: None, refused=print)
    journal.commit()
    store.claim("a")
    counts = [await count_jobs(store, JobQuery())]
    store.complete("a", Ending(outcome=Outcome.FAILED))
    counts.append(await count_jobs(store, JobQuery()))
    store.hand_over()
    journal.commit()
    counts.append(await count_jobs(store, JobQuery()))

    assert [each.total for each in counts] == [2, 2, 2]
    assert [each.status[JobStatus.PROCESSING] for each in counts] == [1, 1, 0]
    assert [each.outcome[Outcome.FAILED] for each in counts] == [0, 0, 1]
