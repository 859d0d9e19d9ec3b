"""The statement of a round, against a server: what it records, fetches and takes in."""

from collections.abc import AsyncIterator

import pytest

from tests.postgres.fixtures import Database
from tests.stores.postgres.member import Member, begun, ended, joined, make_job, new, now
from trio_jobs.job import Ending, Extras, JobError, JobStatus, Left, Outcome
from trio_jobs.pool.want import Want
from trio_jobs.progress import Progress
from trio_jobs.stores.postgres.round import Batch


@pytest.fixture
async def a(database: Database) -> AsyncIterator[Member]:
    async with joined(database.url) as member:
        yield member


@pytest.fixture
async def b(database: Database) -> AsyncIterator[Member]:
    async with joined(database.url) as member:
        yield member


async def test_each_pending_job_is_fetched_once_and_the_oldest_first(a: Member, b: Member) -> None:
    jobs = [make_job(number) for number in range(5)]
    await a.add(*jobs)

    first, second = await a.fetch(2), await b.fetch(9)

    assert [held.job for held in first + second] == jobs
    assert {held.member for held in first} == {a.session.member}
    assert {held.claims for held in first} == {1}


async def test_what_is_submitted_is_fetched_in_the_same_round_behind_older_jobs(a: Member) -> None:
    await a.add(make_job(0))
    first, second, third = (make_job(number) for number in (1, 2, 3))
    batch = Batch(
        new=[new(first, fetchable=True), new(second, third, fetchable=True)], want=Want(3)
    )

    answer = await a.round(batch)

    assert [held.job.id for held in answer.fetched] == [make_job(0).id, first.id, second.id]
    assert answer.taken == batch.new
    assert [held.job for held in await a.fetch(9)] == [third]


async def test_an_end_is_recorded_with_all_that_the_job_is(a: Member) -> None:
    job = make_job(
        1,
        extras=Extras(submitted_by="alice", trace="00-1-1-00"),
        rerun_of=make_job(0).id,
    )
    await a.add(job)
    [held] = await a.fetch()
    progress = Progress(done=3, total=4.5, message="Käse\0", at=now())
    error = JobError(type="Boom", message="it\nbroke")
    ending = Ending(
        outcome=Outcome.FAILED, error=error, left=Left(progress=progress, lines=("1\0", "2\x1b"))
    )
    end = ended(held, ending)

    answer = await a.round(Batch(moves=[end]))

    assert not answer.fenced
    found = await a.find(job.id)
    assert found == end.held.job
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
    ],
    ids=range(8),
)
async def test_payloads_and_results_come_back_as_they_went_in(a: Member, text: bytes) -> None:
    job = make_job(1, payload=text)
    await a.add(job)

    [held] = await a.fetch()
    await a.round(Batch(moves=[ended(held, Ending(outcome=Outcome.SUCCEEDED, result=text))]))

    assert held.job == job
    found = await a.find(job.id)
    assert found.payload == text
    assert found.ending == Ending(outcome=Outcome.SUCCEEDED, result=text)


async def test_a_fetched_job_is_pending_until_its_begin_is_recorded(a: Member) -> None:
    await a.add(make_job(1))
    [held] = await a.fetch()

    assert (await a.find(held.job.id)) == held.job
    await a.round(Batch(begun=[begun(held)]))

    found = await a.find(held.job.id)
    assert (found.status, found.attempts) == (JobStatus.PROCESSING, 1)
    assert found.started_at is not None
