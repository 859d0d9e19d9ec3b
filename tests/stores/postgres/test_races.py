"""Rounds of two servers about one job at the same time, in both orders."""

import pytest
import trio

from tests.stores.postgres.member import (
    Member,
    begun,
    ended,
    id_of,
    ids,
    in_turn,
    later,
    make_job,
    new,
    notes,
)
from trio_jobs.job import IdempotencyKey, JobStatus, Outcome
from trio_jobs.pool.want import Want
from trio_jobs.stores.postgres.round import Batch, OwnedJob
from trio_jobs.stores.postgres.trio_connection import TrioConnection

JOB = make_job(1)


@pytest.fixture
async def owned(a: Member, listener: TrioConnection) -> OwnedJob:
    """A job that A has fetched."""
    await a.add(JOB)
    await notes(listener, a)
    [owned] = await a.fetch()
    return owned


async def hold_and_write(member: Member, by: Member) -> None:
    """Change the job, while no round of the member begins."""
    await by.execute(
        "select from trio_jobs.members where id = %s for update", member.session.member
    )
    await by.execute("update trio_jobs.jobs set fetches = 7 where id = %s", JOB.id)


def channel(member: Member) -> str:
    return f"trio_jobs_m{member.session.member}"


async def test_a_watch_that_waits_for_an_end_sees_it(a: Member, b: Member, owned: OwnedJob) -> None:
    end, watch = Batch(moves=[ended(owned)]), Batch(watches=[JOB.id])

    _, answer = await in_turn(a, a.round(end), b, b.round(watch))

    assert answer.over == [JOB.id]


async def test_an_end_that_waits_for_a_watch_is_recorded_and_told(
    a: Member, b: Member, owned: OwnedJob, listener: TrioConnection
) -> None:
    end, watch = Batch(moves=[ended(owned)]), Batch(watches=[JOB.id])

    watched, answer = await in_turn(b, b.round(watch), a, a.round(end))

    assert not watched.over
    assert not answer.fenced
    assert (await a.find(JOB.id)).outcome is Outcome.SUCCEEDED
    assert await notes(listener, a) == [(channel(b), f"d{JOB.id}")]


async def test_a_cancel_that_waits_for_an_end_comes_too_late(
    a: Member, b: Member, owned: OwnedJob, listener: TrioConnection
) -> None:
    end, cancel = Batch(moves=[ended(owned)]), Batch(cancels=[JOB.id])

    await in_turn(a, a.round(end), b, b.round(cancel))

    assert not (await a.find(JOB.id)).cancel_requested
    assert await notes(listener, a) == []


async def test_an_end_that_waits_for_a_cancel_is_recorded(
    a: Member, b: Member, owned: OwnedJob, listener: TrioConnection
) -> None:
    end, cancel = Batch(moves=[ended(owned)]), Batch(cancels=[JOB.id])

    _, answer = await in_turn(b, b.round(cancel), a, a.round(end))

    assert not answer.fenced
    job = await a.find(JOB.id)
    assert (job.outcome, job.cancel_requested) == (Outcome.SUCCEEDED, True)
    assert await notes(listener, a) == [(channel(a), f"c{JOB.id}")]


async def test_a_postponed_job_that_is_cancelled_meanwhile_is_due(
    a: Member, b: Member, owned: OwnedJob
) -> None:
    postponed, cancel = Batch(moves=[later(owned, seconds=1000)]), Batch(cancels=[JOB.id])

    await in_turn(b, b.round(cancel), a, a.round(postponed))

    assert ids(await b.fetch()) == [JOB.id]


async def test_a_sweep_that_waits_for_an_end_finds_nothing(
    a: Member, b: Member, owned: OwnedJob
) -> None:
    await b.age(member=a)

    _, swept = await in_turn(a, a.round(Batch(moves=[ended(owned)])), b, b.sweep())

    # The row of the member is locked: another sweep comes.
    assert swept == []
    assert await b.sweep() == [(a.session.member, "test", 0, 0)]
    assert (await b.find(JOB.id)).outcome is Outcome.SUCCEEDED


