"""The pump with a real database: what a round says counts once, whatever happens on its way."""

import select
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest
import trio
from _pytest.mark import ParameterSet
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from tests.postgres.databases import Database, fetch
from tests.postgres.proxy import Proxy, When
from tests.proof.share import swept
from tests.stores.postgres.member import Member, ended, joined, make_job
from trio_jobs.job import Job
from trio_jobs.pool.refusals import AnswerLostError, StoreUnavailableError, StoreWriteError
from trio_jobs.pool.store import InvalidTransitionError
from trio_jobs.pool.want import Want
from trio_jobs.stores.postgres.membership import Membership
from trio_jobs.stores.postgres.pump import Pump
from trio_jobs.stores.postgres.round import Batch, NewJobs, OwnedJob, RoundResult
from trio_jobs.stores.postgres.trio_connection import TrioConnection, connect

# Guards against hanging only.
LONG = 60.0

COUNT = "select count(*) from trio_jobs.jobs"
ALTER = "alter table trio_jobs.jobs alter snoozes type"


class Source:
    """A store that gives out the batches of a test, and remembers what has come of them."""

    def __init__(self) -> None:
        self.batches: deque[Batch] = deque()
        self.landings: list[tuple[Batch, RoundResult]] = []
        self.refusals: list[tuple[Batch, Exception | None]] = []
        self.jobs: dict[str, OwnedJob] = {}
        self.may_fetch: list[bool] = []
        self.changed = trio.Event()

    def take(self, *, may_fetch: bool) -> Batch | None:
        self.may_fetch.append(may_fetch)
        return self.batches.popleft() if self.batches else None

    def landed(self, batch: Batch, answer: RoundResult) -> None:
        self.landings.append((batch, answer))
        for move in batch.moves:
            self.jobs.pop(move.owned.job.id, None)
        for each in answer.fetched:
            assert each.job.id not in self.jobs  # nothing is fetched twice
            self.jobs[each.job.id] = each
        self._tell()

    def put_back(self, batch: Batch, error: Exception | None) -> None:
        self.refusals.append((batch, error))
        kept = batch if error is None else batch._replace(new=())
        if kept != Batch():
            self.batches.appendleft(kept)
        self._tell()

    def owned(self, member: int) -> set[tuple[str, int]]:
        owned = [each for each in self.jobs.values() if each.member == member]
        return {(each.job.id, each.fetches) for each in owned}

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class Server:
    """A pump, its source and its membership, without the rest of a server."""

    def __init__(self, url: str, member: int) -> None:
        self.source = Source()
        self.lost: list[int] = []
        self.failures: deque[str] = deque()  # of the next attempts to connect
        self.membership = Membership(self.lost.append)
        self.membership.joined(member, trio.current_time() + 3_600)
        self.member = member
        self._url = url
        self.pump = Pump(self.connect, self.source, self.membership, timeout=LONG)

    async def connect(self) -> TrioConnection:
        if self.failures:
            raise psycopg.OperationalError(self.failures.popleft())
        self.connection = await connect(self._url, name="pump")
        return self.connection

    def add(self, batch: Batch) -> None:
        self.source.batches.append(batch)
        self.pump.wake()

    async def wait(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(LONG):
            while not condition():
                await self.source.changed.wait()

    async def land(self, batch: Batch) -> RoundResult:
        """Let the pump make a round, and wait for it."""
        before = len(self.source.landings)
        self.add(batch)
        await self.wait(lambda: len(self.source.landings) > before)
        return self.source.landings[-1][1]


@asynccontextmanager
async def serving(database: Database, url: str | None = None) -> AsyncIterator[Server]:
    async with joined(database.url) as member, trio.open_nursery() as nursery:
        server = Server(url or database.url, member.session.member)
        await nursery.start(server.pump.run)
        yield server
        nursery.cancel_scope.cancel()


class Submitted:
    """A submission, and what has come of it."""

    def __init__(self, *jobs: Job, fetchable: bool = True) -> None:
        self.errors: list[Exception] = []
        self.landings = 0
        self.new = NewJobs(jobs, [fetchable] * len(jobs), self._landed, self.errors.append)

    def _landed(self, _: Sequence[Job]) -> None:
        self.landings += 1


async def test_a_round_brings_what_it_has_fetched(database: Database) -> None:
    async with serving(database) as server:
        new = Submitted(make_job(1))
        answer = await server.land(Batch(new=[new.new], want=Want(10)))

        assert [each.job.id for each in answer.fetched] == [make_job(1).id]
        assert answer.taken == [new.new]

        await server.land(Batch(moves=[ended(answer.fetched[0])]))

    assert await database.fetch("select outcome::text from trio_jobs.jobs") == [("succeeded",)]


async def test_a_fetch_that_found_all_is_not_repeated_before_a_hint(database: Database) -> None:
    async with serving(database) as server:
        await server.land(Batch(want=Want(10)))
        server.pump.wake()
        await wait_all_tasks_blocked()
        asked = server.source.may_fetch
        assert (asked[0], asked[-1]) == (True, False)

        server.pump.hint(None)
        await wait_all_tasks_blocked()
        assert asked[-1]

        await server.land(Batch(want=Want(10)))
        server.pump.hint_due()
        await wait_all_tasks_blocked()
        assert asked[-1]


async def test_a_fetch_that_found_as_many_as_it_wanted_may_have_left_some(
    database: Database,
) -> None:
    async with serving(database) as server:
        some = [Submitted(make_job(n), fetchable=False).new for n in range(3)]
        await server.land(Batch(new=some))
        server.pump.hint(None)
        await server.land(Batch(want=Want(2)))
        server.pump.wake()
        await wait_all_tasks_blocked()

        assert server.source.may_fetch[-1]


async def test_a_job_behind_which_others_were_fetched_is_found_by_its_hint(
    database: Database,
) -> None:
    async with serving(database) as server, joined(database.url, name="other") as other:
        await other.add(make_job(5))
        assert len((await server.land(Batch(want=Want(10)))).fetched) == 1
        await other.add(make_job(2), make_job(3))
        # Committed late, and not heard of: behind the mark.
        assert not (await server.land(Batch(want=Want(10)))).fetched

        server.pump.hint(make_job(2).id)
        answer = await server.land(Batch(want=Want(10)))

        assert [each.job.id for each in answer.fetched] == [make_job(2).id, make_job(3).id]


async def test_a_hint_during_a_fetch_is_not_forgotten_when_that_lands(database: Database) -> None:
    async with serving(database) as server, joined(database.url, name="other") as other:
        await other.add(make_job(5))
        await server.land(Batch())
        async with locked(other, make_job(5).id):
            server.add(Batch(watches=[make_job(5).id], want=Want(10)))
            await wait_for_lock(database)
            server.pump.hint(make_job(2).id)  # its transaction commits meanwhile
        await server.wait(lambda: server.source.jobs)
        await other.add(make_job(2))

        answer = await server.land(Batch(want=Want(10)))

        assert [each.job.id for each in answer.fetched] == [make_job(2).id]


async def test_a_request_is_executed_between_rounds(database: Database) -> None:
    async with serving(database) as server:
        rows = await server.pump.request("select %(n)s::int + 1", {"n": 1})

    assert rows == [(2,)]


async def test_a_request_is_executed_though_its_client_is_cancelled(database: Database) -> None:
    async with serving(database) as server:
        with trio.move_on_after(0):
            await server.pump.request("create table made (n int)", {})
        await server.pump.request("select 1", {})

    assert await database.fetch("select to_regclass('made') is not null") == [(True,)]


async def test_a_request_that_the_database_does_not_accept_fails_alone(database: Database) -> None:
    async with serving(database) as server:
        with pytest.raises(psycopg.errors.UndefinedTable):
            await server.pump.request("select * from nowhere", {})

        assert await server.pump.request("select 1", {}) == [(1,)]


async def test_a_request_is_repeated_after_a_lost_connection(
    database: Database, proxy: Proxy
) -> None:
    async with serving(database, proxy.url) as server:
        await proxy.cut()
        with trio.fail_after(LONG):
            assert await server.pump.request("select 1", {}) == [(1,)]


def cuts(messages: int) -> list[ParameterSet]:
    """Before and after each of so many messages; of three in four in the proof alone, in turn."""
    few = range(2, messages, 4)
    turn = [step - 1 for step in swept(f"{messages} messages", messages) if step - 1 not in few]
    return [
        pytest.param(number, when, marks=() if number in few else pytest.mark.proof)
        for number in sorted([*few, *turn])
        for when in ("before", "after")
    ]


# The messages of a round, and their answers: parse, bind, describe, execute, sync, five answers and
# some rows; and the rounds of the connections after it.
@pytest.mark.parametrize(("number", "when"), cuts(16))
async def test_a_round_counts_once_whichever_message_is_cut(
    database: Database, proxy: Proxy, number: int, when: When
) -> None:
    async with serving(database, proxy.url) as server, joined(database.url) as other:
        await other.add(make_job(0), make_job(1))
        first = await server.land(Batch(want=Want(1)))
        end = ended(first.fetched[0])
        new = [Submitted(make_job(n)) for n in (3, 4)]

        # One is fetched that was there; of the new ones one, which is fetched as it comes in.
        proxy.cut_at(number, when, name="pump")
        answer = await server.land(Batch(moves=[end], new=[each.new for each in new], want=Want(2)))

        assert answer.fenced == []
        assert sorted(each.new.jobs[0].id for each in new) == sorted(
            each.jobs[0].id for each in answer.taken
        )
        while len(server.source.jobs) < 3:  # a round that is repeated fetches nothing more
            server.pump.hint(None)
            await server.land(Batch(want=Want(10)))
        assert sorted(server.source.jobs) == [make_job(n).id for n in (1, 3, 4)]
        rows = await database.fetch(
            "select outcome::text, fetches, owner is null from trio_jobs.jobs order by id"
        )
        assert rows == [("succeeded", 1, True), *[(None, 1, False)] * 3]


# Those of a quick fetch: it has a flush beside them, and was parsed before.
@pytest.mark.parametrize(("number", "when"), cuts(12))
async def test_a_quick_fetch_counts_once_whichever_message_is_cut(
    database: Database, proxy: Proxy, number: int, when: When
) -> None:
    async with idle(database, proxy.url) as server:
        proxy.cut_at(number, when, name="pump")
        server.pump.hint_new(make_job(1).id)
        await server.wait(lambda: len(server.source.landings) == 2)
        while len(server.source.jobs) < 2:
            server.pump.hint(None)
            await server.land(Batch(want=Want(1)))

        assert sorted(server.source.jobs) == [make_job(n).id for n in (1, 2)]
        assert await database.fetch("select fetches from trio_jobs.jobs") == [(1,), (1,)]


async def test_an_idle_pump_fetches_a_new_job_at_once(database: Database) -> None:
    async with idle(database) as server:
        server.pump.hint_new(make_job(1).id)
        wait_for_answer(server)  # no task has run since

        await server.wait(lambda: server.source.jobs)

    assert sorted(server.source.jobs) == [make_job(1).id]


async def test_a_pump_that_has_not_looked_for_others_makes_a_round_for_a_new_job(
    database: Database,
) -> None:
    async with idle(database) as server:
        batch = server.source.batches.popleft()
        server.pump.hint(make_job(1).id)  # and its source wants nothing
        await wait_all_tasks_blocked()

        server.source.batches.append(batch)
        server.pump.hint_new(make_job(2).id)
        await server.wait(lambda: server.source.jobs)

    assert sorted(server.source.jobs) == [make_job(1).id, make_job(2).id]


async def test_a_new_job_that_another_server_has_is_not_looked_for_again(
    database: Database,
) -> None:
    async with idle(database) as server:
        server.pump.hint_new(make_job(3).id)
        await server.wait(lambda: len(server.source.landings) == 2)
        server.pump.wake()
        await wait_all_tasks_blocked()

        assert server.source.may_fetch[-2:] == [True, False]

    assert server.source.jobs == {}


async def test_a_request_and_a_hint_wait_while_a_fetch_is_answered(database: Database) -> None:
    async with idle(database) as server, trio.open_nursery() as nursery:
        before = len(server.source.may_fetch)
        server.source.batches.append(Batch(want=Want(10)))
        server.pump.hint_new(make_job(1).id)
        nursery.start_soon(server.pump.request, "select 1", {})
        server.pump.hint_new(make_job(2).id)

        await server.wait(lambda: len(server.source.landings) == 3)

    assert server.source.may_fetch[before : before + 2] == [True, True]
    assert sorted(server.source.jobs) == [make_job(1).id, make_job(2).id]


async def test_a_lease_that_is_lost_behind_a_fetch_has_none_of_its_jobs(
    database: Database,
) -> None:
    async with idle(database) as server, joined(database.url, name="again") as again:
        server.pump.hint_new(make_job(1).id)
        wait_for_answer(server)
        server.membership.lost()
        server.membership.joined(again.session.member, trio.current_time() + 3_600)
        await server.wait(lambda: len(server.source.landings) == 2)
        assert server.source.landings[1][1].fetched == ()

        await again.execute(
            "update trio_jobs.members set lease_until = '-infinity' where id = %s", server.member
        )
        await again.sweep(contact=600.0)
        answer = await server.land(Batch(want=Want(10)))

    assert {each.member for each in answer.fetched} == {again.session.member}


async def test_a_hint_over_a_lost_connection_fetches_over_the_next(database: Database) -> None:
    async with idle(database) as server:
        lost = server.connection
        await database.fetch(
            "select pg_terminate_backend(%s, 60000)", server.connection.info.backend_pid
        )
        server.pump.hint_new(make_job(1).id)
        while len(server.source.jobs) < 2:
            server.pump.hint(None)
            await server.land(Batch(want=Want(10)))

        assert lost.closed

    assert await database.fetch("select fetches from trio_jobs.jobs") == [(1,), (1,)]


@asynccontextmanager
async def idle(database: Database, url: str | None = None) -> AsyncIterator[Server]:
    """A pump that has found no job, and waits for hints of two new ones."""
    async with serving(database, url) as server, joined(database.url, name="other") as other:
        await server.land(Batch(want=Want(10)))
        await wait_all_tasks_blocked()
        await other.add(make_job(1), make_job(2))
        server.source.batches.append(Batch(want=Want(10)))
        yield server


def wait_for_answer(server: Server) -> None:
    """Wait for the answer to what a pump has sent, while none of its tasks runs."""
    readable, _, _ = select.select([server.connection.pgconn.socket], [], [], LONG)
    assert readable


@pytest.mark.parametrize(
    ("sql", "undo"),
    [
        (f"{ALTER} bigint", f"{ALTER} int"),  # a migration would change the functions, too
        ("deallocate all", "select"),
    ],
)
async def test_a_quick_fetch_that_does_not_fit_any_more_is_prepared_anew(
    database: Database, sql: str, undo: str
) -> None:
    async with idle(database) as server:
        outdated = server.connection
        await outdated.execute(sql.encode())
        server.pump.hint_new(make_job(1).id)
        await server.wait(lambda: len(server.source.landings) == 2)
        assert outdated.closed
        await database.fetch(undo)
        while len(server.source.jobs) < 2:
            server.pump.hint(None)
            await server.land(Batch(want=Want(1)))

        assert sorted(server.source.jobs) == [make_job(n).id for n in (1, 2)]
        assert await database.fetch("select fetches from trio_jobs.jobs") == [(1,), (1,)]


async def test_a_late_round_of_a_lost_connection_has_no_effect(database: Database) -> None:
    async with joined(database.url) as member, joined(database.url, name="other") as other:
        await other.add(make_job(1))
        server = Server(database.url, member.session.member)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.pump.run)
            await server.land(Batch())
            # What a connection sends that was lost before: its session is over.
            with pytest.raises(psycopg.DatabaseError) as caught:
                await member.round(Batch(new=[Submitted(make_job(2)).new], want=Want(10)))
            nursery.cancel_scope.cancel()

    assert caught.value.sqlstate == "TJ001"
    assert await database.fetch(COUNT) == [(1,)]
    assert server.source.jobs == {}


