"""`DatabaseHealth`: whether the database answers, is connected, and accepts writes.

The pump reports what it meets; the log and the server's statistics tell of it.
"""

import logging
import time
from typing import Final

import psycopg
import trio

from trio_jobs.stores.postgres.failures import READ_ONLY, one_line
from trio_jobs.stores.postgres.outage import Outage
from trio_jobs.stores.postgres.round import Batch

log = logging.getLogger("trio_jobs.stores.postgres.pump")

# What the database can refuse: two parts of a round, and requests beside it.
_MOVES: Final = "moves"
_NEW: Final = "new"
REQUEST: Final = "request"


class DatabaseHealth:
    """How the database has treated the pump's statements until now.

    Args:
        timeout: Seconds without an answer after which the database counts as hanging.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._lost = Outage(log, "database_lost", "database_back", "database_not_reached")
        # Of rounds, and of a `REQUEST`, that the database ends again and again, as by a timeout.
        self.writes = Outage(log, "writes_failing", "writes_work_again")
        self._waiting_since: float | None = None  # for an answer or a connection, by Trio's clock
        self._refusing_since: float | None = None  # by the monotonic clock
        # What the database has refused and not written since: a full disk has room for some parts.
        self._refused: set[str] = set()

    @property
    def hangs(self) -> bool:
        """Whether the pump has waited for longer than the timeout."""
        since = self._waiting_since
        return since is not None and trio.current_time() - since > self._timeout

    @property
    def failing(self) -> float | None:
        """Since when, by the monotonic clock, the database has refused to write; or None."""
        return self._refusing_since

    def asked(self) -> None:
        """A statement was sent."""
        if self._waiting_since is None:
            self._waiting_since = trio.current_time()

    def answered(self) -> None:
        """The database has answered, perhaps with an error; or the pump has nothing to do."""
        self._waiting_since = None

    def lost(self, error: Exception) -> None:
        """The connection is lost, or none can be made: the pump waits for another one."""
        self.asked()
        self._lost.fails(error)

    def refused(self, error: psycopg.Error, *parts: str) -> None:
        """The database refuses to write, and these parts in particular."""
        if error.sqlstate != READ_ONLY:  # a read-only database refuses every part, or none
            self._refused.update(parts)
        if self._refusing_since is None:
            self._refusing_since = time.monotonic()
            log.error("store_failing", extra={"reason": one_line(error)})

    def wrote(self, *parts: str) -> None:
        """The database has written something, and these parts in particular."""
        self._lost.works()
        self._refused.difference_update(parts)
        if _NEW in parts:  # a request needs less room, and may never come again
            self._refused.discard(REQUEST)
        if self._refusing_since is not None and not self._refused:
            seconds = time.monotonic() - self._refusing_since
            self._refusing_since = None
            log.warning("store_works_again", extra={"seconds": round(seconds, 3)})


def written_parts(batch: Batch | None) -> list[str]:
    """The parts of a round for which a full disk may have no room; all others are small."""
    parts = [] if batch is None else [(_MOVES, batch.moves), (_NEW, batch.new)]
    return [name for name, part in parts if part]
