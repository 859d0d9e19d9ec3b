"""A member of a database that makes rounds one by one: a server without its pump and its pool."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import trio
from msgspec.structs import replace

from trio_jobs.job import Ending, Job, Later, Outcome
from trio_jobs.pool.want import Want
from trio_jobs.stores.postgres import quick_fetch, round_calls
from trio_jobs.stores.postgres.columns import SELECT_WHOLE, whole_job
from trio_jobs.stores.postgres.round import Batch, Moved, NewJobs, OwnedJob, RoundResult
from trio_jobs.stores.postgres.session import Session
from trio_jobs.stores.postgres.trio_connection import TrioConnection, connect
from trio_jobs.stores.transitions import claimed, completed, postponed

_First = TypeVar("_First")
_Second = TypeVar("_Second")

# Seconds of a lease that no test waits for, and beyond which a test would hang.
LONG = 600.0

SUCCEEDED = Ending(outcome=Outcome.SUCCEEDED, result=b"1")


@dataclass
class Member:
    """A member, and its connection.

    Attributes:
        connection: In autocommit.
        session: Of the member.
        low: Of its rounds.
    """

    connection: TrioConnection
    session: Session
    low: str = "00000000-0000-0000-0000-000000000000"

    async def execute(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """The rows of a statement, if it has some."""
        cursor = await self.connection.execute(sql.encode(), params)
        return [] if cursor.description is None else await cursor.fetchall()

    async def round(self, batch: Batch) -> RoundResult:
        """Make a round; the member is there."""
        answer, is_member = await self.round_of(batch)
        assert is_member
        return answer

    async def round_of(self, batch: Batch) -> tuple[RoundResult, bool]:
        """Make a round."""
        sql, params = round_calls.call(batch, self.session, self.low)
        cursor = await self.connection.execute(sql.encode(), params)
        return round_calls.result_of(await cursor.fetchall(), batch, self.session)

    async def fetch(self, number: int = 1, **want: Any) -> list[OwnedJob]:  # noqa: ANN401
        """Fetch jobs."""
        return list((await self.round(Batch(want=Want(number, **want)))).fetched)

    async def fetch_quickly(self, job_id: str, **want: Any) -> list[OwnedJob]:  # noqa: ANN401
        """Fetch one job as `quick_fetch` does."""
        batch = Batch(want=Want(1, **want))
        quick_fetch.send(self.connection, batch, self.session, job_id)
        return list((await quick_fetch.receive(self.connection, batch, self.session)).fetched)

    async def add(self, *jobs: Job) -> None:
        """Take jobs in, as pending ones."""
        answer = await self.round(Batch(new=[new(job) for job in jobs]))
        assert len(answer.taken) == len(jobs)

    async def is_blocked(self, by: "Member") -> bool:
        """Whether this member's statement, in another task, waits for what the other one locks."""
        [(blocked,)] = await by.execute(
            "select %s = any(pg_blocking_pids(%s))",
            by.connection.pgconn.backend_pid,
            self.connection.pgconn.backend_pid,
        )
        return bool(blocked)

    async def find(self, job_id: str) -> Job:
        """The job in the database."""
        [row] = await self.execute(f"{SELECT_WHOLE} where id = %s", job_id)
        return whole_job(row)

    async def age(self, seconds: float = 0.0, *, member: "Member | None" = None) -> None:
        """Let the lease of a member, of a second, end so many seconds ago."""
        await self.execute(
            "update trio_jobs.members set lease = 1, "
            "lease_until = clock_timestamp() - %s * interval '1 s' where id = %s",
            seconds,
            (member or self).session.member,
        )

    async def sweep(self, *, contact: float = 1.0) -> list[tuple[Any, ...]]:
        """Put the jobs of members back whose lease is over."""
        sql = "select * from trio_jobs.sweep(%s, %s)"
        return await self.execute(sql, self.session.member, contact)


async def in_turn(
    first: Member, do_first: Awaitable[_First], second: Member, do_second: Awaitable[_Second]
) -> tuple[_First, _Second]:
    """Two rounds at the same time; the second one meets what the first one has not committed yet.

    It either waits for the first one's commit, or goes on without.

    Returns:
        What each has returned.
    """
    results: list[_Second] = []

    async def go_second() -> None:
        results.append(await do_second)

    await first.execute("begin")
    found = await do_first
    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_second)
        while not results and not await second.is_blocked(by=first):
            await trio.lowlevel.checkpoint()
        await first.execute("commit")
    return found, results[0]


async def notes(listener: TrioConnection, teller: Member) -> list[tuple[str, str]]:
    """The notifications since the last call: channels and payloads."""
    await teller.execute("select pg_notify('end', '')")
    found: list[tuple[str, str]] = []
    while ("end", "") not in found:
        found += [(note.channel, note.payload) for note in await listener.notifies()]
    return found[:-1]


@asynccontextmanager
async def listening(url: str, *members: Member) -> AsyncIterator[TrioConnection]:
    """A connection that hears what all members do, and what each of these does."""
    async with await connect(url, name="listener") as connection:
        await connection.execute(b'listen "end"')
        await connection.execute(b"listen trio_jobs")
        for member in members:
            await connection.execute(f"listen trio_jobs_m{member.session.member}".encode())
        yield connection


@asynccontextmanager
async def joined(
    url: str,
    *,
    name: str = "test",
    handlers: dict[str, tuple[bool, int]] | None = None,
) -> AsyncIterator[Member]:
    """A member that has joined a database, for the length of a block."""
    rules = msgspec.json.encode({"default": (True, 3)} if handlers is None else handlers).decode()
    async with await connect(url, name=name) as connection:
        cursor = await connection.execute(
            b"select trio_jobs.join(%s, %s, %s::jsonb)", [name, LONG, rules]
        )
        row = await cursor.fetchone()
        assert row is not None
        await connection.execute(quick_fetch.PREPARE.encode())
        yield Member(connection, Session(row[0], 0))


def new(*jobs: Job, fetchable: bool = False) -> NewJobs:
    """A submission."""
    return NewJobs(jobs, [fetchable] * len(jobs), landed=_ignore, refused=_ignore)


def _ignore(_: object) -> None:
    pass


def make_job(number: int, **values: Any) -> Job:  # noqa: ANN401
    """A job whose id sorts by the number."""
    defaults = Job(id=id_of(number), type="t", payload=b'{"a":1}', created_at=now())
    return replace(defaults, **values)


def id_of(number: int) -> str:
    """The id of a job."""
    return f"01900000-0000-7000-8000-{number:012}"


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def begun(owned: OwnedJob) -> OwnedJob:
    """The job once its worker has claimed it."""
    return owned._replace(job=claimed(owned.job, now()))


def ended(owned: OwnedJob, ending: Ending = SUCCEEDED) -> Moved:
    """The end of a job, which its worker has claimed or claims now."""
    owned = owned if owned.job.started_at else begun(owned)
    return Moved(owned._replace(job=completed(owned.job, ending, now(), 0.25)))


def later(owned: OwnedJob, **values: Any) -> Moved:  # noqa: ANN401
    """Another attempt of a job."""
    owned = owned if owned.job.started_at else begun(owned)
    return Moved(owned._replace(job=postponed(owned.job, Later(**values), now())))


def ids(jobs: Sequence[OwnedJob]) -> list[str]:
    """The ids of fetched jobs."""
    return [owned.job.id for owned in jobs]