async def test_an_end_that_waits_for_a_sweep_is_fenced_off(
    a: Member, b: Member, owned: OwnedJob
) -> None:
    await b.age(member=a)

    swept, (answer, is_member) = await in_turn(
        b, b.sweep(), a, a.round_of(Batch(moves=[ended(owned)]))
    )

    assert swept == [(a.session.member, "test", 1, 0)]
    assert answer.fenced == [JOB.id]
    assert not is_member
    job = await b.find(JOB.id)
    assert (job.status, job.interruptions) == (JobStatus.PENDING, 1)


async def test_a_sweep_sees_what_a_round_fetches_at_the_same_time(a: Member, b: Member) -> None:
    await a.add(JOB)
    await b.age(member=a)

    await in_turn(a, a.fetch(), b, b.sweep())
    await b.sweep()

    assert ids(await b.fetch()) == [JOB.id]


async def test_a_member_that_was_swept_fetches_nothing(a: Member, b: Member) -> None:
    await a.add(JOB)
    await b.age(member=a)
    batch = Batch(new=[new(make_job(2), fetchable=True)], want=Want(2))

    _, (answer, is_member) = await in_turn(b, b.sweep(), a, a.round_of(batch))

    assert (answer.fetched, is_member) == ([], False)
    assert answer.taken == batch.new
    assert ids(await b.fetch(9)) == [JOB.id, id_of(2)]


async def test_an_end_counts_once_though_another_member_has_the_job_now(
    a: Member, b: Member, owned: OwnedJob
) -> None:
    await b.age(member=a)
    await b.sweep()
    [again] = await b.fetch()

    late, _ = await a.round_of(Batch(moves=[ended(owned)], begun=[]))
    early = await b.round(Batch(moves=[ended(again)]))

    assert late.fenced == [JOB.id]
    assert early.fenced == []
    assert again.fetches == 2


async def test_a_begin_of_a_job_that_another_member_has_had_is_fenced_off(
    a: Member, b: Member, owned: OwnedJob
) -> None:
    await b.age(member=a)

    _, (answer, _) = await in_turn(b, b.sweep(), a, a.round_of(Batch(begun=[begun(owned)])))

    assert answer.fenced == [JOB.id]


async def test_two_fetches_at_the_same_time_have_different_jobs(a: Member, b: Member) -> None:
    jobs = [make_job(number) for number in range(4)]
    await a.add(*jobs)

    first, second = await in_turn(a, a.fetch(2), b, b.fetch(4))

    assert ids(first) == [job.id for job in jobs[:2]]
    assert ids(second) == [job.id for job in jobs[2:]]


async def test_a_fetch_that_waits_has_what_was_written_meanwhile(a: Member, b: Member) -> None:
    """The statement has begun before: it sees the job as it was, and comes to it as it is."""
    await a.add(JOB, make_job(2))

    _, fetched = await in_turn(b, hold_and_write(a, b), a, a.fetch(2))

    assert [(owned.job.id, owned.fetches) for owned in fetched] == [(JOB.id, 8), (id_of(2), 1)]


async def test_one_of_two_quick_fetches_at_the_same_time_has_the_job(a: Member, b: Member) -> None:
    await a.add(JOB)

    first, second = await in_turn(a, a.fetch_quickly(JOB.id), b, b.fetch_quickly(JOB.id))

    assert ids(first) == [JOB.id]
    assert second == []


async def test_a_quick_fetch_that_waits_has_what_was_written_meanwhile(
    a: Member, b: Member
) -> None:
    await a.add(JOB)

    _, fetched = await in_turn(b, hold_and_write(a, b), a, a.fetch_quickly(JOB.id))

    assert [(owned.job.id, owned.fetches) for owned in fetched] == [(JOB.id, 8)]


async def test_a_quick_fetch_of_a_session_that_ends_meanwhile_has_nothing(
    a: Member, b: Member
) -> None:
    await a.add(JOB)
    begin = "update trio_jobs.members set session = session + 1 where id = %s"

    async def hold_and_begin() -> None:
        await b.execute("select from trio_jobs.members where id = %s for update", a.session.member)
        await b.execute(begin, a.session.member)

    _, fetched = await in_turn(b, hold_and_begin(), a, a.fetch_quickly(JOB.id))

    assert fetched == []


