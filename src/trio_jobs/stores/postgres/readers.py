"""The connections for reading: a few for all requests of a server."""

import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import trio
from psycopg.abc import Params, QueryNoTemplate

from trio_jobs.pool.refusals import NO_ANSWER, StoreUnavailableError
from trio_jobs.stores.postgres.failures import one_line
from trio_jobs.stores.postgres.trio_connection import LOST, TrioConnection, pause_before

log = logging.getLogger(__name__)


class Readers:
    """Reads from a database over a few connections, which are made when they are needed.

    Args:
        connect: Makes a connection, in autocommit.
        size: How many connections there are at the most.
        timeout: Seconds after which a read gives up.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[TrioConnection]],
        *,
        size: int = 2,
        timeout: float,
    ) -> None:
        self._connect = connect
        self._timeout = timeout
        self._turns = trio.CapacityLimiter(size)
        self._idle: list[TrioConnection] = []
        self._closed = False
        self._is_failing = False  # said once, until a read succeeds

    async def fetch(
        self, sql: QueryNoTemplate, params: Params | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows of a statement that changes nothing; it is repeated after a lost connection.

        Raises:
            StoreUnavailableError: If the database has not answered in time, or is not able to.
        """
        failure: Exception | None = None
        with trio.move_on_after(self._timeout):
            for attempt in itertools.count(1):
                async with self._turns:
                    try:
                        rows = await self._fetch(sql, params)
                    except LOST as error:
                        failure = error
                        # A database that goes takes all its connections with it.
                        self._close_idle()
                    else:
                        self._is_failing = False
                        return rows
                await pause_before(attempt)
        # A network that swallows what one connection sends may do so with the others, too.
        self._close_idle()
        if failure is not None and not self._is_failing:
            self._is_failing = True
            log.warning("reads_failing", extra={"reason": one_line(failure)})
        raise StoreUnavailableError(NO_ANSWER)

    def close(self) -> None:
        """Close the connections; a read that is under way closes its own as it ends."""
        self._closed = True
        self._close_idle()

    async def _fetch(self, sql: QueryNoTemplate, params: Params | None) -> list[tuple[Any, ...]]:
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            cursor = await connection.execute(sql, params)
            return await cursor.fetchall()
        except psycopg.OperationalError as error:
            if connection.closed:
                raise
            # Its own timeout has ended the statement, say: it would come to the same again.
            raise StoreUnavailableError(f"{NO_ANSWER}: {error}") from error
        finally:
            if self._closed:
                connection.finish()
            elif not connection.closed:  # as it is after a cancellation
                self._idle.append(connection)

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().finish()
