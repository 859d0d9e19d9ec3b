"""The listener with a real database: its lease, what it hears, and what it frees."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import psycopg
import pytest
import trio

from tests.postgres.databases import Database, fetch
from tests.postgres.proxy import Proxy
from tests.proof.share import swept
from tests.stores.postgres.member import Member, ended, id_of, joined, make_job, now
from trio_jobs.pool.store import StoreDatabaseError
from trio_jobs.stores.postgres import notification_listener
from trio_jobs.stores.postgres.clock import StoreClock
from trio_jobs.stores.postgres.membership import Membership
from trio_jobs.stores.postgres.notification_listener import NotificationListener
from trio_jobs.stores.postgres.round import Batch
from trio_jobs.stores.postgres.trio_connection import TrioConnection, connect

# Seconds, for guards against hanging only.
LONG = 60.0

CUT = """
    select pg_terminate_backend(pid, 60000)
    from pg_stat_activity where application_name = 'trio-jobs listener'
"""


class Ears:
    """What a listener has told its server."""

    def __init__(self) -> None:
        self.hints: list[str | None] = []
        self.new: list[str] = []
        self.dues = 0
        self.over: list[str] = []
        self.cancels: list[str] = []
        self.asked_anew = 0
        self.drops: list[Mapping[str, int]] = []
        self.members: Sequence[str] = ()
        self.lost: list[int] = []
        self._changed = trio.Event()

    def hint(self, first_id: str | None) -> None:
        self.hints.append(first_id)
        self._tell()

    def hint_new(self, job_id: str) -> None:
        self.new.append(job_id)
        self._tell()

    def hint_due(self) -> None:
        self.dues += 1
        self._tell()

    def ended(self, job_ids: Sequence[str]) -> None:
        self.over += job_ids
        self._tell()

    def cancel(self, job_id: str) -> None:
        self.cancels.append(job_id)
        self._tell()

    def beaten(self, members: Sequence[str]) -> None:
        self.members = members
        self._tell()

    def ask_anew(self) -> None:
        self.asked_anew += 1
        self._tell()

    def dropped(self, counts: Mapping[str, int]) -> None:
        self.drops.append(counts)
        self._tell()

    def note_lost(self, member: int) -> None:
        self.lost.append(member)
        self._tell()

    def has_asked(self, times: int) -> bool:
        return self.asked_anew >= times

    async def wait(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(LONG):
            while not condition():
                await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Server:
    """A listener and its membership, without the rest of a server."""

    def __init__(self, url: str, *, lease: float, keep_for: float) -> None:
        self._url = url
        self.ears = Ears()
        self.connects = 0
        self.failures = deque[str]()  # of the next attempts to connect
        self.clock = StoreClock()
        self.membership = Membership(self.ears.note_lost)
        self.listener = NotificationListener(
            self.connect,
            self.membership,
            self.clock,
            self.ears,
            name="test",
            handlers={"default": (True, 3)},
            lease=lease,
            keep_for=keep_for,
        )

    async def connect(self) -> TrioConnection:
        self.connects += 1
        if self.failures:
            raise psycopg.OperationalError(self.failures.popleft())
        return await connect(self._url, name="listener")

    async def request(self, sql: str, params: Mapping[str, object]) -> None:
        async with await connect(self._url, name="other") as connection:
            await connection.execute(sql, params)


@asynccontextmanager
async def listening(
    database: Database, url: str | None = None, *, lease: float = 600.0, keep_for: float = 3_600.0
) -> AsyncIterator[Server]:
    server = Server(url or database.url, lease=lease, keep_for=keep_for)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.listener.run, server.request)
        yield server
        nursery.cancel_scope.cancel()


async def owned(other: Member, number: int) -> None:
    """Let a member fetch a new job."""
    await other.add(make_job(number))
    assert len(await other.fetch()) == 1


async def test_a_listener_is_a_member(database: Database) -> None:
    async with listening(database) as server:
        rows = await database.fetch("select id, name, handlers->'default' from trio_jobs.members")
        assert rows == [(server.membership.id, "test", [True, 3])]
        assert server.membership.holds

        assert await server.listener.close(LONG)

    assert server.membership.id == 0
    assert await database.fetch("select * from trio_jobs.members") == []


async def test_the_lease_is_renewed(database: Database) -> None:
    async with listening(database, lease=3.0) as server:
        before = server.membership.deadline
        with trio.fail_after(LONG):
            while server.membership.deadline <= before:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.05)

        assert server.ears.lost == []
        assert server.ears.members == ["test"]


async def test_notifications_are_told(database: Database) -> None:
    async with listening(database) as server, joined(database.url) as other:
        await other.add(make_job(7), make_job(8))
        await server.ears.wait(lambda: id_of(7) in server.ears.hints)

        member = server.membership.id
        await database.fetch("select pg_notify('trio_jobs', 'd' || %s)", id_of(1))
        await database.fetch(f"select pg_notify('trio_jobs_m{member}', 'd' || %s)", id_of(2))
        await database.fetch(f"select pg_notify('trio_jobs_m{member}', 'c' || %s)", id_of(3))
        await server.ears.wait(lambda: server.ears.cancels)

    assert server.ears.over == [id_of(1), id_of(2)]
    assert server.ears.cancels == [id_of(3)]


async def test_a_notification_that_is_not_known_has_no_effect(database: Database) -> None:
    async with listening(database) as server, joined(database.url) as other:
        for text in (
            "",
            "hello",
            "w",
            "wx",
            "d",
            "w1.5",
            "n",
            "nx",
            "x" + id_of(1),
            id_of(1) + "?",
        ):
            await database.fetch("select pg_notify('trio_jobs', %s)", text)
        await other.add(make_job(7))
        await server.ears.wait(lambda: id_of(7) in server.ears.hints)

    assert [hint for hint in server.ears.hints if hint is not None] == [id_of(7)]
    assert (server.ears.new, server.ears.dues) == ([], 0)


@pytest.mark.parametrize(
    ("texts", "hints", "new"),
    [
        (["n1"], [], [1]),
        (["n2", "n1"], [1], []),
        (["n1", "2"], [1], []),
        (["3", "n2"], [2], []),
    ],
)
async def test_a_new_job_is_told_as_such_if_it_is_the_only_one(
    database: Database, texts: list[str], hints: list[int], new: list[int]
) -> None:
    payloads = [text[:-1] + id_of(int(text[-1])) for text in texts]
    async with listening(database) as server:
        await server.ears.wait(lambda: server.ears.asked_anew)
        await database.fetch("select pg_notify('trio_jobs', t) from unnest(%s::text[]) t", payloads)
        await server.ears.wait(lambda: server.ears.new or any(server.ears.hints))

    assert [hint for hint in server.ears.hints if hint is not None] == list(map(id_of, hints))
    assert server.ears.new == list(map(id_of, new))


async def test_notifications_go_on_after_a_lost_connection(database: Database) -> None:
    async with listening(database) as server, joined(database.url) as other:
        member = server.membership.id
        await server.ears.wait(lambda: server.ears.asked_anew == 1)
        await database.fetch(CUT)
        await server.ears.wait(lambda: server.ears.asked_anew == 2)

        assert server.membership.id == member
        await other.add(make_job(7))
        await server.ears.wait(lambda: id_of(7) in server.ears.hints)


async def test_what_happens_while_the_connection_is_lost_is_asked_for(
    database: Database, proxy: Proxy
) -> None:
    async with listening(database, proxy.url) as server, joined(database.url) as other:
        await server.ears.wait(lambda: server.ears.asked_anew == 1)
        await owned(other, 1)
        proxy.refuse()
        await proxy.cut()
        await other.add(make_job(2))
        await database.fetch(
            "update trio_jobs.jobs set owner = %s where id = %s", server.membership.id, id_of(1)
        )
        await database.fetch("select trio_jobs.request_cancel(%s)", id_of(1))
        server.ears.hints.clear()
        proxy.refuse(refuses=False)

        await server.ears.wait(lambda: server.ears.hints)
        assert server.ears.hints == [None]
        assert server.ears.cancels == [id_of(1)]


async def test_a_swept_member_joins_anew(database: Database) -> None:
    async with listening(database, lease=1.5) as server:
        member = server.membership.id
        await database.fetch("delete from trio_jobs.members")
        await server.ears.wait(lambda: server.ears.asked_anew == 2)

        assert server.ears.lost == [member]
        assert server.membership.id > member
        assert server.membership.holds
        new = server.membership.id
        await database.fetch(f"select pg_notify('trio_jobs_m{new}', 'c' || %s)", id_of(3))
        await server.ears.wait(lambda: server.ears.cancels)


async def test_a_lease_that_the_pump_finds_lost_is_replaced_at_once(database: Database) -> None:
    async with listening(database) as server:
        server.membership.lost()
        await server.ears.wait(lambda: server.ears.asked_anew == 2)

        assert server.membership.holds


async def test_a_server_that_cannot_renew_loses_its_lease_by_itself(
    database: Database, proxy: Proxy
) -> None:
    async with listening(database, proxy.url, lease=1.0) as server:
        member = server.membership.id
        proxy.freeze()
        await server.ears.wait(lambda: server.ears.lost)
        assert not server.membership.holds

        proxy.go_on()
        await server.ears.wait(lambda: server.membership.holds)
        assert server.membership.id > member


async def test_a_read_only_database_is_told_of_once_and_so_is_the_lost_lease(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def told(message: str) -> int:
        return [record.message for record in caplog.records].count(message)

    async with listening(database, lease=1.0) as server:
        await set_read_only(database, "on")
        await database.fetch(CUT)
        await server.ears.wait(lambda: server.ears.lost)
        lost, before = told("listener_lost"), server.connects
        with trio.fail_after(LONG):
            while server.connects < before + 4:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)
        assert (told("listener_lost"), told("listener_back")) == (lost, lost - 1)
        assert told("lease_lost") == 1

        await set_read_only(database, "off")
        await server.ears.wait(lambda: server.membership.holds)
        assert told("listener_back") == lost


async def test_each_reason_why_the_connection_cannot_be_made_anew_is_told_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(database) as server:
        await server.ears.wait(lambda: server.ears.members)
        server.ears.members = ()
        server.failures = deque(["no login", "no login", "no slots", "no login"])
        await database.fetch(CUT)
        await server.ears.wait(lambda: server.ears.members)

    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.message for record in told] == [
        "listener_lost",
        "database_not_reached",
        "database_not_reached",
        "listener_back",
    ]
    assert [vars(record)["reason"] for record in told[1:3]] == ["no login", "no slots"]


@pytest.mark.parametrize("table", ["members", "jobs"])
async def test_a_lost_member_and_old_jobs_that_the_database_cannot_delete_cost_no_connection(
    database: Database, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    def told() -> list[str]:
        return [record.message for record in caplog.records if "upkeep" in record.message]

    async with joined(database.url) as other:
        await owned(other, 1)
        await other.add(make_job(2))
        await other.round(Batch(moves=[ended(each) for each in await other.fetch()]))
        await other.execute("update trio_jobs.jobs set completed_at = completed_at - interval '1h'")
        await other.age()
        await other.execute(
            "create function trio_jobs.refuse() returns trigger language plpgsql as "
            "$$ begin raise 'full' using errcode = '53100'; end $$"
        )
        await other.execute(
            f"create trigger refuse before delete on trio_jobs.{table} "
            "execute function trio_jobs.refuse()"
        )
        async with listening(database, lease=1.0, keep_for=1_800) as server:
            with trio.fail_after(LONG):
                while not told():  # noqa: ASYNC110 - nothing tells
                    await trio.sleep(0.01)
            for _ in range(2):
                server.ears.members = ()
                await server.ears.wait(lambda: server.ears.members)
            assert (told(), server.connects) == (["upkeep_failing"], 1)

            await other.execute(f"drop trigger refuse on trio_jobs.{table}")
            await server.ears.wait(lambda: id_of(1) in server.ears.hints and server.ears.drops)
            assert told() == ["upkeep_failing", "upkeep_works_again"]


async def set_read_only(database: Database, value: str) -> None:
    """For new connections."""
    url = database.cluster.url()  # another database
    await fetch(url, f"alter database {database.name} set default_transaction_read_only to {value}")


async def test_jobs_of_a_lost_member_are_free_after_a_lease(database: Database) -> None:
    async with joined(database.url) as other:
        await owned(other, 1)
        await other.age()

        async with listening(database, lease=1.5) as server:
            began = trio.current_time()
            await server.ears.wait(lambda: id_of(1) in server.ears.hints)
            assert trio.current_time() - began >= 1.5

    assert await database.fetch("select owner, interruptions from trio_jobs.jobs") == [(None, 1)]


async def test_jobs_of_a_lost_member_are_free_though_the_connection_is_lost_again_and_again(
    database: Database,
) -> None:
    async with joined(database.url) as other:
        await owned(other, 1)
        await other.age()

        async with listening(database, lease=1.5) as server:
            with trio.fail_after(LONG):
                while id_of(1) not in server.ears.hints:
                    back = server.ears.asked_anew + 1
                    await database.fetch(CUT)
                    await server.ears.wait(partial(server.ears.has_asked, back))


async def test_after_a_long_break_all_members_have_a_lease_to_renew(
    database: Database, proxy: Proxy
) -> None:
    async with listening(database, proxy.url, lease=1.5) as server:
        await server.ears.wait(lambda: server.ears.members)
        first = server.listener.contact
        proxy.refuse()
        await proxy.cut()
        await trio.sleep(0.76)
        proxy.refuse(refuses=False)
        back = server.ears.asked_anew + 1
        await server.ears.wait(lambda: server.ears.asked_anew == back)

        assert server.listener.contact > first + 0.75


async def test_after_the_clock_was_set_forward_all_members_have_a_lease_to_renew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(database, lease=1.0) as server:
        first = server.listener.contact
        monkeypatch.setattr(server.clock, "measured", lambda *_, **__: True)
        with trio.fail_after(LONG):
            while server.listener.contact == first:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)


async def test_nobody_is_swept_if_the_own_lease_had_run_out_too(database: Database) -> None:
    async with joined(database.url) as other, listening(database, lease=1.5) as server:
        await owned(other, 1)
        first = server.listener.contact
        with trio.fail_after(LONG):
            while server.listener.contact == first:
                # As if the database's clock had jumped.
                await database.fetch(
                    "update trio_jobs.members set lease_until = clock_timestamp() - interval '1 s'"
                )
                await trio.sleep(0.1)

        assert await database.fetch("select owner is null from trio_jobs.jobs") == [(False,)]


async def test_a_time_that_has_come_is_told(database: Database) -> None:
    async with listening(database) as server, joined(database.url) as other:
        await other.add(make_job(1, run_at=now() + timedelta(seconds=0.3)))
        await server.ears.wait(lambda: server.ears.dues)

        [held] = await other.fetch()
        assert held.job.id == id_of(1)


async def test_each_of_several_times_is_told_by_the_first_notification(
    database: Database,
) -> None:
    async with joined(database.url) as other:
        at = [now() + timedelta(seconds=each) for each in (0.9, 0.3, 0.6)]
        await other.add(*[make_job(number, run_at=each) for number, each in enumerate(at)])
        async with listening(database) as server:
            await server.ears.wait(lambda: server.ears.dues >= 3)

    assert server.ears.dues >= 3


async def test_the_clock_is_the_databases(database: Database) -> None:
    async with listening(database) as server:
        [[before]] = await database.fetch("select clock_timestamp()")
        between = server.clock.now()
        [[after]] = await database.fetch("select clock_timestamp()")

    margin = timedelta(seconds=1)  # the measurement's answer may have been slow
    assert before - margin <= between <= after + margin


async def test_behind_a_pooler_nothing_is_heard(
    database: Database, pooler_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notification_listener, "_LONGEST_ECHO", 0.1)  # it never comes
    # A heartbeat's answer might bring one by chance.
    server = Server(pooler_url, lease=1.0, keep_for=3_600.0)

    async def request(sql: str, params: Mapping[str, object]) -> None:
        await database.fetch(sql.replace("%(channel)s, %(text)s", "%s, %s"), *params.values())

    with pytest.raises(StoreDatabaseError, match=r"store\.listen_url"):
        await server.listener.run(request)


async def test_old_jobs_are_dropped(database: Database) -> None:
    async with joined(database.url) as other:
        await other.add(*[make_job(number) for number in range(3)])
        fetched = await other.fetch(2)
        await other.round(Batch(moves=[ended(each) for each in fetched]))
        await database.fetch(
            "update trio_jobs.jobs set completed_at = completed_at - interval '1 hour' "
            "where id = %s",
            id_of(0),
        )

        async with listening(database, lease=1.0, keep_for=1_800) as server:
            await server.ears.wait(lambda: server.ears.drops)

    assert server.ears.drops == [{"succeeded": 1}]
    assert await database.fetch("select count(*) from trio_jobs.jobs") == [(2,)]


@pytest.mark.parametrize("all_messages", [False, pytest.param(True, marks=pytest.mark.proof)])
async def test_a_start_goes_on_wherever_its_connection_is_cut(
    database: Database, proxy: Proxy, *, all_messages: bool
) -> None:
    async with listening(database, proxy.url) as server:
        assert await server.listener.close(LONG)
        kinds = [each.kind for each in proxy.passed if each.name == "listener"]
    # Before that, the database cannot be reached. The last words of the connection before count.
    connected = kinds.index("Z") + 2

    messages = range(connected, kinds.index("A"))  # up to the notification
    taken = [each - 1 for each in swept("start", len(messages))]
    for number in [messages[each] for each in taken] if all_messages else messages[::4]:
        cut = proxy.cut_at(number, "before", name="listener")
        async with listening(database, proxy.url) as server:
            assert cut.done.is_set()
            assert server.membership.holds
            assert await server.listener.close(LONG)
        assert server.connects == 2


@pytest.mark.parametrize("how", ["no notification", "cancelled", "refused"])
async def test_a_start_that_fails_says_goodbye(
    database: Database, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(notification_listener, "_LONGEST_ECHO", 0.2)
    server = Server(database.url, lease=600.0, keep_for=3_600.0)
    scope = trio.CancelScope()

    async def request(_sql: str, _params: Mapping[str, object]) -> None:
        assert server.membership.holds
        await trio.lowlevel.checkpoint()
        if how == "refused":
            raise psycopg.OperationalError("the other connection is lost")
        if how == "cancelled":
            scope.cancel()

    with scope, pytest.raises((StoreDatabaseError, psycopg.OperationalError, trio.Cancelled)):
        await server.listener.run(request)

    assert await database.fetch("select * from trio_jobs.members") == []
    assert not server.membership.holds
