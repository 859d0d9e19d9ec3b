"""A connection of psycopg that waits under Trio. One task at a time uses it."""

import os
import random
import select
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any, TypeVar

import psycopg
import trio
from psycopg import generators, pq
from psycopg.abc import ConnDict, ConnParam, PQGen, PQGenConn
from psycopg.adapt import Transformer
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict, make_conninfo
from psycopg.rows import AsyncRowFactory, tuple_row
from psycopg.waiting import Ready, Wait

from trio_jobs.stores.postgres.parameter_arrays import register

_Result = TypeVar("_Result")

# What is raised when a connection is lost or cannot be made. An `OperationalError` may have other
# reasons, a full disk for one: then the connection is not `closed`.
LOST: tuple[type[Exception], ...] = (psycopg.OperationalError, psycopg.InterfaceError)

# By the system's defaults, a task would wait for hours for a network that swallows its packets.
_SILENCE = {
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

# Seconds. A restart of a database takes about one.
_LONGEST_PAUSE = 1.0

# Those that this version of the database knows.
_SET = """
    select set_config(s.name, s.value, false) from unnest(%s::text[], %s::text[]) as s(name, value)
    where current_setting(s.name, true) is not null
"""


class TrioConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection whose statements wait under Trio; `connect` makes one.

    Cancellation:
        A cancelled statement closes the connection: nobody knows what became of the statement.
        The database goes on with it, up to its ``statement_timeout``. A cancelled `notifies`
        leaves the connection as it was.

    If a migration has changed what a prepared statement reads, the connection is lost: another one
    prepares it anew.
    """

    def __init__(
        self,
        pgconn: psycopg.pq.abc.PGconn,
        row_factory: AsyncRowFactory[tuple[Any, ...]] = tuple_row,
    ) -> None:
        super().__init__(pgconn, row_factory)
        # In place of a lock of asyncio: one task at a time uses the connection.
        self.lock = nullcontext()  # type: ignore[assignment]
        self._arrived = deque[psycopg.Notify]()
        self.add_notify_handler(self._arrived.append)

    async def wait(self, gen: PQGen[_Result], *_: object, **__: object) -> _Result:
        """Do a step of psycopg's, a statement for one; no other argument has an effect."""
        try:
            return await _drive(gen, self.pgconn.socket)
        except trio.Cancelled:
            self.finish()
            raise
        except psycopg.Error as error:
            if not _is_outdated(error):
                raise
            self.finish()
            raise psycopg.OperationalError(str(error)) from error

    async def fetch(self, sql: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Execute a statement that has rows, and return these."""
        await self._cursor.execute(sql, params)
        return await self._cursor.fetchall()

    @cached_property
    def _cursor(self) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        # One for all: to make a cursor is a quarter of what a small statement costs here.
        return self.cursor()

    @cached_property
    def can_send_early(self) -> bool:
        """Whether `send_early` works: a pooler keeps no statements, and libpq has to be 14."""
        return self.prepare_threshold is not None and psycopg.capabilities.has_pipeline()

    def send_early(
        self, statement: str, params: Sequence[bytes | None], formats: Sequence[int]
    ) -> None:
        """Send a prepared statement, whose rows are read while the database flushes its commit.

        The next step on this connection must be `read_early`.

        Args:
            statement: The name.
            params: As texts, or as the database has them.
            formats: By parameter, 0 for a text and 1 else.

        Raises:
            psycopg.OperationalError: The connection is closed.
        """
        self.pgconn.enter_pipeline_mode()
        self.pgconn.send_query_prepared(statement.encode(), params, formats)
        self.pgconn.send_flush_request()  # of the rows; the sync, behind it, is what commits
        self.pgconn.pipeline_sync()
        # A database on this machine may have been woken for this processor, where it waits until
        # the event loop has nothing to do.
        os.sched_yield()

    async def read_early(self, read: Callable[[list[tuple[Any, ...]]], _Result]) -> _Result:
        """Wait until the statement of `send_early` is committed.

        Args:
            read: Called with the rows before they are committed: it must have no effect.

        Returns:
            What ``read`` has returned.
        """
        return await self.wait(self._read_early(read))

    def _read_early(self, read: Callable[[list[tuple[Any, ...]]], _Result]) -> PQGen[_Result]:
        pgconn = self.pgconn
        yield from generators.send(pgconn)  # what the socket had no room for
        found: list[_Result] = []
        failure: psycopg.Error | None = None
        while True:
            for result in (yield from generators.fetch_many(pgconn)):
                if result.status == pq.ExecStatus.TUPLES_OK:
                    transformer = Transformer(self)
                    transformer.set_pgresult(result)
                    found.append(read(transformer.load_rows(0, result.ntuples, tuple)))
                elif result.status != pq.ExecStatus.PIPELINE_SYNC:
                    failure = psycopg.errors.error_from_result(result)
                elif failure is None:
                    pgconn.exit_pipeline_mode()
                    return found[0]
                else:
                    pgconn.exit_pipeline_mode()
                    raise failure
            if failure is not None and self.closed:
                raise failure

    async def notifies(self) -> list[psycopg.Notify]:  # type: ignore[override]  # no generator
        """Wait until notifications are here, and take them all.

        Raises:
            psycopg.OperationalError: If the connection is lost.

        Cancellation:
            Loses no notification.
        """
        if self._arrived:
            await trio.lowlevel.checkpoint()
        while not self._arrived:
            await _drive(generators.notifies(self.pgconn), self.pgconn.socket)
        return self.arrived()

    def arrived(self) -> list[psycopg.Notify]:
        """Take the notifications that have come with the answers of statements."""
        taken = list(self._arrived)
        self._arrived.clear()
        return taken

    async def __aexit__(self, *_: object) -> None:
        """Close the connection; an open transaction is not committed."""
        self.finish()

    def finish(self) -> None:
        """Close the connection at once, also while another task waits for it.

        That task gets a `psycopg.OperationalError`.
        """
        if not self.closed:
            trio.lowlevel.notify_closing(self.pgconn.socket)
        self._closed = True
        self.pgconn.finish()

    async def close(self) -> None:
        """Close the connection as `finish` does; makes no checkpoint."""
        self.finish()


def _is_outdated(error: psycopg.Error) -> bool:
    """Whether a prepared statement is gone, or was made for other columns; a new one works."""
    undefined, revalidate = "26000", "RevalidateCachedQuery"
    return error.sqlstate == undefined or error.diag.source_function == revalidate


async def connect(
    url: str,
    *,
    name: str,
    autocommit: bool = True,
    prepare_threshold: int | None = 5,
    timeout: float = 10.0,  # noqa: ASYNC109  # for each address, as libpq's own
    settings: Mapping[str, str] | None = None,
    **params: ConnParam,
) -> TrioConnection:
    """Connect to a database; each address of its hosts is tried in turn.

    Args:
        url: A libpq URL or connection string. The ``PG*`` variables supply what it leaves out.
        name: What the connection is for, in a word: ``pg_stat_activity`` shows it.
        autocommit: Whether each statement is a transaction.
        prepare_threshold: After how many executions a statement is prepared; None for never, as a
            pooler in transaction mode needs it.
        timeout: Seconds for each address.
        settings: Of the database, for this connection; those that it does not know are left out.
            They replace those of its user. A pooler in session mode keeps them, and one in
            transaction mode gives them to others.
        **params: libpq's parameters; they replace those of the URL.

    Raises:
        psycopg.OperationalError: If no address could be connected to.
        psycopg.ProgrammingError: If the URL cannot be parsed.
    """
    given = conninfo_to_dict(url, **params)
    every = {
        "application_name": f"trio-jobs {name}",
        **_SILENCE,
        **given,
        "client_encoding": "utf8",
    }
    # In a thread: it looks up the names of the hosts.
    attempts = await trio.to_thread.run_sync(
        partial(conninfo_attempts, every), abandon_on_cancel=True
    )
    errors: list[psycopg.OperationalError] = []
    for attempt in attempts:
        try:
            connection = await _connect_to(attempt, timeout, settings)
        except psycopg.OperationalError as error:
            errors.append(error)
        else:
            connection._autocommit = autocommit
            connection.prepare_threshold = prepare_threshold
            register(connection)
            return connection
    if len(errors) == 1:
        raise errors[0]
    raise type(errors[-1])("; ".join(str(error) for error in errors))


async def _connect_to(
    params: ConnDict, seconds: float, settings: Mapping[str, str] | None
) -> TrioConnection:
    # libpq heeds a timeout only where it waits by itself.
    with trio.move_on_after(seconds):
        gen = TrioConnection._connect_gen(make_conninfo("", **params))
        connection: TrioConnection = await _drive_connecting(gen)
        if settings:
            connection._autocommit = True
            try:
                await connection.execute(_SET, [list(settings), list(settings.values())])
            except BaseException:
                connection.finish()
                raise
        return connection
    server = params.get("hostaddr") or params.get("host") or "the database"
    raise psycopg.errors.ConnectionTimeout(f"{server} has not answered within {seconds:g} s")


async def _drive_connecting(gen: PQGenConn[_Result]) -> _Result:
    try:
        fd, wanted = next(gen)
        while True:
            if wanted == Wait.R:
                await trio.lowlevel.wait_readable(fd)
            else:
                await trio.lowlevel.wait_writable(fd)
            fd, wanted = gen.send(Ready.R if wanted == Wait.R else Ready.W)
    except StopIteration as stop:
        result: _Result = stop.value
        return result


# What psycopg.waiting.wait_async() is under asyncio.
async def _drive(gen: PQGen[_Result], fd: int) -> _Result:
    waited = False
    try:
        wanted = next(gen)
        while True:  # noqa: ASYNC913  # a socket with room takes what it is given, up to its end
            # A socket to be written to nearly always has room.
            ready = 0 if wanted == Wait.R else _ready_now(fd, wanted)
            if not ready:
                ready = await _wait(fd, wanted)
                waited = True
            wanted = gen.send(ready)
    except StopIteration as stop:
        result: _Result = stop.value
    except (OSError, trio.ClosedResourceError) as error:
        raise psycopg.OperationalError("the connection is closed") from error
    if not waited:
        # The statement has been executed: a cancellation must not hide that.
        await trio.lowlevel.cancel_shielded_checkpoint()
    return result


def _ready_now(fd: int, wanted: int) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT | (select.POLLIN if wanted & Wait.R else 0))
    ready = 0
    for _, events in poll.poll(0):
        if events & select.POLLOUT:
            ready |= Ready.W
        if events & ~select.POLLOUT:
            ready |= Ready.R  # also an error: the read meets it
    return ready


async def _wait(fd: int, wanted: int) -> int:
    if wanted == Wait.R:
        await trio.lowlevel.wait_readable(fd)
        return Ready.R
    ready = 0

    async def wait_for(readiness: Ready, wait: Callable[[int], Awaitable[None]]) -> None:
        nonlocal ready
        await wait(fd)
        ready |= readiness
        either.cancel_scope.cancel()

    async with trio.open_nursery() as either:
        either.start_soon(wait_for, Ready.W, trio.lowlevel.wait_writable)
        if wanted & Wait.R:
            either.start_soon(wait_for, Ready.R, trio.lowlevel.wait_readable)
    return ready


async def pause_before(attempt: int) -> None:
    """Wait before a next attempt to reach a database: longer each time, up to a second.

    At random, so that the servers of a database that comes back do not come all at once.

    Args:
        attempt: How many attempts have failed, at least one.
    """
    longest = min(0.025 * 2 ** min(attempt, 10), _LONGEST_PAUSE)
    await trio.sleep(random.uniform(0, longest))  # noqa: S311  # no secret
