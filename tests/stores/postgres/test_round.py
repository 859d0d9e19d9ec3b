"""The statement of a round, against a server: what it records, fetches and takes in."""

from datetime import timedelta

import psycopg
import pytest

from tests.stores.postgres.member import (
    Member,
    begun,
    ended,
    id_of,
    ids,
    later,
    make_job,
    new,
    notes,
    now,
)
from trio_jobs.job import (
    Ending,
    Extras,
    IdempotencyKey,
    JobError,
    JobStatus,
    Left,
    Outcome,
    Waiting,
)
from trio_jobs.pool.store import DuplicateJobError
from trio_jobs.pool.want import Want
from trio_jobs.progress import Progress
from trio_jobs.stores.postgres import round_calls
from trio_jobs.stores.postgres.round import Batch, Moved
from trio_jobs.stores.postgres.session import Session
from trio_jobs.stores.postgres.trio_connection import TrioConnection
from trio_jobs.timestamps import microseconds


async def test_each_pending_job_is_fetched_once_and_the_oldest_first(a: Member, b: Member) -> None:
    jobs = [make_job(number) for number in range(5)]
    await a.add(*jobs)

    first, second = await a.fetch(2), await b.fetch(9)

    assert [owned.job for owned in first + second] == jobs
    assert {owned.member for owned in first} == {a.session.member}
    assert {owned.fetches for owned in first} == {1}


async def test_what_is_submitted_is_fetched_in_the_same_round_behind_older_jobs(a: Member) -> None:
    await a.add(make_job(0))
    first, second, third = (make_job(number) for number in (1, 2, 3))
    batch = Batch(
        new=[new(first, fetchable=True), new(second, third, fetchable=True)], want=Want(3)
    )

    answer = await a.round(batch)

    assert [owned.job.id for owned in answer.fetched] == [make_job(0).id, first.id, second.id]
    assert answer.taken == batch.new
    assert [owned.job for owned in await a.fetch(9)] == [third]


async def test_repeated_round_says_again_which_of_its_submissions_it_has_fetched(
    a: Member,
) -> None:
    first, second = new(make_job(1), fetchable=True), new(make_job(2), fetchable=True)
    await a.round(Batch(new=[first, second], want=Want(1)))

    answer = await a.round(Batch(new=[first, second]))

    assert answer.taken == [first, second]
    assert [(owned.job.id, owned.fetches) for owned in answer.fetched] == [(make_job(1).id, 1)]


async def test_an_end_is_recorded_with_all_that_the_job_is(a: Member) -> None:
    job = make_job(
        1,
        extras=Extras(submitted_by="alice", trace="00-1-1-00"),
        rerun_of=make_job(0).id,
    )
    await a.add(job)
    [owned] = await a.fetch()
    progress = Progress(done=3, total=4.5, message="Käse\0", at=now())
    error = JobError(type="Boom", message="it\nbroke")
    ending = Ending(
        outcome=Outcome.FAILED, error=error, left=Left(progress=progress, lines=("1\0", "2\x1b"))
    )
    end = ended(owned, ending)

    answer = await a.round(Batch(moves=[end]))

    assert not answer.fenced
    found = await a.find(job.id)
    assert found == end.owned.job
    assert found.progress == progress
    assert found.lines == ("1\0", "2\x1b")
    assert found.attempts == 1


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b" null ",
        b'{"a": 1, "a" :2}',
        b'"\\u0000\\ud83d\\ude00 \\/"',
        b"123456789012345678901234567890.10e400",
        b'"K\xc3\xa4se \xf0\x9f\xa7\x80"',
        b"[" * 64 + b"]" * 64,
        b'"' + b"x" * 3_000_000 + b'"',
        b'"' + b'\\"{},\\\\' * 50_000 + b'"',
    ],
    ids=range(9),
)
async def test_payloads_and_results_come_back_as_they_went_in(a: Member, text: bytes) -> None:
    job = make_job(1, payload=text)
    await a.add(job)

    [owned] = await a.fetch()
    await a.round(Batch(moves=[ended(owned, Ending(outcome=Outcome.SUCCEEDED, result=text))]))

    assert owned.job == job
    found = await a.find(job.id)
    assert found.payload == text
    assert found.ending == Ending(outcome=Outcome.SUCCEEDED, result=text)


async def test_a_fetched_job_is_pending_until_its_begin_is_recorded(a: Member) -> None:
    await a.add(make_job(1))
    [owned] = await a.fetch()

    assert (await a.find(owned.job.id)) == owned.job
    await a.round(Batch(begun=[begun(owned)]))

    found = await a.find(owned.job.id)
    assert (found.status, found.attempts) == (JobStatus.PROCESSING, 1)
    assert found.started_at is not None


