"""Look-ups, pages and counts in a database: the jobs of `JobQuery.select`, found by indexes."""

import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product

import pytest

from tests.postgres.databases import Database
from tests.postgres.rows import Row, insert
from tests.support import NOON
from trio_jobs import Job, JobStatus, Outcome
from trio_jobs.job import Waiting
from trio_jobs.pool.ids import Uuid7
from trio_jobs.pool.job_query import JobQuery, Order
from trio_jobs.stores.postgres.columns import brief_job, whole_job
from trio_jobs.stores.postgres.count_query import count_query, counts_of
from trio_jobs.stores.postgres.look_ups import FIND_KEYS, FIND_MANY, page_query
from trio_jobs.stores.postgres.readers import Readers
from trio_jobs.stores.postgres.trio_connection import connect

TYPES = ("email", "video", "ž")


def some_rows(number: int) -> list[Row]:
    """Jobs that stand everywhere, the same ones each time but for their ids."""
    chance = random.Random(1)  # noqa: S311  (no secret)
    new_id = Uuid7()
    rows: list[Row] = []
    for n in range(number):
        created = NOON + timedelta(seconds=n // 3)  # several at the same time
        row: dict[str, object] = {
            "id": new_id(),
            "type": chance.choice(TYPES),
            "payload": f'{{"n": {n}}}',
            "created_at": created,
            "fetches": 0,
            "attempts": 0,
            "interruptions": 0,
            "snoozes": 0,
            "cancel_requested": False,
        }
        match chance.choice(["pending", "later", "owned", "begun", *Outcome]):
            case "later":
                row["run_at"] = created + timedelta(seconds=chance.randrange(100))
                row["attempts"] = chance.randrange(2)
            case "owned":
                row |= {"owner": 7, "attempts": 1}
            case "begun":
                row |= {"owner": 7, "attempts": 1, "started_at": created}
            case Outcome() as outcome:
                ended = created + timedelta(seconds=chance.randrange(5))
                row |= {"started_at": created, "completed_at": ended, "duration": 0.5}
                row |= {"outcome": outcome.value, "attempts": 1}
                if outcome is Outcome.SUCCEEDED:
                    row["result"] = f"[{n}]"
                else:
                    row |= {"error_type": "E", "error_message": "no"}
                    if chance.random() < 0.3:
                        row["rerun_as"] = new_id()
        rows.append(row)
    return rows


@pytest.fixture
async def readers(database: Database) -> AsyncIterator[Readers]:
    readers = Readers(partial(connect, database.url, name="test"), timeout=60)
    yield readers
    readers.close()


async def all_jobs(readers: Readers) -> list[Job]:
    text, values = page_query(JobQuery(), after=None, limit=10_000)
    return [brief_job(row) for row in await readers.fetch(text, values)]


async def pages(readers: Readers, query: JobQuery, limit: int) -> list[Job]:
    """The jobs of all pages; each begins behind the last one's end."""
    jobs: list[Job] = []
    after = None
    while True:
        text, values = page_query(query, after=after, limit=limit)
        page = [brief_job(row) for row in await readers.fetch(text, values)]
        jobs += page
        if len(page) < limit:
            return jobs
        after = query.position(page[-1])


QUERIES = {
    "all": JobQuery(),
    "pending": JobQuery(statuses=[JobStatus.PENDING]),
    "processing": JobQuery(statuses=[JobStatus.PROCESSING]),
    "unfinished": JobQuery(statuses=[JobStatus.PENDING, JobStatus.PROCESSING]),
    "completed": JobQuery(statuses=[JobStatus.COMPLETED]),
    "all statuses": JobQuery(statuses=list(JobStatus)),
    "failed": JobQuery(outcomes=[Outcome.FAILED]),
    "dead": JobQuery(outcomes=[each for each in Outcome if each is not Outcome.SUCCEEDED]),
    "succeeded": JobQuery(outcomes=[Outcome.SUCCEEDED, Outcome.CANCELLED]),
    "pending and failed": JobQuery(statuses=[JobStatus.PENDING], outcomes=[Outcome.FAILED]),
    "of a type": JobQuery(types=["email"]),
    "of types": JobQuery(types=["video", "ž", "none", "n\0ul", "\ud800"]),
    "of no type that can be": JobQuery(types=["n\0ul", "\ud800"]),
    "pending of a type": JobQuery(types=["ž"], statuses=[JobStatus.PENDING]),
    "delayed": JobQuery(waiting=[Waiting.DELAYED]),
    "retrying or delayed": JobQuery(waiting=[Waiting.DELAYED, Waiting.RETRYING]),
    "not re-run": JobQuery(rerun=False, outcomes=[Outcome.FAILED, Outcome.TIMED_OUT]),
    "since": JobQuery(since=NOON + timedelta(seconds=20)),
    "until": JobQuery(until=NOON + timedelta(seconds=30)),
    "between": JobQuery(
        since=NOON + timedelta(seconds=20), until=NOON + timedelta(seconds=30), types=["email"]
    ),
    "of all times": JobQuery(
        since=datetime.min.replace(tzinfo=UTC), until=datetime.max.replace(tzinfo=UTC)
    ),
}


@pytest.fixture
async def stored(database: Database, readers: Readers) -> list[Job]:
    """The jobs in the database: many, in the order of their ids."""
    await insert(database, some_rows(100))
    return await all_jobs(readers)


async def test_pages_have_the_jobs_of_the_query_in_its_order(
    readers: Readers, stored: Sequence[Job]
) -> None:
    assert len(stored) == 100
    for (name, query), order, limit in product(
        QUERIES.items(), (Order.OLDEST, Order.NEWEST, Order.ENDED), (7, 500)
    ):
        query = replace(query, order=order)
        expected = sorted(
            query.select(stored), key=query.position, reverse=order is not Order.OLDEST
        )

        found = await pages(readers, query, limit)

        assert query.select(found) == expected, (name, order, limit)
        if query.statuses and JobStatus.COMPLETED not in query.statuses:
            assert not any(job.outcome for job in found), name
        if query.outcomes or query.types:  # what the statement can tell it leaves out
            statuses = replace(query, statuses=())
            assert statuses.select(found) == found, name


async def test_counts_are_those_of_the_jobs_of_the_query(
    readers: Readers, stored: Sequence[Job]
) -> None:
    for (name, query), order in product(QUERIES.items(), (Order.OLDEST, Order.ENDED)):
        query = replace(query, order=order)
        expected = query.select(stored)

        text, values = count_query(query)
        numbers, jobs = counts_of(await readers.fetch(text, values))

        ended = Counter((job.type, job.outcome) for job in expected if job.outcome is not None)
        assert numbers == ended, (name, order)
        assert sorted(query.select(jobs), key=query.position) == [
            job for job in expected if job.outcome is None
        ], (name, order)


async def test_pages_and_counts_of_few_jobs_look_at_few_of_many(
    readers: Readers, database: Database
) -> None:
    # Else the database might get to know the table at any time.
    await database.fetch("alter table trio_jobs.jobs set (autovacuum_enabled = false)")
    rows = some_rows(100)
    many = [row for row in some_rows(20_000) if row.get("outcome") == "succeeded"]
    rows += [row | {"completed_at": row["started_at"]} for row in many]  # none fits into a page
    rows += some_rows(100)
    await insert(database, rows)
    await database.fetch("analyze trio_jobs.jobs")
    few = [JobQuery(order=Order.ENDED), JobQuery(order=Order.ENDED, types=["email"])]
    for name, order in product(
        ("pending", "unfinished", "delayed", "failed", "dead", "not re-run"),
        (Order.OLDEST, Order.NEWEST, Order.ENDED),
    ):
        few.append(replace(QUERIES[name], order=order))
    statements = [count_query(query) for query in few]
    for query, limit in product(few, (1, 100, 500)):
        statements.append(page_query(query, after=None, limit=limit))
        page = [brief_job(row) for row in await readers.fetch(*statements[-1])]
        if page:
            after = query.position(page[len(page) // 2])
            statements.append(page_query(query, after=after, limit=limit))

    for text, values in statements:
        plan = await readers.fetch(f"explain (analyze, buffers off) {text}", values)

        lines = "\n".join(line for (line,) in plan)
        assert "Seq Scan on jobs" not in lines, lines
        assert "jobs_pkey on jobs" not in lines or "Index Cond" in lines, lines
        looked_at = [int(number) for number in re.findall(r"Rows Removed by Filter: (\d+)", lines)]
        assert sum(looked_at) < 1_000, lines


async def test_place_behind_all_times_is_the_first_page(
    readers: Readers, stored: Sequence[Job]
) -> None:
    query = JobQuery(order=Order.ENDED)
    latest = f"{2**64 - 1:016x}-{stored[0].id}"

    text, values = page_query(query, after=latest, limit=500)

    found = [brief_job(row) for row in await readers.fetch(text, values)]
    assert found == await pages(readers, query, 500) != []


async def test_page_of_any_size_can_be_asked_for(readers: Readers, stored: Sequence[Job]) -> None:
    text, values = page_query(JobQuery(), after=None, limit=2**63)

    assert len(await readers.fetch(text, values)) == len(stored)


async def test_job_is_found_whole_by_its_id_and_its_key(
    readers: Readers, database: Database
) -> None:
    row = some_rows(1)[0] | {
        "key": "k",
        "key_digest": b"digest",
        "payload": '{"a": 1, "a": "\\u0000"}',
        "run_at": None,
        "started_at": NOON,
        "completed_at": NOON,
        "outcome": "succeeded",
        "result": " [1.0]",
        "owner": None,
        "error_type": None,
        "error_message": None,
        "rerun_as": None,
    }
    await insert(database, [row])
    other = Uuid7()()

    [found] = map(whole_job, await readers.fetch(FIND_MANY, {"ids": [row["id"], other]}))
    [same] = map(whole_job, await readers.fetch(FIND_KEYS, {"keys": ["other", "k"]}))

    assert found == same
    assert (found.id, found.payload) == (row["id"], b'{"a": 1, "a": "\\u0000"}')
    assert found.ending is not None
    assert found.ending.result == b" [1.0]"
    assert found.key is not None
    assert (found.key.text, found.key.digest) == ("k", b"digest")
