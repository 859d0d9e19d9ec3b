"""`FileReader`: reads jobs from the file, in threads, while the journal writes.

Each of its connections reads only, and sees what is committed: what it finds, no crash takes back.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final, TypeVar

import trio

from trio_jobs.job import Job, Outcome
from trio_jobs.stores.sqlite.rows import SELECT_BRIEF, SELECT_WHOLE, brief_job, whole_job
from trio_jobs.stores.sqlite.store_file import Connect, StoreFile, connect, uri

_T = TypeVar("_T")

# Reads at the same time. More would wait for one another in the interpreter.
_THREADS: Final = 4

# Ids or keys of one query.
_AT_ONCE: Final = 500


class FileReader:
    """Looks up jobs that the file holds.

    Args:
        file: The file.
        connect: Opens a connection, given a URI.
    """

    def __init__(self, file: StoreFile, *, connect: Connect = connect) -> None:
        self._uri = uri(file.path, "ro")
        self._connect = connect
        self._limiter = trio.CapacityLimiter(_THREADS)
        # Those that no thread uses. A thread takes one, or opens one, and puts it back.
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False

    async def find_many(self, job_ids: Iterable[str]) -> list[tuple[int, Job]]:
        """Those of these jobs that the file has, each with its seq, in any order."""
        return await self._read(partial(_find_many, job_ids=list(job_ids)))

    async def find_keys(self, texts: Iterable[str]) -> list[Job]:
        """The jobs that have one of these idempotency keys."""
        return await self._read(partial(_find_keys, texts=list(texts)))

    async def page(
        self, *, after: str | None, limit: int, outcomes: Collection[Outcome] = ()
    ) -> list[Job]:
        """Up to ``limit`` jobs in the order of their ids, the first one greater than ``after``.

        The jobs have neither their payloads (but ``null``) nor their results: no listing shows
        them.

        Args:
            after: Any id; None for the first page.
            limit: The most jobs.
            outcomes: If there are any, only jobs that have ended so.
        """
        values = [outcome.value for outcome in outcomes]
        return await self._read(partial(_page, after=after or "", limit=limit, outcomes=values))

    def close(self) -> None:
        """Close the connections; one that a thread uses is closed when the thread has read."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        # A disk that hangs must not hold up a cancel. The thread then goes on without its caller.
        return await trio.to_thread.run_sync(
            self._in_thread, query, abandon_on_cancel=True, limiter=self._limiter
        )

    def _in_thread(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect(self._uri)
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA mmap_size = 0")
        try:
            found = query(connection)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        if self._closed:
            self.close()
        return found


def _find_many(connection: sqlite3.Connection, *, job_ids: list[str]) -> list[tuple[int, Job]]:
    found: list[tuple[int, Job]] = []
    for first in range(0, len(job_ids), _AT_ONCE):
        some = job_ids[first : first + _AT_ONCE]
        query = f"{SELECT_WHOLE} WHERE id IN ({_marks(some)})"
        found += map(whole_job, connection.execute(query, some))
    return found


def _find_keys(connection: sqlite3.Connection, *, texts: list[str]) -> list[Job]:
    jobs: list[Job] = []
    for first in range(0, len(texts), _AT_ONCE):
        some = texts[first : first + _AT_ONCE]
        # The index needs its condition repeated.
        query = f"{SELECT_WHOLE} WHERE key IS NOT NULL AND key IN ({_marks(some)})"
        jobs += [whole_job(row)[1] for row in connection.execute(query, some)]
    return jobs


def _page(
    connection: sqlite3.Connection, *, after: str, limit: int, outcomes: list[str]
) -> list[Job]:
    query = f"{SELECT_BRIEF} WHERE id > ?"
    if outcomes:
        query += f" AND status = 2 AND outcome IN ({_marks(outcomes)})"
        if Outcome.SUCCEEDED.value not in outcomes:  # for the index of the dead
            query += " AND outcome <> 'succeeded'"
    rows = connection.execute(f"{query} ORDER BY id LIMIT ?", (after, *outcomes, limit))
    return [brief_job(row) for row in rows]


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))