async def test_a_session_begins_after_the_round_that_is_under_way(database: Database) -> None:
    async with joined(database.url) as member, joined(database.url, name="other") as other:
        await other.add(make_job(1))
        server = Server(database.url, member.session.member)
        # The connection of this transaction is lost to its server, and not yet to the database.
        await member.execute("begin")
        fetched = await member.fetch(10)
        assert len(fetched) == 1

        async with trio.open_nursery() as nursery:
            await nursery.start(server.pump.run)
            server.add(Batch(want=Want(10)))
            await wait_for_lock(database)
            assert server.source.landings == []

            await member.execute("commit")
            await server.wait(lambda: server.source.landings)
            nursery.cancel_scope.cancel()

    assert server.source.landings[0][1].fetched == []  # it was no round of this pump


async def wait_for_lock(database: Database) -> None:
    with trio.fail_after(LONG):
        while not (  # noqa: ASYNC110 - nothing else tells
            await database.fetch(
                "select from pg_stat_activity where application_name = 'trio-jobs pump' "
                "and wait_event_type = 'Lock'"
            )
        ):
            await trio.sleep(0.01)


async def test_a_round_that_a_lost_lease_overtakes_fetches_nothing(database: Database) -> None:
    async with serving(database) as server, joined(database.url, name="other") as other:
        await other.add(make_job(1))
        await server.land(Batch())
        new = Submitted(make_job(2))
        async with locked(other, make_job(1).id):
            # A watch of the locked job holds the round up.
            server.add(Batch(want=Want(10), new=[new.new], watches=[make_job(1).id]))
            await wait_for_lock(database)
            server.membership.lost()
        await server.wait(lambda: len(server.source.landings) > 1)

        _, answer = server.source.landings[-1]

        assert answer.fetched == ()
        assert answer.taken == [new.new]
        assert server.lost == [server.member]


