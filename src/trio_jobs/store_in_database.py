"""The store in a database that several servers share."""

import logging
import math
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict

from trio_jobs.error_groups import without_groups
from trio_jobs.handlers.opening_errors import StartStoppedError
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.job import Outcome
from trio_jobs.opened_store import ForPool
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.store import StoreDatabaseError
from trio_jobs.pool.unfinished import Line, split_into_lines
from trio_jobs.setting_type import ConfigError
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.drop_log import DropLog
from trio_jobs.stores.postgres import schema_version
from trio_jobs.stores.postgres.clock import StoreClock
from trio_jobs.stores.postgres.failures import one_line
from trio_jobs.stores.postgres.membership import Membership
from trio_jobs.stores.postgres.notification_listener import NotificationListener
from trio_jobs.stores.postgres.pump import Pump
from trio_jobs.stores.postgres.readers import Readers
from trio_jobs.stores.postgres.trio_connection import TrioConnection, connect
from trio_jobs.stores.shared_store import SharedStore

log = logging.getLogger(__name__)

# Seconds that completed jobs are kept without a setting.
_KEEP_FOR: Final = 86_400.0

# Settings of a connection that serves as long as the server. The database would end the same round
# again and again, or an idle connection, by timeouts that are meant for other programs of its user.
_LASTING: Final = {
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
}

# Seconds for the last words to the database if the pool has ended without `close`.
_LAST_SECONDS: Final = 1.0


