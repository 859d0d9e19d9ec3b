"""What clients ask of the jobs in a database: what is held here lies over it; the row decides."""

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from tests.postgres.databases import Database
from tests.postgres.rows import Row, insert
from tests.support import NOON, SUCCEEDED, noon
from trio_jobs import InvalidTransitionError, Job, JobNotFoundError, JobStatus, Outcome
from trio_jobs.pool.job_query import JobQuery, Order
from trio_jobs.pool.refusals import StoreTimeoutError, StoreUnavailableError, StoreWriteError
from trio_jobs.stores.postgres.readers import Readers
from trio_jobs.stores.postgres.trio_connection import TrioConnection, connect
from trio_jobs.stores.shared_reads import SharedReads
from trio_jobs.stores.transitions import cancel_requested

A, B, C = (f"01a22956-d6e1-750f-a5eb-00000000000{digit}" for digit in "abc")


class Requests:
    """Carries requests out at once, on a connection of its own.

    Attributes:
        before: Called before each.
        after: Called after each.
    """

    def __init__(self, connection: TrioConnection) -> None:
        self.connection = connection
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None

    async def request(self, sql: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        self.before()
        cursor = await self.connection.execute(sql, params)
        rows = await cursor.fetchall()
        self.after()
        return rows


class Reads(SharedReads):
    """The methods of one server that holds these jobs."""

    hangs = False

    def __init__(self, readers: Readers, requests: Requests) -> None:
        self.timeout = 60.0
        self.owned: dict[str, Job] = {}
        self.settles: Callable[[], object] = lambda: None
        self._readers = readers
        self._pump = requests
        self._now: Callable[[], datetime] = noon

    def _owned_job(self, job_id: str) -> Job | None:
        return self.owned.get(job_id)

    def _cancel_owned(self, job_id: str) -> Job:
        self.owned[job_id] = job = cancel_requested(self.owned[job_id], NOON)
        return job

    async def settled(self) -> None:
        await trio.lowlevel.checkpoint()
        self.settles()


@pytest.fixture
async def readers(database: Database) -> AsyncIterator[Readers]:
    readers = Readers(partial(connect, database.url, name="test"), timeout=60)
    yield readers
    readers.close()


@pytest.fixture
async def requests(database: Database) -> AsyncIterator[Requests]:
    async with await connect(database.url, name="test") as connection:
        yield Requests(connection)


@pytest.fixture
def reads(readers: Readers, requests: Requests) -> Reads:
    return Reads(readers, requests)


def row(job_id: str, **columns: object) -> Row:
    return {"id": job_id, "type": "email", "created_at": NOON, **columns}


def ended(job_id: str, **columns: object) -> Row:
    times = {"started_at": NOON, "completed_at": NOON}
    return row(job_id, attempts=1, outcome="succeeded", **times, **columns)


LATER = datetime.max.replace(tzinfo=NOON.tzinfo)


# Look-ups.


async def test_held_job_is_shown_as_it_is_here(reads: Reads, database: Database) -> None:
    await insert(database, [row(A), row(B, owner=7)])
    [read] = await reads.find_many([A])
    begun = reads.owned[A] = replace(read, status=JobStatus.PROCESSING, attempts=1, started_at=NOON)

    assert await reads.find(A) == reads.shown_nowait(A) == begun
    assert [job.status for job in await reads.page(limit=5)] == ["processing", "pending"]
    _, unfinished = await reads.count(JobQuery())
    assert [job.status for job in unfinished] == ["pending", "pending"]
    assert [job.status for job in reads.now_of(unfinished)] == ["processing", "pending"]
    with pytest.raises(JobNotFoundError, match=f"no unfinished job '{B}' here"):
        reads.shown_nowait(B)


async def test_job_that_has_completed_in_the_database_is_shown_so(
    reads: Reads, database: Database
) -> None:
    await insert(database, [ended(A, key="k")])
    [completed] = await reads.find_many([A])
    reads.owned[A] = replace(completed, status=JobStatus.PROCESSING, ending=None, completed_at=None)

    assert [job.outcome for job in await reads.page(limit=5)] == [Outcome.SUCCEEDED]
    assert (await reads.find_keys(["k"]))["k"] == completed


@pytest.mark.parametrize("job_id", [A, "a", "", A.upper(), A.replace("-", ""), "\0", "\ud800"])
async def test_job_that_is_not_there_is_not_found(reads: Reads, job_id: str) -> None:
    assert await reads.find_many([job_id]) == []
    for ask in (
        reads.find(job_id),
        reads.request_cancel(job_id),
        reads.make_due(job_id, noted=print),
        reads.delete(job_id),
    ):
        with pytest.raises(JobNotFoundError) as caught:
            await ask
        assert str(caught.value) == f"no job {job_id!r}"


async def test_many_jobs_are_found_in_the_order_asked_for(reads: Reads, database: Database) -> None:
    await insert(database, [row(A), ended(C, result="[1]")])
    [reads.owned[B]] = [replace((await reads.find(A)), id=B)]

    found = await reads.find_many([C, "none", B, A])

    assert [job.id for job in found] == [C, B, A]
    assert found[0].ending == replace(SUCCEEDED, result=b"[1]")


async def test_job_that_leaves_this_server_while_others_are_read_is_found(
    reads: Reads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await insert(database, [row(A), ended(B)])
    reads.owned[B] = replace(await reads.find(A), id=B)
    fetch = reads._readers.fetch

    async def fetch_and_lose(sql: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        rows = await fetch(sql, params)
        reads.owned.clear()
        return rows

    monkeypatch.setattr(reads._readers, "fetch", fetch_and_lose)

    assert [job.id for job in await reads.find_many([A, B])] == [A, B]


async def test_text_that_no_database_can_have_is_the_key_of_no_job(reads: Reads) -> None:
    assert await reads.find_keys(["a\0", "\ud800"]) == {}


async def test_job_submitted_by_sql_has_a_key_that_no_other_submission_has(
    reads: Reads, database: Database
) -> None:
    [(job_id,)] = await database.fetch("select trio_jobs.submit('email', '[1]', 'k')::text")

    job = (await reads.find_keys(["k"]))["k"]

    assert (job.id, job.payload) == (job_id, b"[1]")
    assert job.key is not None
    assert (job.key.text, job.key.digest) == ("k", b"")


async def test_database_that_cannot_be_reached_is_unavailable(requests: Requests) -> None:
    async def refuse() -> TrioConnection:
        return await connect("postgresql://localhost:1/none", name="test")

    reads = Reads(Readers(refuse, timeout=0.01), requests)

    with pytest.raises(StoreUnavailableError):
        await reads.find(A)


# Cancels.


async def told(connection: TrioConnection) -> list[tuple[str, str]]:
    """What a listener was told."""
    with trio.fail_after(60):
        return [(each.channel, each.payload) for each in await connection.notifies()]


async def test_cancel_of_a_job_of_another_server_is_in_its_row_and_tells_that_server(
    reads: Reads, database: Database
) -> None:
    await insert(database, [row(A, owner=7), row(B, run_at=LATER)])
    noted: list[str] = []
    async with await connect(database.url, name="test") as listener:
        await listener.execute("listen trio_jobs_m7")
        await listener.execute("listen trio_jobs")

        job = await reads.request_cancel(A, noted=noted.append)
        assert job.cancel_requested
        assert await told(listener) == [("trio_jobs_m7", f"c{A}")]
        delayed = await reads.request_cancel(B, noted=noted.append)
        assert delayed.run_at is not None
        assert delayed.run_at < LATER
        assert await told(listener) == [("trio_jobs", B)]

    assert noted == []
    assert [job.cancel_requested for job in await reads.page(limit=5)] == [True, True]
    assert await reads.request_cancel(A) == job


async def test_cancel_of_a_job_that_is_held_takes_effect_at_once(
    reads: Reads, requests: Requests, database: Database
) -> None:
    await insert(database, [row(A, owner=7)])
    reads.owned[A] = await reads.find(A)
    noted: list[str] = []
    seen: list[bool] = []
    requests.before = lambda: seen.append(bool(noted) and reads.owned[A].cancel_requested)

    job = await reads.request_cancel(A, noted=noted.append)

    assert (job, seen) == (reads.owned[A], [True])
    reads.owned.clear()
    assert (await reads.find(A)).cancel_requested


async def test_cancel_reaches_a_job_that_this_server_fetches_meanwhile(
    reads: Reads, requests: Requests, database: Database
) -> None:
    await insert(database, [row(A)])
    job = await reads.find(A)
    requests.after = partial(reads.owned.__setitem__, A, job)
    noted: list[str] = []

    assert (await reads.request_cancel(A, noted=noted.append)).cancel_requested

    assert noted == [A]


async def test_cancel_of_a_job_that_has_completed_is_refused(
    reads: Reads, database: Database
) -> None:
    await insert(database, [ended(A)])

    with pytest.raises(InvalidTransitionError, match="is completed; it can not be cancelled"):
        await reads.request_cancel(A)


async def test_cancel_holds_for_this_server_if_the_database_refuses_to_write(
    reads: Reads, requests: Requests, database: Database
) -> None:
    await insert(database, [row(A, owner=7), row(B)])
    reads.owned[A] = await reads.find(A)

    def refuse() -> None:
        raise StoreWriteError("the disk is full")

    requests.before = refuse
    with pytest.raises(StoreWriteError) as held:
        await reads.request_cancel(A)
    with pytest.raises(StoreWriteError) as unheld:
        await reads.request_cancel(B)

    assert (held.value.holds, unheld.value.holds) == (True, False)
    assert reads.owned[A].cancel_requested
    assert not (await reads.find(B)).cancel_requested


async def test_change_that_the_database_has_made_is_not_denied(
    reads: Reads, requests: Requests, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await insert(database, [row(A)])

    async def fail(*_: object) -> list[tuple[Any, ...]]:
        raise StoreUnavailableError

    requests.after = partial(monkeypatch.setattr, reads._readers, "fetch", fail)
    with pytest.raises(StoreTimeoutError):
        await reads.request_cancel(A)

    [(flag,)] = await database.fetch("select cancel_requested from trio_jobs.jobs")
    assert flag


# Times and deletions.


async def test_job_that_waits_is_made_due_and_all_servers_are_told(
    reads: Reads, database: Database
) -> None:
    await insert(database, [row(A, run_at=LATER)])
    noted: list[str] = []
    async with await connect(database.url, name="test") as listener:
        await listener.execute("listen trio_jobs")

        job = await reads.make_due(A, noted=noted.append)

        assert await told(listener) == [("trio_jobs", A)]
    assert job.run_at is not None
    assert job.run_at < LATER
    assert noted == [A]
    assert (await reads.make_due(A, noted=noted.append)).run_at == job.run_at


@pytest.mark.parametrize("where", ["owner", "started_at", "completed_at"])
async def test_job_that_waits_for_no_time_is_not_made_due(
    reads: Reads, database: Database, where: str
) -> None:
    some_row = {"owner": row(A, owner=7), "started_at": row(A, owner=7, started_at=NOON)}
    await insert(database, [some_row.get(where) or ended(A)])

    with pytest.raises(InvalidTransitionError, match="waits for no time"):
        await reads.make_due(A, noted=print)


async def test_job_that_is_held_and_due_is_left_alone(reads: Reads, database: Database) -> None:
    await insert(database, [row(A)])
    reads.owned[A] = replace(await reads.find(A), run_at=NOON)

    assert await reads.make_due(A, noted=print) == reads.owned[A]


async def test_job_that_was_just_postponed_is_made_due_once_the_database_has_it(
    reads: Reads, database: Database
) -> None:
    await insert(database, [row(A, run_at=LATER)])
    reads.owned[A] = await reads.find(A)
    reads.settles = reads.owned.clear

    job = await reads.make_due(A, noted=lambda _: None)

    assert job.run_at is not None
    assert job.run_at < LATER


async def test_completed_job_can_be_deleted_and_no_other(reads: Reads, database: Database) -> None:
    await insert(database, [ended(A), row(B)])

    await reads.delete(A)

    with pytest.raises(JobNotFoundError):
        await reads.find(A)
    with pytest.raises(JobNotFoundError):
        await reads.delete(A)
    with pytest.raises(InvalidTransitionError, match="is pending; only a completed job"):
        await reads.delete(B)


# The database is away.


async def test_request_is_refused_while_the_database_hangs(
    reads: Reads, database: Database
) -> None:
    await insert(database, [ended(A)])
    reads.hangs = True

    with pytest.raises(StoreUnavailableError):
        await reads.delete(A)


async def test_request_without_an_answer_in_time_is_in_doubt(
    reads: Reads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await insert(database, [ended(A)])

    async def never(*_: object) -> list[tuple[Any, ...]]:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(reads._pump, "request", never)
    reads.timeout = 0.01

    with pytest.raises(StoreTimeoutError):
        await reads.delete(A)


async def test_delete_whose_answer_was_lost_is_done(
    reads: Reads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await insert(database, [ended(A)])
    request = reads._pump.request

    async def twice(sql: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        await request(sql, params)
        return await request(sql, params)

    monkeypatch.setattr(reads._pump, "request", twice)

    await reads.delete(A)

    with pytest.raises(JobNotFoundError):
        await reads.find(A)


async def test_list_by_ends_is_that_of_the_database(reads: Reads, database: Database) -> None:
    await insert(database, [row(A), ended(B) | {"outcome": "failed"}])

    assert [job.id for job in await reads.page(JobQuery(order=Order.ENDED), limit=5)] == [B]