async def test_a_cancel_that_waits_for_a_fetch_is_told_to_who_fetches(
    a: Member, b: Member, listener: TrioConnection
) -> None:
    await a.add(JOB)
    await notes(listener, a)

    await in_turn(a, a.fetch(), b, b.round(Batch(cancels=[JOB.id])))

    assert await notes(listener, a) == [(channel(a), f"c{JOB.id}")]


@pytest.mark.parametrize("quickly", [False, True])
@pytest.mark.parametrize("batch", [Batch(cancels=[JOB.id]), Batch(watches=[JOB.id])])
async def test_a_job_that_a_fetch_passes_over_while_it_is_locked_is_told_anew(
    a: Member, b: Member, listener: TrioConnection, batch: Batch, quickly: bool
) -> None:
    await a.add(JOB)
    await notes(listener, a)
    fetch = a.fetch_quickly(JOB.id) if quickly else a.fetch()

    _, fetched = await in_turn(b, b.round(batch), a, fetch)

    assert fetched == []
    assert await notes(listener, a) == [("trio_jobs", JOB.id)]
    [owned] = await a.fetch()
    assert owned.job.cancel_requested is bool(batch.cancels)


async def test_a_job_beyond_the_limit_of_its_type_is_told_to_who_has_passed_it_over(
    a: Member, b: Member, listener: TrioConnection
) -> None:
    jobs = [make_job(number) for number in range(4)]
    await a.add(*jobs)
    await notes(listener, a)

    first, second = await in_turn(a, a.fetch(3, limits={"t": 1}), b, b.fetch(4))

    assert (ids(first), ids(second)) == ([jobs[0].id], [jobs[3].id])
    assert await notes(listener, a) == [("trio_jobs", jobs[1].id)]


async def test_of_two_submissions_with_a_key_at_the_same_time_one_is_in(
    a: Member, b: Member
) -> None:
    key = IdempotencyKey(text="k", digest=b"1")
    first, second = new(make_job(1, key=key)), new(make_job(2, key=key))
    third = new(make_job(3))

    one, other = await in_turn(
        a, a.round(Batch(new=[first])), b, b.round(Batch(new=[second, third]))
    )

    assert one.taken == [first]
    assert other.taken == [third]


async def test_a_key_in_a_users_open_transaction_holds_up_no_other_job(
    a: Member, b: Member
) -> None:
    used, free = (IdempotencyKey(text=text, digest=b"1") for text in ("used", "free"))
    await a.execute("begin")
    await a.execute("select trio_jobs.submit('t', key => 'used')")
    busy = new(make_job(1, key=used))
    others = [new(make_job(2, key=free)), new(make_job(3))]

    answer = await b.round(Batch(new=[busy, *others]))
    await a.execute("rollback")

    assert answer.busy == [busy]
    assert answer.taken == others
    assert (await b.round(Batch(new=[busy]))).taken == [busy]


async def test_a_job_that_is_committed_late_is_told_with_its_id(
    a: Member, b: Member, listener: TrioConnection
) -> None:
    await b.execute("begin")
    [(late,)] = await b.execute("select trio_jobs.submit('t')::text")
    a.low = "ffffffff-ffff-7fff-8fff-ffffffffffff"
    assert await notes(listener, a) == []

    await b.execute("commit")

    assert await notes(listener, a) == [("trio_jobs", f"n{late}")]
    assert await a.fetch() == []
    a.low = id_of(0)
    assert ids(await a.fetch()) == [late]


async def test_members_that_end_watch_and_cancel_each_others_jobs_do_not_deadlock(
    a: Member, b: Member
) -> None:
    jobs = [make_job(number) for number in range(40)]
    await a.add(*jobs)
    of_a, of_b = await a.fetch(20), await b.fetch(20)

    async def end_one_by_one(member: Member, owned: list[OwnedJob], others: list[OwnedJob]) -> None:
        for number, each in enumerate(owned):
            beyond = [other.job.id for other in others[number:]]
            rest = [begun(other) for other in owned[number + 1 :]]
            batch = Batch(moves=[ended(each)], begun=rest, watches=beyond, cancels=beyond)
            assert not (await member.round(batch)).fenced

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_one_by_one, a, of_a[::-1], of_b)
        nursery.start_soon(end_one_by_one, b, of_b, of_a[::-1])

    [(deadlocks,)] = await a.execute(
        "select deadlocks from pg_stat_database where datname = current_database()"
    )
    assert deadlocks == 0
