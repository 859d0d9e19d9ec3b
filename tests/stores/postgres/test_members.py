"""Joining, leases, sweeps and leaving, as the database decides about them."""

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
    listening,
    make_job,
    notes,
)
from trio_jobs.job import JobStatus, Outcome
from trio_jobs.stores.postgres.round import Batch
from trio_jobs.stores.postgres.trio_connection import TrioConnection

RULES = {"once": (False, 3), "single": (True, 1), "twice": (True, 2), "default": (True, 3)}


@pytest.fixture
async def a(database: Database) -> AsyncIterator[Member]:
    async with joined(database.url, name="A", handlers=RULES) as member:
        yield member


@pytest.fixture
async def b(database: Database) -> AsyncIterator[Member]:
    async with joined(database.url, name="B", handlers={}) as member:
        yield member


@pytest.fixture
async def listener(database: Database, a: Member, b: Member) -> AsyncIterator[TrioConnection]:
    async with listening(database.url, a, b) as connection:
        yield connection


async def test_a_sweep_puts_back_what_may_run_again_and_ends_the_rest(
    a: Member, b: Member, listener: TrioConnection
) -> None:
    jobs = [
        make_job(number, type=type_)
        for number, type_ in enumerate(["other", "once", "once", "twice", "twice"])
    ]
    await a.add(*jobs)
    await a.execute("update trio_jobs.jobs set interruptions = 1 where id = %s", id_of(4))
    [*owned, suspect] = sorted(await a.fetch(9), key=lambda each: each.job.id)
    other, once_begun, _once, twice = owned
    await a.round(Batch(begun=[begun(each) for each in (other, once_begun, twice, suspect)]))
    await b.round(Batch(watches=[id_of(1)]))
    await b.age(member=a)
    await notes(listener, b)

    swept = await b.sweep()

    assert swept == [(a.session.member, "A", 3, 2)]
    found = [await b.find(job.id) for job in jobs]
    assert [job.status for job in found] == [
        JobStatus.PENDING,
        JobStatus.COMPLETED,
        JobStatus.PENDING,
        JobStatus.PENDING,
        JobStatus.COMPLETED,
    ]
    assert [job.interruptions for job in found] == [1, 1, 0, 1, 2]
    # A claim that its server's loss ended counts; one that no worker has made does not.
    assert [job.attempts for job in found] == [1, 1, 0, 1, 1]
    messages = [job.ending.error.message for job in found if job.ending and job.ending.error]
    assert messages == [
        "the server that ran the job was lost, and its handler is not repeatable",
        "the server that ran the job was lost 2 times",
    ]
    assert [job.outcome for job in found if job.ending] == [Outcome.INTERRUPTED] * 2
    assert await notes(listener, b) == [
        (f"trio_jobs_m{b.session.member}", f"d{id_of(1)}"),
        ("trio_jobs", id_of(0)),
    ]


async def test_the_first_interruption_ends_no_job_whose_begin_was_not_recorded(
    a: Member, b: Member
) -> None:
    await a.add(make_job(1, type="single"), make_job(2, type="single"))
    fetched, recorded = sorted(await a.fetch(2), key=lambda each: each.job.id)
    await a.round(Batch(begun=[begun(recorded)]))
    await b.age(member=a)

    assert await b.sweep() == [(a.session.member, "A", 1, 1)]

    assert (await b.find(recorded.job.id)).outcome is Outcome.INTERRUPTED
    job = await b.find(fetched.job.id)
    # A suspect: its next begin is recorded before it begins.
    assert (job.status, job.interruptions) == (JobStatus.PENDING, 1)


async def test_a_suspect_that_has_not_begun_is_no_more_suspect_than_before(
    a: Member, b: Member
) -> None:
    await a.add(make_job(1, type="twice"))
    await a.execute("update trio_jobs.jobs set interruptions = 1")
    assert len(await a.fetch()) == 1
    await b.age(member=a)

    assert await b.sweep() == [(a.session.member, "A", 1, 0)]
    found = await b.find(id_of(1))
    assert (found.interruptions, found.attempts) == (1, 0)


async def test_a_sweep_leaves_members_alone_whose_leases_last(a: Member, b: Member) -> None:
    await a.add(make_job(1))
    await a.fetch()

    assert await b.sweep() == []
    assert await b.fetch() == []


async def test_a_sweep_leaves_members_alone_that_had_less_time_than_their_leases(
    a: Member, b: Member
) -> None:
    await b.age(member=a)

    assert await b.sweep(contact=0.9) == []
    assert await b.sweep(contact=1.0) == [(a.session.member, "A", 0, 0)]


async def test_a_member_whose_own_lease_is_over_does_not_sweep(a: Member, b: Member) -> None:
    await a.age()
    await b.age()

    assert await b.sweep() == []
    assert len(await a.execute("select from trio_jobs.members")) == 2


async def test_a_beat_renews_a_lease_and_tells_how_things_are(a: Member, b: Member) -> None:
    await a.age(1.0)
    # The fixtures join in any order.
    beat = """
        select alive, in_time, array(select name from unnest(members) name order by name), pending
        from trio_jobs.beat(%s, 1000)
    """

    late = await a.execute(beat, a.session.member)
    in_time = await a.execute(beat, a.session.member)
    await a.add(make_job(1))
    pending = await b.execute(beat, b.session.member)
    await a.age()
    await b.sweep()
    gone = await a.execute(beat, a.session.member)

    assert late == [(True, False, ["A", "B"], False)]
    assert in_time == [(True, True, ["A", "B"], False)]
    assert pending == [(True, True, ["A", "B"], True)]
    assert [(alive, members) for alive, _, members, _ in gone] == [(False, ["B"])]


async def test_who_leaves_gives_back_what_it_has(a: Member, b: Member) -> None:
    await a.add(make_job(1))
    await a.fetch()

    left = await a.execute("select * from trio_jobs.leave(%s)", a.session.member)
    again = await a.execute("select * from trio_jobs.leave(%s)", a.session.member)

    assert left == [(1, 0)]
    assert again == [(None, None)]
    assert ids(await b.fetch()) == [id_of(1)]


async def test_no_id_of_a_member_is_used_again(database: Database) -> None:
    async with joined(database.url) as first:
        await first.execute("select trio_jobs.leave(%s)", first.session.member)
    async with joined(database.url) as second:
        assert second.session.member > first.session.member


async def test_old_jobs_are_dropped_in_bites_and_unfinished_ones_never(a: Member) -> None:
    await a.add(*map(make_job, range(8)))
    owned = await a.fetch(6)
    await a.round(Batch(moves=[ended(each) for each in owned[:5]]))
    await a.round(Batch(moves=[later(owned[5], seconds=1000)]))
    await a.execute(
        "update trio_jobs.jobs set created_at = created_at - interval '1 day', "
        "completed_at = completed_at - interval '1 day' where id < %s",
        id_of(4),
    )

    drop = "select outcome::text, number from trio_jobs.drop_old(%s, 3)"
    first, second, third = [await a.execute(drop, 3600.0) for _ in range(3)]

    assert (first, second, third) == ([("succeeded", 3)], [("succeeded", 1)], [])
    assert len(await a.execute("select from trio_jobs.jobs")) == 4
