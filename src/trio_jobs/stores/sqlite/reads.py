"""`FileReader`: reads jobs from the file, in threads, while the journal writes.

Each of its connections reads only, and sees what is committed: what it finds, no crash takes back.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeVar

import trio

from trio_jobs.job import Job, Outcome
from trio_jobs.pool.job_query import JobQuery
from trio_jobs.stores.sqlite.counts import count_jobs
from trio_jobs.stores.sqlite.queries import find_keys, find_many, find_page
from trio_jobs.stores.sqlite.store_file import Connect, StoreFile, connect, uri

_T = TypeVar("_T")

# Reads at the same time. More would wait for one another in the interpreter.
_THREADS: Final = 4


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
        return await self._read(partial(find_many, job_ids=list(job_ids)))

    async def find_keys(self, texts: Iterable[str]) -> list[Job]:
        """The jobs that have one of these idempotency keys."""
        return await self._read(partial(find_keys, texts=list(texts)))

    async def page(self, query: JobQuery, *, after: str | None, limit: int) -> list[Job]:
        """Jobs in the order of the query; see `find_page`.

        The jobs have neither their payloads (but ``null``) nor their results: no listing shows
        them.
        """
        return await self._read(partial(find_page, query=query, after=after, limit=limit))

    async def count(self, query: JobQuery) -> tuple[dict[tuple[str, Outcome], int], list[Job]]:
        """The numbers of ended jobs, and the unfinished ones; see `count_jobs`."""
        return await self._read(partial(count_jobs, query=query))

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
