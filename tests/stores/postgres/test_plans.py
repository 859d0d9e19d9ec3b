"""What a round reads and writes of the table, whenever its plans were made and whatever is in it.

A connection makes a plan once, perhaps while the table is empty. These tests compare the database's
own counts of blocks and rows, never times.
"""

import re
from collections.abc import AsyncIterator

import pytest

from tests.postgres.databases import Database
from tests.stores.postgres.member import (
    Member,
    begun,
    ended,
    id_of,
    ids,
    joined,
    later,
    make_job,
    new,
)
from trio_jobs.pool.want import Want
from trio_jobs.stores.postgres import round_calls
from trio_jobs.stores.postgres.round import Batch, Moved
from trio_jobs.stores.postgres.trio_connection import connect

# Jobs that have completed: some 1,700 blocks, and 200 of the primary key.
MANY = 50_000

# A line of a plan that reads the table, with the way and the index.
SCAN = re.compile(r"(\w+) Scan(?: using (\w+))? on jobs j")
BLOCKS = re.compile(r"Buffers: shared hit=(\d+)(?: read=(\d+))?")

WAYS = {
    ("Tid", ""),
    ("Index", "jobs_pkey"),
    ("Only", "jobs_pkey"),
    ("Index", "jobs_open"),
    ("Only", "jobs_open"),
    ("Index", "jobs_suspect"),
}


@pytest.fixture
async def a(database: Database) -> AsyncIterator[Member]:
    async with joined(database.url) as member:
        yield member


async def make_rounds(member: Member, first: int) -> None:
    """All that rounds do, to twelve jobs; in the end these have completed."""
    jobs = [make_job(first + number) for number in range(10)]
    await member.add(*jobs)
    fetched = await member.fetch(8, types=["t"], without=["u"], limits={"t": 8})
    assert ids(fetched) == [job.id for job in jobs[:8]]
    end, postponed, unwanted, running, *rest = fetched
    batch = Batch(
        moves=[ended(end), later(postponed, seconds=0.0), Moved(unwanted)],
        begun=[begun(running)],
        want=Want(3),
        new=[new(make_job(first + 10, run_at=jobs[0].created_at))],
        cancels=[running.job.id],
        watches=[each.job.id for each in rest],
        count_to=100,
    )
    answer = await member.round(batch)
    await member.add(make_job(first + 11))
    left = await member.fetch_quickly(id_of(first + 11))
    left += await member.fetch(100)
    await member.execute("select * from trio_jobs.beat(%s, 1000)", member.session.member)
    owned = [running, *rest, *answer.fetched, *left]
    assert len(owned) == 11
    assert not (await member.round(Batch(moves=[ended(each) for each in owned]))).fenced


async def fill(member: Member) -> None:
    """Add jobs that have completed."""
    await member.execute(
        "insert into trio_jobs.jobs (id, type, started_at, completed_at, outcome) "
        "select trio_jobs.uuid7(), 't', now(), now(), 'succeeded' from generate_series(1, %s)",
        MANY,
    )


async def explained(member: Member) -> list[str]:
    """Let the database send each plan that it carries out, also within functions."""
    plans: list[str] = []
    member.connection.add_notice_handler(lambda note: plans.append(note.message_primary or ""))
    await member.execute("load 'auto_explain'")
    for setting in ("log_nested_statements", "log_analyze", "log_buffers"):
        await member.execute(f"set auto_explain.{setting} = on")
    await member.execute("set client_min_messages = log")
    await member.execute("set auto_explain.log_min_duration = 0")
    return plans


@pytest.mark.parametrize(
    "analyzed",
    [
        pytest.param("never", marks=pytest.mark.proof),
        "empty",
        pytest.param("full", marks=pytest.mark.proof),
    ],
)
async def test_a_round_reads_rows_one_by_one_and_the_indexes_of_unfinished_jobs(
    a: Member, analyzed: str
) -> None:
    if analyzed == "empty":
        await a.execute("vacuum analyze trio_jobs.jobs")
    if analyzed == "full":
        await fill(a)
        await a.execute("vacuum analyze trio_jobs.jobs")
        await a.execute("delete from trio_jobs.jobs")
    for number in range(7):  # so that all plans are made, and those of the connection are kept
        await make_rounds(a, 100 * number)
    await fill(a)
    plans = await explained(a)

    await make_rounds(a, 1000)

    lines = "\n".join(plans).splitlines()
    ways = {(scan[1], scan[2] or "") for line in lines if (scan := SCAN.search(line))}
    assert ways <= WAYS
    assert ("Tid", "") in ways
    assert ("Index", "jobs_suspect") in ways
    blocks = [
        int(found[1]) + int(found[2] or 0) for line in lines if (found := BLOCKS.search(line))
    ]
    assert max(blocks) < 250


async def test_a_fetch_reads_no_dead_entries_below_its_mark(a: Member, database: Database) -> None:
    """A backup, say, keeps all of them: nobody may remove what its snapshot can see."""
    async with await connect(database.url, name="backup", autocommit=False) as backup:
        await backup.execute(b"set transaction isolation level repeatable read")
        await backup.execute(b"select from trio_jobs.jobs")
        for first in range(0, 3000, 500):
            await a.add(*[make_job(first + number) for number in range(500)])
            fetched = await a.fetch(500)
            await a.round(Batch(moves=[ended(owned) for owned in fetched]))
        await a.add(*[make_job(3000 + number) for number in range(50)])

        from_the_start = await blocks_of_a_fetch(a)
        a.low = id_of(2999)
        from_the_mark = await blocks_of_a_fetch(a)

    assert from_the_mark < 300 < from_the_start


async def blocks_of_a_fetch(member: Member) -> int:
    """How many blocks a fetch of ten jobs reads; it is rolled back."""
    sql, params = round_calls.call(Batch(want=Want(10)), member.session, member.low)
    query = f"explain (analyze, buffers, format json) {sql}"
    await member.execute("begin")
    cursor = await member.connection.execute(query.encode(), params)
    row = await cursor.fetchone()
    await member.execute("rollback")
    assert row is not None
    plan = row[0][0]["Plan"]
    assert plan["Actual Rows"] == 10
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_a_fetch_from_a_long_queue_reads_what_it_takes(a: Member) -> None:
    await a.execute(
        "insert into trio_jobs.jobs (id, type, payload) "
        "select trio_jobs.uuid7(), 't', '1' from generate_series(1, 5000)"
    )
    await a.execute("analyze trio_jobs.jobs")
    [(newest,)] = await a.execute("select max(id::text) from trio_jobs.jobs")
    plans = await explained(a)

    assert len(await a.fetch(20)) == 20
    assert len(await a.fetch_quickly(newest)) == 1

    rows = re.findall(r"Scan using \w+ on jobs j\S* .*actual time=\S+ rows=(\d+)", "\n".join(plans))
    assert max(map(int, rows)) == 20


async def test_a_fetch_and_a_begin_write_no_index(a: Member) -> None:
    await a.add(*[make_job(number) for number in range(20)])
    await a.execute("begin")

    owned = await a.fetch_quickly(id_of(19))
    owned += await a.fetch(20)
    await a.round(Batch(begun=[begun(each) for each in owned]))

    [counts] = await a.execute(
        "select pg_stat_get_xact_tuples_updated(t.id), pg_stat_get_xact_tuples_hot_updated(t.id) "
        "from (select 'trio_jobs.jobs'::regclass::oid) as t(id)"
    )
    await a.execute("commit")
    assert counts == (40, 40)