async def test_a_postponed_job_waits_for_its_time_and_then_goes_first(a: Member) -> None:
    await a.add(make_job(1), make_job(2))
    [owned] = await a.fetch()
    error = JobError(type="Boom", message="once more")

    await a.round(Batch(moves=[later(owned, seconds=1000, error=error)]))
    found = await a.find(owned.job.id)
    before = await a.fetch()
    await a.execute("select trio_jobs.make_due(%s)", owned.job.id)
    await a.add(make_job(3))

    assert found.run_at is not None
    assert (found.status, found.attempts, found.last_error) == (JobStatus.PENDING, 1, error)
    assert ids(before) == [id_of(2)]
    first, second = await a.fetch(9)
    assert (first.job.id, second.job.id) == (id_of(1), id_of(3))
    assert (first.fetches, first.job.attempts, first.job.last_error) == (2, 1, error)
    assert first.job.waiting is Waiting.RETRYING


async def test_a_snooze_and_a_job_that_is_given_back_cost_no_attempt(a: Member) -> None:
    await a.add(make_job(1), make_job(2))
    snoozed, unwanted = await a.fetch(2)

    await a.round(Batch(moves=[later(snoozed, seconds=0, snooze=True), Moved(unwanted)]))

    first, second = await a.fetch(2)
    assert (first.job.id, first.job.snoozes, first.job.attempts, first.fetches) == (
        id_of(1),
        1,
        0,
        2,
    )
    assert second == unwanted._replace(fetches=2)


async def test_what_is_said_of_an_earlier_fetch_of_the_same_member_has_no_effect(a: Member) -> None:
    await a.add(make_job(1))
    [first] = await a.fetch()
    await a.round(Batch(moves=[Moved(first)]))
    [second] = await a.fetch()

    late_begin = await a.round(Batch(begun=[begun(first)]))
    late_end = await a.round(Batch(moves=[ended(first)]))
    found = await a.find(id_of(1))
    end = await a.round(Batch(moves=[ended(second)]))

    assert late_begin.fenced == late_end.fenced == [id_of(1)]
    assert (found.status, found.started_at) == (JobStatus.PENDING, None)
    assert end.fenced == []


async def test_what_a_round_writes_is_written_once_if_the_round_is_repeated(
    a: Member, listener: TrioConnection
) -> None:
    await a.add(*map(make_job, range(4)))
    end, postponed, unwanted, running = await a.fetch(4)
    key = IdempotencyKey(text="k", digest=b"1")
    batch = Batch(
        moves=[ended(end), later(postponed, seconds=1000), Moved(unwanted)],
        begun=[begun(running)],
        new=[new(make_job(10), make_job(11)), new(make_job(12, key=key))],
        cancels=[running.job.id],
        watches=[running.job.id],
        count_to=100,
    )

    first = await a.round(batch)
    await notes(listener, a)
    second = await a.round(batch)

    assert first == second
    assert first.fenced == []
    assert first.taken == batch.new
    assert first.unfinished == 6
    assert await notes(listener, a) == []


async def test_a_round_of_an_earlier_session_has_no_effect(a: Member) -> None:
    await a.execute("update trio_jobs.members set session = session + 1")

    with pytest.raises(psycopg.Error, match="another session of member") as caught:
        await a.round(Batch(new=[new(make_job(1))]))

    assert caught.value.sqlstate == "TJ001"
    assert await a.execute("select from trio_jobs.jobs") == []


async def test_a_job_has_at_most_one_of_two_submissions_with_its_key(a: Member) -> None:
    key = IdempotencyKey(text="k", digest=b"1")
    first, second, other = (new(make_job(1, key=key)), new(make_job(2, key=key)), new(make_job(3)))

    answer = await a.round(Batch(new=[first, second, other]))

    assert answer.taken == [first, other]
    assert not answer.busy


async def test_a_fetch_leaves_types_that_it_does_not_want(a: Member) -> None:
    types = ["mail", 'a "type", in {quotes}\\', "slow", "other"]
    jobs = [make_job(number, type=type_) for number, type_ in enumerate(types)]
    await a.add(*jobs)

    fetched = await a.fetch(9, types=types[:3], without=["slow"])
    rest = await a.fetch(9)

    assert ids(fetched) == [jobs[0].id, jobs[1].id]
    assert ids(rest) == [jobs[2].id, jobs[3].id]


async def test_a_fetch_takes_only_what_it_wants(a: Member) -> None:
    types = ["mail", "big", "big", "mail", "slow", "other", "big"]
    jobs = [make_job(number, type=type_) for number, type_ in enumerate(types)]
    await a.add(*jobs)
    want = {"types": ["mail", "big", "slow"], "without": ["slow"], "limits": {"big": 1}}

    fetched = await a.fetch(9, **want)
    again = await a.fetch(1, **want)

    assert ids(fetched) == [jobs[0].id, jobs[1].id, jobs[3].id]
    assert ids(again) == [jobs[2].id]


