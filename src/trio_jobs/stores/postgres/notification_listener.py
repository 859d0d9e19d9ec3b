"""`NotificationListener`: keeps this server's lease, and hears what other servers say.

One task, over one connection. It joins, renews the lease, frees the jobs of members that are gone,
and hears notifications. No notification is needed for correctness: each heartbeat tells what a lost
one would have told, and after each break the server asks anew.

Only a server that has seen the database for a whole lease frees the jobs of those that have not
renewed theirs: after a break in which the others may not have renewed either, or a jump of the
database's clock, all members have this time to renew.
"""

import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec
import psycopg
import trio

from trio_jobs.pool.ids import is_id
from trio_jobs.pool.store import StoreDatabaseError
from trio_jobs.stores.postgres.clock import StoreClock
from trio_jobs.stores.postgres.failures import ends_connection, is_passing, refuses
from trio_jobs.stores.postgres.membership import Membership
from trio_jobs.stores.postgres.outage import Outage
from trio_jobs.stores.postgres.trio_connection import TrioConnection, pause_before

log = logging.getLogger(__name__)

# How many completed jobs a statement drops at the most: other statements wait meanwhile.
_DROPPED_AT_ONCE: Final = 1_000

# Seconds for which a start waits for a notification that the server has sent to itself.
_LONGEST_ECHO: Final = 5.0

# Seconds for which a start whose connection is lost tries again.
_LONGEST_START: Final = 10.0

# Seconds to end a membership of a start that has failed.
_LONGEST_GOODBYE: Final = 1.0

# So many seconds after a time has come by this server's clock, it has come by the database's too.
_MARGIN: Final = 0.001

_JOIN: Final = """
    select trio_jobs.join(%(name)s, %(lease)s, %(handlers)s::jsonb),
        trio_jobs.micros(clock_timestamp())
"""
_BEAT: Final = """
    select alive, in_time, members, pending, next_time, now from trio_jobs.beat(%(me)s, %(lease)s)
"""
_SWEEP: Final = "select member, name, put_back, ended from trio_jobs.sweep(%(me)s, %(contact)s)"
_DROP: Final = "select outcome::text, number from trio_jobs.drop_old(%(keep_for)s, %(at_most)s)"
_LEAVE: Final = "select put_back, ended from trio_jobs.leave(%(me)s)"
_NEXT_TIME: Final = "select trio_jobs.micros(trio_jobs.next_time())"
_CANCELLED: Final = """
    select id::text from trio_jobs.jobs
    where completed_at is null and run_at is null and owner = %(me)s and cancel_requested
"""


class Told(Protocol):
    """What a listener tells its server; no method makes a checkpoint."""

    def hint(self, first_id: str | None) -> None:
        """There are jobs to fetch, the first with this id; None if it is not known."""

    def hint_new(self, job_id: str) -> None:
        """There is a new job to fetch."""

    def hint_due(self) -> None:
        """There are jobs to fetch whose time has come."""

    def ended(self, job_ids: Sequence[str]) -> None:
        """Jobs have ended that this or another server watches."""

    def cancel(self, job_id: str) -> None:
        """The cancel of a job that this server has fetched is requested; it may have ended."""

    def beaten(self, members: Sequence[str]) -> None:
        """The lease is renewed; these are the names of all servers."""

    def ask_anew(self) -> None:
        """Notifications may have been lost, or were for an earlier membership: ask anew."""

    def dropped(self, counts: Mapping[str, int]) -> None:
        """So many completed jobs were dropped, by outcome."""