@asynccontextmanager
async def locked(member: Member, job_id: str) -> AsyncIterator[None]:
    await member.execute("begin")
    await member.execute("select from trio_jobs.jobs where id = %s for update", job_id)
    yield
    await member.execute("commit")


async def test_a_swept_member_loses_its_lease_with_the_next_round(database: Database) -> None:
    async with serving(database) as server:
        await server.land(Batch())
        await database.fetch("delete from trio_jobs.members")

        answer = await server.land(Batch(new=[Submitted(make_job(1)).new], want=Want(1)))

        assert server.lost == [server.member]
        assert len(answer.taken) == 1  # a member or not
        assert answer.fetched == ()


async def test_a_swept_member_loses_its_lease_with_a_fetch_that_finds_nothing(
    database: Database,
) -> None:
    async with serving(database) as server:
        await server.land(Batch())
        await database.fetch("delete from trio_jobs.members")

        answer = await server.land(Batch(want=Want(1)))

        assert server.lost == [server.member]
        assert answer.fetched == ()


async def test_a_read_only_database_refuses_submissions_and_keeps_moves(
    database: Database,
) -> None:
    async with serving(database) as server:
        first = await server.land(Batch(new=[Submitted(make_job(1)).new], want=Want(1)))
        end = ended(first.fetched[0])
        await set_read_only(database, "on")
        with trio.fail_after(LONG), pytest.raises(AnswerLostError):  # by the connection that was
            await server.pump.request("select 1", {})
        with trio.fail_after(LONG), pytest.raises(StoreWriteError):
            await server.pump.request("select 1", {})
        server.add(Batch(moves=[end], new=[Submitted(make_job(2)).new]))
        await server.wait(lambda: server.source.refusals)

        _, error = server.source.refusals[0]
        assert isinstance(error, StoreWriteError)
        assert str(error) == "cannot execute UPDATE in a read-only transaction"  # and no statement
        assert server.pump.failing is not None
        assert not server.pump.hangs

        await set_read_only(database, "off")
        await server.wait(lambda: len(server.source.landings) > 1)
        assert server.pump.failing is None
        assert server.source.landings[-1][0].moves == [end]
        assert server.source.landings[-1][0].new == ()

    assert await database.fetch("select outcome::text from trio_jobs.jobs") == [("succeeded",)]