async def test_a_limit_counts_what_is_submitted_in_the_same_round(a: Member) -> None:
    await a.add(make_job(1))
    batch = Batch(
        new=[new(make_job(2, type="u"), make_job(3), make_job(4), fetchable=True)],
        want=Want(9, limits={"t": 2}),
    )

    answer = await a.round(batch)

    assert sorted(ids(answer.fetched)) == [id_of(1), id_of(2), id_of(3)]


@pytest.mark.parametrize("limits", [{"t": 1}, {}])
async def test_a_cancelled_job_is_fetched_whatever_is_wanted(
    a: Member, limits: dict[str, int]
) -> None:
    await a.add(*map(make_job, range(3)))
    await a.execute("update trio_jobs.jobs set interruptions = 1 where id = %s", id_of(1))
    await a.execute("select trio_jobs.request_cancel(id) from trio_jobs.jobs")

    fetched = await a.fetch(9, types=["u"], without=["t"], limits=limits, suspect=False)

    assert ids(fetched) == list(map(id_of, range(3)))
    assert all(owned.job.cancel_requested for owned in fetched)


async def test_one_job_at_a_time_that_was_in_a_crash(a: Member) -> None:
    await a.add(*map(make_job, range(5)))
    await a.execute(
        "update trio_jobs.jobs set interruptions = 1 where id = any(%s)", [id_of(1), id_of(3)]
    )

    none = await a.fetch(2, suspect=False)
    one = await a.fetch(9)
    other = await a.fetch(9)

    assert ids(none) == [id_of(0), id_of(2)]
    assert ids(one) == [id_of(1), id_of(4)]
    assert ids(other) == [id_of(3)]


async def test_a_quick_fetch_has_its_one_job_as_a_round_has_it(a: Member) -> None:
    extras = Extras.of(submitted_by="shop", trace="00-0123456789abcdef0123456789abcdef-01")
    key = IdempotencyKey(text="key", digest=b"digest")
    payload = b'"\\u0000\\ud83d\\ude00 \\/"'
    job = make_job(2, type='a "type", in {quotes}\\', payload=payload, key=key, extras=extras)
    await a.add(make_job(1), job, make_job(3))
    await a.execute(
        "update trio_jobs.jobs set fetches = 7, attempts = 5, snoozes = 2, error_type = 'Boom', "
        "error_message = 'no', cancel_requested = true, rerun_of = %s, rerun_as = %s, "
        """progress = '{"done": 1, "at": "2026-01-01T00:00:00Z"}', lines = '["a"]' where id = %s""",
        id_of(8),
        id_of(9),
        job.id,
    )

    await a.execute("begin")
    quickly = await a.fetch_quickly(job.id)
    await a.execute("rollback")
    _, by_a_round, _ = await a.fetch(3)

    assert quickly == [by_a_round]
    assert await a.fetch_quickly(job.id) == []


@pytest.mark.parametrize(
    ("want", "is_wanted"),
    [
        ({}, True),
        ({"types": ["u", 'a "type", in {quotes}\\']}, True),
        ({"types": ["u"]}, False),
        ({"types": []}, False),
        ({"without": ["u"]}, True),
        ({"without": ["u", 'a "type", in {quotes}\\']}, False),
    ],
)
async def test_a_quick_fetch_leaves_types_that_it_does_not_want(
    a: Member, want: dict[str, list[str]], is_wanted: bool
) -> None:
    job = make_job(1, type='a "type", in {quotes}\\')
    await a.add(job)

    assert ids(await a.fetch_quickly(job.id, **want)) == ([job.id] if is_wanted else [])


@pytest.mark.parametrize(
    "change",
    ["interruptions = 1", "run_at = now()", "completed_at = now(), outcome = 'cancelled'"],
)
async def test_a_quick_fetch_leaves_a_job_that_is_not_new(a: Member, change: str) -> None:
    await a.add(make_job(1))
    await a.execute(f"update trio_jobs.jobs set {change}")  # noqa: S608

    assert await a.fetch_quickly(id_of(1)) == []
    assert await a.execute("select fetches from trio_jobs.jobs") == [(0,)]


@pytest.mark.parametrize(
    "sql", ["update trio_jobs.members set session = 1", "delete from trio_jobs.members"]
)
async def test_a_quick_fetch_of_an_earlier_session_has_nothing(a: Member, sql: str) -> None:
    await a.add(make_job(1))
    await a.execute(sql)

    assert await a.fetch_quickly(id_of(1)) == []