class NotificationListener:
    """Keeps the lease, and listens, as long as it runs.

    Args:
        connect: Makes a connection, in autocommit, that is not behind a pooler.
        membership: The lease.
        clock: Is set by the answers.
        told: What is told.
        name: The server's name, for people.
        handlers: By type, and ``default``: whether a job may run again after its server was lost,
            and after how many losses it ends.
        lease: Seconds.
        keep_for: Seconds that completed jobs are kept.

    Attributes:
        contact: Since when the database is seen, without a break in which members might have been
            unable to renew, by Trio's clock.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[TrioConnection]],
        membership: Membership,
        clock: StoreClock,
        told: Told,
        *,
        name: str,
        handlers: Mapping[str, tuple[bool, int]],
        lease: float,
        keep_for: float,
    ) -> None:
        self.contact = math.inf
        self._answered = -math.inf  # when the database has answered, by Trio's clock
        self._connect = connect
        self._membership = membership
        self._clock = clock
        self._told = told
        self._name = name
        self._handlers = msgspec.json.encode(handlers).decode()
        self._lease = lease
        self._keep_for = keep_for
        self._closing = False
        self._ended = trio.Event()
        self._next_beat = 0.0  # by Trio's clock
        self._due: int | None = None  # the earliest time known that jobs wait for, as micros
        self._pause = trio.CancelScope()  # around each wait
        self._listens_to = 0  # the membership whose channel the connection listens to
        self._last_member = 0
        self._drops_more = False
        self._outage = Outage(log, "listener_lost", "listener_back", "database_not_reached")
        self._upkeep = Outage(log, "upkeep_failing", "upkeep_works_again")
        self._failures = 0  # since the connection was lost

    async def run(
        self,
        request: Callable[[str, Mapping[str, object]], Awaitable[object]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep the lease and listen until `close`; started once this server is a member and hears.

        Args:
            request: Executes a statement over another connection, by ``store.url``.
            task_status: Told when this server is a member.

        Raises:
            StoreDatabaseError: No notification arrives.
            psycopg.Error: The first connection cannot be made, or used; or it is lost, again and
                again.
            trio.TooSlowError: The database does not answer the first statements.

        Cancellation:
            The lease runs out by itself.
        """
        connection = await self._begin(request)
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._membership.guard)
            nursery.start_soon(self._rejoin_at_once)
            while not await self._use(connection):
                connection = await self._reconnect()
            nursery.cancel_scope.cancel()
        self._ended.set()

    async def close(self, seconds: float) -> bool:
        """End the membership, and `run`; the pool has ended, and all is written.

        Args:
            seconds: How long to wait for the database at the most.

        Returns:
            Whether the database knows that the membership has ended. Otherwise the lease runs out.
        """
        self._closing = True
        self._pause.cancel()
        with trio.move_on_after(seconds):
            await self._ended.wait()
        return self._ended.is_set()

    async def _rejoin_at_once(self) -> None:
        while True:
            await self._membership.wait_lost()
            self._pause.cancel()
            await self._membership.wait_joined()

    async def _begin(
        self, request: Callable[[str, Mapping[str, object]], Awaitable[object]]
    ) -> TrioConnection:
        """Join, and check that notifications arrive; anew if the connection is lost meanwhile."""
        give_up = trio.current_time() + _LONGEST_START
        while True:
            connection = await self._connect()
            try:
                await self._listen(connection)
                await self._hear_itself(connection, request)
            except (psycopg.Error, trio.TooSlowError) as error:
                is_lost = connection.closed and trio.current_time() < give_up
                await self._say_goodbye(connection)  # noqa: ASYNC120 - shielded
                if not is_lost:
                    raise
                self._outage.fails(error)
            except BaseException:
                await self._say_goodbye(connection)  # noqa: ASYNC102 - shielded, with a deadline
                raise
            else:
                self._note_back()
                return connection
            self._failures += 1
            await pause_before(self._failures)

    async def _say_goodbye(self, connection: TrioConnection) -> None:
        """End the membership of a start that has failed, if the database can be told."""
        deadline = trio.current_time() + _LONGEST_GOODBYE
        with (
            trio.CancelScope(shield=True, deadline=deadline),
            suppress(psycopg.Error, trio.TooSlowError),
        ):
            if not connection.closed:
                await self._leave(connection)
        connection.finish()

    async def _connect_and_listen(self) -> TrioConnection:
        connection = await self._connect()
        try:
            await self._listen(connection)
        except BaseException:
            connection.finish()
            raise
        return connection

    async def _listen(self, connection: TrioConnection) -> None:
        """Listen; join, unless the lease goes on."""
        self._listens_to = 0
        before = self._answered
        await self._execute(connection, "listen trio_jobs")
        # Each member renews when a third of its lease is over, and again until the last. So after a
        # shorter break than that it has had the time.
        if self._answered - before > self._lease / 2:
            self.contact = self._answered
        if member := self._membership.id:
            await self._listen_to(connection, member)
            await self._ask_anew(connection)
        else:
            await self._join(connection)

    async def _hear_itself(
        self,
        connection: TrioConnection,
        request: Callable[[str, Mapping[str, object]], Awaitable[object]],
    ) -> None:
        """Check that a notification arrives while this connection executes nothing.

        With the answer to a statement a pooler may pass one on by chance. Other notifications that
        come now are dropped: the heartbeat, which is next, asks for all that they could tell.
        """
        echo = "e" + secrets.token_hex(8)
        await request(
            "select pg_notify(%(channel)s, %(text)s)",
            {"channel": f"trio_jobs_m{self._membership.id}", "text": echo},
        )
        with trio.move_on_after(_LONGEST_ECHO):
            while all(each.payload != echo for each in await connection.notifies()):
                pass
            return
        await self._execute(connection, "select")  # raises if the connection does not answer
        raise StoreDatabaseError(
            "no notification arrives from the database: if store.url leads to a pooler, "
            "store.listen_url must lead to the database itself"
        )

    async def _reconnect(self) -> TrioConnection:
        while True:
            self._failures += 1
            with trio.CancelScope() as self._pause:
                await pause_before(self._failures)
            try:
                return await self._connect_and_listen()
            except (psycopg.Error, trio.TooSlowError) as error:
                self._outage.fails(error)

    async def _use(self, connection: TrioConnection) -> bool:
        """Do what is due over a connection until it is lost; whether the membership has ended."""
        try:
            while not self._closing:
                if not self._membership.id:
                    await self._join(connection)
                elif trio.current_time() >= self._next_beat:
                    await self._beat(connection)
                elif trio.current_time() >= self._due_at():
                    await self._note_due(connection)
                elif self._drops_more:
                    await self._drop(connection)
                await self._hear(connection)
            await self._leave(connection)
        except (psycopg.Error, trio.TooSlowError) as error:
            if isinstance(error, psycopg.Error) and not ends_connection(error, connection):
                raise
            self._outage.fails(error)
            return False
        else:
            return True
        finally:
            connection.finish()

    async def _join(self, connection: TrioConnection) -> None:
        if self._last_member:
            log.warning("lease_lost", extra={"member": self._last_member})
            self._last_member = 0  # said once, however often the database refuses a new one
        sent, mark = trio.current_time(), self._clock.monotonic()
        params = {"name": self._name, "lease": self._lease, "handlers": self._handlers}
        ((member, now),) = await self._execute(connection, _JOIN, params)
        self._clock.measured(now, sent=mark)
        self._last_member = member
        await self._listen_to(connection, member)
        self.contact = trio.current_time()
        self._note_back()
        self._membership.joined(member, sent + self._lease)
        log.info("joined", extra={"member": member, "lease": self._lease})
        await self._ask_anew(connection)

    async def _listen_to(self, connection: TrioConnection, member: int) -> None:
        if self._listens_to:
            await self._execute(connection, f"unlisten trio_jobs_m{self._listens_to}")
        await self._execute(connection, f"listen trio_jobs_m{member}")
        self._listens_to = member

    async def _ask_anew(self, connection: TrioConnection) -> None:
        """Ask what lost notifications would have told; the heartbeat, which is next, asks more."""
        self._next_beat = trio.current_time()
        self._told.ask_anew()
        params = {"me": self._membership.id}
        for (job_id,) in await self._execute(connection, _CANCELLED, params):
            self._told.cancel(job_id)

    async def _beat(self, connection: TrioConnection) -> None:
        sent, mark = trio.current_time(), self._clock.monotonic()
        params = {"me": self._membership.id, "lease": self._lease}
        ((alive, in_time, members, pending, next_time, now),) = await self._execute(
            connection, _BEAT, params
        )
        is_set_forward = self._clock.measured(now, sent=mark)
        self._note_back()
        if not alive:
            self._membership.lost()
        if not alive or not self._membership.renewed(sent + self._lease):
            return
        if is_set_forward or not in_time:
            # To the database's clock leases seem to be over that are not; or this process has stood
            # still: the other members may not have renewed for the same reason.
            self.contact = trio.current_time()
        self._told.beaten(members)
        self._next_beat = sent + self._lease / 3
        self._due = next_time
        if pending:
            self._told.hint(None)
        contact = trio.current_time() - self.contact
        if contact >= self._lease:
            await self._sweep(connection, contact)
            self._drops_more = True

    async def _sweep(self, connection: TrioConnection, contact: float) -> None:
        params = {"me": self._membership.id, "contact": contact}
        rows = await self._keep_up(connection, "sweep", _SWEEP, params)
        for member, name, put_back, ended in rows:
            fields = {"member": member, "server": name, "put_back": put_back, "ended": ended}
            log.warning("member_lost", extra=fields)

    async def _drop(self, connection: TrioConnection) -> None:
        params = {"keep_for": self._keep_for, "at_most": _DROPPED_AT_ONCE}
        counts = dict(await self._keep_up(connection, "drop", _DROP, params))
        self._drops_more = sum(counts.values()) >= _DROPPED_AT_ONCE
        if counts:
            self._told.dropped(counts)

    async def _keep_up(
        self, connection: TrioConnection, part: str, sql: str, params: Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        """Execute what the next heartbeat tries again if the database refuses it now: no rows."""
        try:
            rows = await self._execute(connection, sql, params)
        except psycopg.Error as error:
            if connection.closed or not (refuses(error) or is_passing(error)):
                raise
            self._upkeep.fails(error, part)
            return []
        self._upkeep.works(part)
        return rows

    async def _note_due(self, connection: TrioConnection) -> None:
        # First ask for the next time: what is due by then is there for the fetch.
        ((self._due,),) = await self._execute(connection, _NEXT_TIME)
        self._told.hint_due()

    async def _leave(self, connection: TrioConnection) -> None:
        if member := self._membership.id:
            await self._execute(connection, _LEAVE, {"me": member})
            self._membership.lost()

    async def _hear(self, connection: TrioConnection) -> None:
        """Wait for notifications until something else is due.

        A notification that this version does not know has no effect: a newer server may share the
        database.
        """
        heard = connection.arrived()
        # The last two may have changed while a statement was executed: they have ended no wait.
        is_due = self._drops_more or self._closing or not self._membership.id
        if heard or is_due:
            self._tell(heard)
            return
        until = min(self._next_beat, self._due_at())
        with trio.CancelScope(deadline=until) as self._pause:
            self._tell(await connection.notifies())

    def _tell(self, heard: Sequence[psycopg.Notify]) -> None:
        pending, new, ended = [], [], []
        for each in heard:
            kind, text = each.payload[:1], each.payload[1:]
            if kind == "d":
                ended.append(text)
            elif kind == "c":
                self._told.cancel(text)
            elif kind == "w" and text.isdecimal():
                self._due = min(int(text), self._due or int(text))
            elif kind == "n" and is_id(text):
                new.append(text)
            elif is_id(each.payload):
                pending.append(each.payload)
        if ended:
            self._told.ended(ended)
        if len(new) == 1 and not pending:
            self._told.hint_new(*new)
        elif new or pending:
            self._told.hint(min(new + pending))

    def _due_at(self) -> float:
        """When the next time comes that jobs wait for, by Trio's clock."""
        if self._due is None:
            return math.inf
        left = (self._due * 1_000 - self._clock.nanoseconds()) / 1e9
        return trio.current_time() + left + _MARGIN

    async def _execute(
        self, connection: TrioConnection, sql: str, params: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        # Cancelled, it closes the connection.
        with trio.fail_after(self._lease / 2):
            cursor = await connection.execute(sql, params)
            rows = await cursor.fetchall() if cursor.description else []
        self._answered = trio.current_time()
        return rows

    def _note_back(self) -> None:
        """The database has written something for this server, not only taken its connection."""
        self._failures = 0
        self._outage.works()