async def test_a_full_disk_is_told_once_until_it_has_room_for_what_it_refused(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        names = ("store_failing", "store_works_again")
        return [record.message for record in caplog.records if record.message in names]

    async with serving(database) as server:
        first = await server.land(Batch(new=[Submitted(make_job(1)).new], want=Want(1)))
        await database.fetch(FULL)
        for number in (2, 3):  # others find room on pages that there are
            server.add(Batch(new=[Submitted(make_job(number)).new]))
            await server.wait(lambda: len(server.source.refusals) == len(server.source.landings))
            await server.land(Batch(cancels=[make_job(1).id]))
            assert await server.pump.request("select 1", {}) == [(1,)]
        await server.land(Batch(moves=[ended(first.fetched[0])]))

        assert told() == ["store_failing"]
        assert server.pump.failing is not None

        await database.fetch("drop trigger no_room on trio_jobs.jobs")
        await server.land(Batch(new=[Submitted(make_job(4)).new]))

        assert told() == ["store_failing", "store_works_again"]
        assert server.pump.failing is None


async def test_a_full_disk_that_has_refused_a_request_works_again_with_a_new_job(
    database: Database,
) -> None:
    async with serving(database) as server:
        await database.fetch(FULL)
        with pytest.raises(StoreWriteError):
            await server.pump.request("insert into trio_jobs.jobs default values", {})
        await server.land(Batch(cancels=[make_job(1).id]))
        assert server.pump.failing is not None

        await database.fetch("drop trigger no_room on trio_jobs.jobs")
        await server.land(Batch(new=[Submitted(make_job(4)).new]))
        assert server.pump.failing is None


FULL = """
create function no_room() returns trigger language plpgsql as $$
begin
    raise exception 'no space left on device' using errcode = '53100';
end $$;
create trigger no_room before insert on trio_jobs.jobs execute function no_room()
"""


async def test_a_database_to_which_nothing_was_written_is_not_told_to_work_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(database) as server:
        first = await server.land(Batch(new=[Submitted(make_job(1)).new], want=Want(1)))
        await set_read_only(database, "on")
        with trio.fail_after(LONG), pytest.raises(AnswerLostError):  # by the connection that was
            await server.pump.request("select 1", {})
        with trio.fail_after(LONG), pytest.raises(StoreWriteError):
            await server.pump.request("select 1", {})
        server.membership.lost()  # so no session is begun
        server.add(Batch(moves=[ended(first.fetched[0])]))
        await server.wait(lambda: len(server.source.refusals) > 3)

        assert [record.message for record in caplog.records].count("store_failing") == 1
        assert server.pump.failing is not None


async def test_a_round_in_doubt_is_not_refused_when_the_database_is_read_only(
    database: Database,
) -> None:
    async with serving(database) as server:
        await server.land(Batch())
        await set_read_only(database, "on")
        new = Submitted(make_job(1))
        server.add(Batch(new=[new.new]))  # sent over a connection that was lost
        with trio.fail_after(LONG):
            while server.pump.failing is None:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)
        assert server.source.refusals == []

        await set_read_only(database, "off")
        await server.wait(lambda: len(server.source.landings) > 1)
        assert server.source.landings[-1][1].taken == [new.new]