async def test_a_job_that_waits_for_a_time_is_told_with_it_if_no_other_is_earlier(
    a: Member, listener: TrioConnection
) -> None:
    at = [now() + timedelta(seconds=seconds) for seconds in (300, 200, 250)]

    for number, run_at in enumerate(at):
        await a.add(make_job(number, run_at=run_at))

    assert await notes(listener, a) == [
        ("trio_jobs", f"w{microseconds(at[0])}"),
        ("trio_jobs", f"w{microseconds(at[1])}"),
    ]
    assert await a.fetch(9) == []
    [(pending, next_time)] = await a.execute(
        "select pending, next_time from trio_jobs.beat(%s, 1000)", a.session.member
    )
    assert (pending, next_time) == (False, microseconds(at[1]))


async def test_unfinished_jobs_are_counted_up_to_a_number(a: Member) -> None:
    await a.add(*map(make_job, range(4)), make_job(4, run_at=now() + timedelta(seconds=1000)))
    [owned] = await a.fetch()

    counts = [
        (await a.round(Batch(moves=moves, count_to=count_to))).unfinished
        for moves, count_to in (([], 9), ([ended(owned)], 9), ([], 3), ([], 0))
    ]

    assert counts == [5, 4, 3, None]


async def test_a_job_that_several_servers_watch_is_told_to_all(
    a: Member, b: Member, listener: TrioConnection
) -> None:
    await a.add(make_job(1), make_job(2))
    first, second = await a.fetch(2)

    await b.round(Batch(watches=[id_of(1)]))
    await a.round(Batch(watches=[id_of(1), id_of(2)]))
    await notes(listener, a)
    await a.round(Batch(moves=[ended(first), ended(second)]))

    assert await notes(listener, a) == [("trio_jobs", f"d{id_of(1)}")]


async def test_who_has_lost_its_lease_tells_and_hears_of_ends_all_the_same(
    a: Member, b: Member, listener: TrioConnection
) -> None:
    await a.add(make_job(1))
    [owned] = await a.fetch()
    a.session = b.session = Session(0, 0)

    await b.round_of(Batch(watches=[id_of(1)]))
    await notes(listener, a)
    answer, _ = await a.round_of(Batch(moves=[ended(owned)], want=Want(1)))

    assert not answer.fenced
    assert await notes(listener, a) == [("trio_jobs", f"d{id_of(1)}")]


async def test_jobs_that_belong_together_come_in_together(a: Member) -> None:
    keys = [IdempotencyKey(text=text, digest=b"1") for text in "abc"]
    await a.add(make_job(1, key=keys[1]))
    known = new(make_job(2, key=keys[0]), make_job(3, key=keys[1]))
    unknown = new(make_job(4, key=keys[0]), make_job(5, key=keys[2]))

    refused = await round_calls.add_group(a.connection, known, a.session)
    first = await round_calls.add_group(a.connection, unknown, a.session)
    repeated = await round_calls.add_group(a.connection, unknown, a.session)

    assert isinstance(refused, DuplicateJobError)
    assert (first, repeated) == (None, None)
    assert ids(await a.fetch(9)) == [id_of(1), id_of(4), id_of(5)]


async def test_a_job_is_re_run_once(a: Member) -> None:
    await a.add(make_job(1), make_job(2))
    failed, succeeded = await a.fetch(2)
    error = JobError(type="Boom", message="")
    failure = Ending(outcome=Outcome.FAILED, error=error)
    await a.round(Batch(moves=[ended(failed, failure), ended(succeeded)]))
    reruns = [
        new(make_job(10, rerun_of=id_of(1))),
        new(make_job(11, rerun_of=id_of(1))),
        new(make_job(12, rerun_of=id_of(2))),
        new(make_job(13), make_job(14, rerun_of=id_of(9))),
    ]

    refused = [await round_calls.add_group(a.connection, each, a.session) for each in reruns]

    assert [str(each) for each in refused] == [
        "None",
        f"job {id_of(1)!r} was re-run already, as {id_of(10)!r}",
        f"job {id_of(2)!r} has succeeded; it can not be re-run",
        f"no job {id_of(9)!r}",
    ]
    assert (await a.find(id_of(1))).rerun_as == id_of(10)
    assert [owned.job for owned in await a.fetch(9)] == [reruns[0].jobs[0]]


async def test_what_a_member_has_is_found_again(a: Member, b: Member) -> None:
    await a.add(*map(make_job, range(3)))
    owned = await a.fetch(2)
    await b.fetch()

    cursor = await a.connection.execute(round_calls.OWNED.encode(), {"member": a.session.member})

    assert round_calls.owned_jobs(await cursor.fetchall()) == owned