class StoreInDatabase:
    """An `OpenedStore` in a database; its connections are open within `around`.

    Args:
        settings: The database, and the bounds.
        handlers: The users' functions.
        failed: Called in the event loop if the store cannot go on: the pool has to end.

    Raises:
        ConfigError: A URL of the database cannot be read.
    """

    def __init__(
        self,
        settings: StoreSettings,
        handlers: HandlerRegistry,
        *,
        failed: Callable[[Exception], None],
    ) -> None:
        check_urls(settings)
        assert settings.url is not None  # noqa: S101  (for the type checker)
        self._handlers = handlers
        self._failed = failed
        self._listen_url = settings.listen_url
        # A pooler in transaction mode gives each transaction another connection: it keeps neither
        # statements that were prepared nor settings.
        plainly = partial(connect, timeout=settings.timeout, prepare_threshold=None)
        directly = partial(connect, timeout=settings.timeout)
        if settings.listen_url is not None:
            writing = reading = partial(plainly, settings.url)
        else:
            writing = partial(directly, settings.url, settings=_LASTING)
            reading = partial(directly, settings.url, settings=_reading(settings.timeout))
        self._check = partial(plainly, settings.url, name="check")
        clock = StoreClock()
        membership = Membership(self._note_lost)
        self._readers = Readers(partial(reading, name="reader"), timeout=settings.timeout)
        self.store = SharedStore(
            self._readers,
            repeatable=handlers.is_repeatable,
            timeout=settings.timeout,
            now=clock.now,
        )
        self._pump = Pump(
            partial(writing, name="pump"), self.store, membership, timeout=settings.timeout
        )
        self.store.use(self._pump)
        self._listener = NotificationListener(
            partial(self._connect_listener, partial(plainly, settings.listen_url or settings.url)),
            membership,
            clock,
            _Told(self.store, self._pump),
            name=f"{socket.gethostname()}/{os.getpid()}",
            handlers={
                type_: (handler.repeatable, handler.max_interruptions)
                for type_, handler in handlers.table.items()
            },
            lease=settings.lease,
            keep_for=settings.keep_for or _KEEP_FOR,
        )
        self.for_pool = ForPool(lease=membership, nanoseconds=clock.nanoseconds, now=clock.now)
        self.find_nowait = self.store.shown_nowait
        # The tasks that have begun, and the scopes around them.
        self._begun: list[Pump | NotificationListener] = []
        self._scopes: list[trio.CancelScope] = []
        self._opening = trio.CancelScope()
        self._is_open = self._closed = False
        self._failure: Exception | None = None

    @asynccontextmanager
    async def around(self, pool: Pool, stopping: trio.Event | None = None) -> AsyncIterator[None]:
        """See `OpenedStore.around`; the tasks outlive a cancellation until the block is left."""
        raised: BaseException | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._open(nursery, trio.Event() if stopping is None else stopping)
                yield
            except BaseException as error:  # noqa: ASYNC103, BLE001 - raised below
                raised = error
            finally:
                with trio.CancelScope(shield=True):
                    await self.close(pool, seconds=_LAST_SECONDS)
        # Inside of the nursery the error would come in a group.
        if raised is not None:
            raise raised

    def start(self, pool: Pool) -> None:
        """See `OpenedStore.start`; the jobs of the database are fetched as workers are free."""

    def unwritten_lines(self) -> Iterator[Line]:
        """See `OpenedStore.unwritten_lines`."""
        for job_ids in split_into_lines(self.store.unwritten_ends()):
            yield "unwritten_ends", {"job_ids": job_ids}

    async def close(self, pool: Pool, *, seconds: float) -> bool:  # noqa: ARG002
        """See `OpenedStore.close`: write the rest, and end the membership. Idempotent.

        If the database does not answer, others take the jobs over when the lease has run out.
        """
        if self._closed:
            return True
        self._closed = True
        self._readers.close()
        deadline = trio.current_time() + seconds
        # First the rest is written, then the membership ends. After a failure the lease runs out,
        # unless it was one of the start: then nothing was fetched.
        has_failed = self._is_open and self._failure is not None
        for part in () if has_failed else reversed(self._begun):
            if not await part.close(max(deadline - trio.current_time(), 0)):
                break
        for scope in self._scopes:
            scope.cancel()
        for _, fields in self.unwritten_lines():
            log.error("unwritten_ends", extra=fields)
        return not self.store.unwritten_ends()

    async def _open(self, nursery: trio.Nursery, stopping: trio.Event) -> None:
        """Connect, and begin the tasks; the database is as it should be.

        Raises:
            StoreDatabaseError: It is not.
            StartStoppedError: ``stopping`` was set meanwhile.
        """
        with self._opening:
            async with trio.open_nursery() as beside:
                beside.start_soon(self._stop_opening, stopping)
                try:
                    await self._begin_all(nursery)
                except Exception as error:  # noqa: BLE001 - raised below
                    self._failure = self._failure or error
                beside.cancel_scope.cancel()
        if self._failure is None:
            if self._opening.cancelled_caught:
                raise StartStoppedError("the database has not answered before the stop")
            self._is_open = True
            return
        reason = without_groups(self._failure)
        if isinstance(reason, psycopg.Error | trio.TooSlowError):
            text = f"the database cannot be used: {one_line(reason)}"
            raise StoreDatabaseError(text) from self._failure
        raise reason

    async def _stop_opening(self, stopping: trio.Event) -> None:
        await stopping.wait()
        self._opening.cancel()

    async def _begin_all(self, nursery: trio.Nursery) -> None:
        async with await self._check() as connection:
            await schema_version.check_schema(connection)
            # Before the pump begins, which may come to grief behind a pooler.
            await self._begin(nursery, partial(self._listener.run, connection.execute))
            self._begun.append(self._listener)
        await self._begin(nursery, self._pump.run)
        self._begun.append(self._pump)
        await self._begin(nursery, self._tell_of_ends)

    async def _tell_of_ends(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await self.store.remote_ends.run()

    async def _connect_listener(
        self, connect_to: Callable[..., Awaitable[TrioConnection]]
    ) -> TrioConnection:
        # Until a notification has arrived, there may be a pooler, which gives settings to others.
        is_direct = self._listen_url is not None or bool(self._begun)
        return await connect_to(name="listener", settings=_LASTING if is_direct else None)

    async def _begin(self, nursery: trio.Nursery, run: Callable[..., Awaitable[None]]) -> None:
        """Begin a task, which goes on until `close`, whatever is cancelled around it."""
        scope = trio.CancelScope()
        self._scopes.append(scope)
        await nursery.start(self._run, scope, run)
        scope.shield = True

    async def _run(
        self,
        scope: trio.CancelScope,
        run: Callable[..., Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        with scope:
            try:
                await run(task_status=task_status)
            except Exception as error:  # noqa: BLE001 - it is raised, or told, elsewhere
                self._failure = self._failure or error
                if self._is_open:
                    self._failed(_reason_of(error))
                else:
                    self._opening.cancel()

    def _note_lost(self, member: int) -> None:
        self.store.lost(member)
        self._pump.wake()


def _reason_of(error: Exception) -> Exception:
    """What has ended the store: the error, unless somebody has dropped or changed the tables."""
    cause = without_groups(error)
    if not isinstance(cause, psycopg.Error) or not schema_version.is_gone(cause):
        return error
    reason = StoreDatabaseError(f"the database cannot be used any more: {one_line(cause)}")
    reason.__cause__ = cause
    return reason


class _Told:
    """What the listener tells, for the store and the pump."""

    def __init__(self, store: SharedStore, pump: Pump) -> None:
        self.hint = store.hint
        self.hint_new = pump.hint_new
        self.hint_due = pump.hint_due
        self.ended = store.remote_ends.note_over
        self.cancel = store.note_cancel
        self.beaten = store.note_beat
        self._store = store
        self._drop_log = DropLog()

    def ask_anew(self) -> None:
        """See `Told.ask_anew`."""
        self._store.remote_ends.watch_all()
        self._store.hint(None)

    def dropped(self, counts: Mapping[str, int]) -> None:
        """See `Told.dropped`."""
        for name, number in counts.items():
            outcome = Outcome(name)
            self._store.dropped[outcome] += number
            self._drop_log.note(outcome, self._store.dropped)


def migrate(url: str) -> int:
    """Bring the tables of a database to this version; in a program that runs no Trio.

    Returns:
        The version that they have now: a newer one stays as it is.

    Raises:
        StoreDatabaseError: The database cannot be reached, or refuses, or has newer tables that
            this program cannot use; nothing has changed.
    """
    try:
        return trio.run(_migrate, url)
    except psycopg.Error as error:
        raise StoreDatabaseError(one_line(error)) from error


async def _migrate(url: str) -> int:
    async with await connect(url, name="migrate") as connection:
        before = await schema_version.migrate(connection)
        await schema_version.check_schema(connection)
    return max(before, schema_version.VERSION)


def check_urls(settings: StoreSettings) -> None:
    """Check that the URLs of the database can be read; nothing is connected.

    Raises:
        ConfigError: One cannot. The text shows nothing of it: a password may be in it.
    """
    for name, url in (("url", settings.url), ("listen_url", settings.listen_url)):
        if url is None:
            continue
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            text = "must be a URL that libpq takes, got a value that is not shown here"
            raise ConfigError(f"store.{name} {text}") from None


def _reading(timeout: float) -> dict[str, str]:
    """The settings of a connection for reading."""
    return {
        **_LASTING,
        "default_transaction_read_only": "on",
        "statement_timeout": str(math.ceil(timeout * 1_000)),
    }