async def test_a_round_that_fails_without_effect_is_put_back(database: Database) -> None:
    async with serving(database) as server, joined(database.url, name="other") as other:
        await database.fetch(f"alter database {database.name} set lock_timeout to '10ms'")
        await other.add(make_job(1))
        async with locked(other, make_job(1).id):
            # By a connection with the setting.
            await database.fetch(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name = 'trio-jobs pump'"
            )
            await server.pump.request("select 1", {})
            server.add(Batch(cancels=[make_job(1).id], want=Want(1)))
            await server.wait(lambda: server.source.refusals)
            asked = len(server.source.may_fetch)
        await server.wait(lambda: server.source.landings)

        assert server.source.refusals[0][1] is None
        assert server.source.may_fetch[asked]  # without a hint

    assert await database.fetch("select cancel_requested from trio_jobs.jobs") == [(True,)]


async def test_why_a_write_is_repeated_is_told_once_until_it_succeeds(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(database) as server, joined(database.url, name="other") as other:
        await server.land(Batch(new=[Submitted(make_job(1)).new]))
        await server.connection.execute(b"set lock_timeout to '10ms'")
        async with locked(other, make_job(1).id):
            server.add(Batch(cancels=[make_job(1).id]))
            await server.wait(lambda: len(server.source.refusals) == 1)
            assert told_of(caplog) == []

            await server.wait(lambda: len(server.source.refusals) == 4)
            assert told_of(caplog) == [LOCK_TIMEOUT]

            await server.connection.execute(b"set statement_timeout to '10ms'")
            await server.connection.execute(b"set lock_timeout to 0")
            await server.wait(lambda: len(server.source.refusals) == 7)
            assert told_of(caplog) == [LOCK_TIMEOUT, STATEMENT_TIMEOUT]
        await server.wait(lambda: len(server.source.landings) == 2)

        assert told_of(caplog) == [LOCK_TIMEOUT, STATEMENT_TIMEOUT, "writes_work_again"]


async def test_why_a_request_is_repeated_is_told_once_until_it_succeeds(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(database) as server, joined(database.url, name="other") as other:
        await server.land(Batch(new=[Submitted(make_job(1)).new]))
        await server.connection.execute(b"set lock_timeout to '10ms'")
        for _ in range(2):
            caplog.clear()
            async with trio.open_nursery() as nursery, locked(other, make_job(1).id):
                nursery.start_soon(server.pump.request, LOCK, {})
                while not told_of(caplog):  # noqa: ASYNC110 - nothing else tells
                    await trio.sleep(0.01)

            assert told_of(caplog) == [LOCK_TIMEOUT, "writes_work_again"]


async def test_each_reason_why_the_database_cannot_be_reached_is_told_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = deque(["no login", "no login", "no slots", "no login"])
    async with serving(database) as server:
        await server.land(Batch())
        server.failures = reasons
        await database.fetch(
            "select pg_terminate_backend(%s, 60000)", server.connection.info.backend_pid
        )
        await server.land(Batch())

        lost, *others = told_of(caplog)
        assert lost[0] == "database_lost"
        assert others == [
            ("database_not_reached", "no login"),
            ("database_not_reached", "no slots"),
            "database_back",
        ]
        assert not reasons


LOCK_TIMEOUT = ("writes_failing", "canceling statement due to lock timeout")
STATEMENT_TIMEOUT = ("writes_failing", "canceling statement due to statement timeout")

# Of a job that is there; it waits for whoever has it locked.
LOCK = "select from trio_jobs.jobs for update"


def told_of(caplog: pytest.LogCaptureFixture) -> list[str | tuple[str, str]]:
    """The events of the log, in turn; those of a failure with their reason."""
    fields = [(record.message, vars(record).get("reason")) for record in caplog.records]
    return [event if reason is None else (event, reason) for event, reason in fields]


async def set_read_only(database: Database, value: str) -> None:
    """For new connections, and for those that are there: they are ended."""
    url = database.cluster.url()  # another database
    await fetch(url, f"alter database {database.name} set default_transaction_read_only to {value}")
    await database.fetch(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name = 'trio-jobs pump'"
    )


async def test_a_submission_that_is_not_accepted_is_refused_alone(database: Database) -> None:
    async with serving(database) as server:
        first = await server.land(Batch(new=[Submitted(make_job(1)).new], want=Want(1)))
        bad = Submitted(replace(make_job(2), payload=b'{"a":'))
        good = [Submitted(make_job(3)), Submitted(make_job(4))]
        new = [bad.new, *(each.new for each in good)]

        answer = await server.land(Batch(moves=[ended(first.fetched[0])], new=new, want=Want(5)))

        [error] = bad.errors
        assert isinstance(error, StoreWriteError)
        assert "invalid input syntax for type json" in str(error)
        assert answer.taken == [each.new for each in good]
        assert bad.new not in server.source.landings[-1][0].new
        assert answer.fenced == []

    rows = await database.fetch("select outcome::text from trio_jobs.jobs order by id")
    assert rows == [("succeeded",), (None,), (None,)]


async def test_a_group_comes_in_as_a_whole_or_is_refused(database: Database) -> None:
    async with serving(database) as server:
        first = await server.land(Batch(new=[Submitted(make_job(1)).new], want=Want(1)))
        failed = replace(make_job(2), rerun_of=make_job(1).id)
        rerun, plain = Submitted(failed, fetchable=False), Submitted(make_job(3))

        answer = await server.land(Batch(new=[rerun.new, plain.new]))

        [error] = rerun.errors
        assert isinstance(error, InvalidTransitionError)
        assert answer.taken == [plain.new]

        end = ended(first.fetched[0])
        await server.land(Batch(moves=[end]))
        again = Submitted(replace(make_job(4), rerun_of=make_job(1).id), fetchable=False)
        answer = await server.land(Batch(new=[again.new]))
        assert isinstance(again.errors[0], InvalidTransitionError)  # it has succeeded


async def test_closing_writes_the_rest_and_fetches_nothing(database: Database) -> None:
    async with serving(database) as server:
        server.source.batches.extend(Batch(new=[Submitted(make_job(n)).new]) for n in range(5))

        assert await server.pump.close(LONG)

        assert not server.source.may_fetch[-1]
        with pytest.raises(StoreUnavailableError):
            await server.pump.request("select 1", {})
    assert await database.fetch(COUNT) == [(5,)]


async def test_closing_gives_up_on_a_database_that_is_away(
    database: Database, proxy: Proxy
) -> None:
    async with serving(database, proxy.url) as server:
        proxy.refuse()
        await proxy.cut()
        server.add(Batch(new=[Submitted(make_job(1)).new]))

        assert not await server.pump.close(0.2)


async def test_the_pump_hangs_while_the_database_does_not_answer(
    database: Database, proxy: Proxy
) -> None:
    async with joined(database.url) as member, trio.open_nursery() as nursery:
        server = Server(proxy.url, member.session.member)
        server.pump._health._timeout = 0.05
        await nursery.start(server.pump.run)
        await server.land(Batch())
        await trio.sleep(0.1)
        assert not server.pump.hangs  # it has nothing to do

        proxy.freeze()
        server.add(Batch(new=[Submitted(make_job(1)).new]))
        await trio.sleep(0.1)
        assert server.pump.hangs

        proxy.go_on()
        await server.wait(lambda: len(server.source.landings) > 1)
        await wait_all_tasks_blocked()
        assert not server.pump.hangs
        nursery.cancel_scope.cancel()
