"""The store in a file: recovered before the event loop runs, open as long as the pool."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime
from operator import attrgetter
from pathlib import Path

import trio

from trio_jobs.handlers.registry import HandlerRegistry, UnknownTypeError
from trio_jobs.opened_store import ForPool
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.recovered_jobs import schedule_recovered
from trio_jobs.pool.unfinished import Line, split_into_lines
from trio_jobs.settings import StoreSettings
from trio_jobs.stores.durable_store import DurableStore
from trio_jobs.stores.end_of_turn import EndOfTurn
from trio_jobs.stores.sqlite.file_location import one_line
from trio_jobs.stores.sqlite.journal import Journal
from trio_jobs.stores.sqlite.reads import FileReader
from trio_jobs.stores.sqlite.recovery import Recovered, RecoveryRule, recover
from trio_jobs.stores.sqlite.retention import Retention
from trio_jobs.stores.sqlite.store_check import StoreReport as StoreReport
from trio_jobs.stores.sqlite.store_check import check_store as check_store
from trio_jobs.stores.sqlite.store_file import StoreFile, open_store_file

log = logging.getLogger(__name__)


class StoreInFile:
    """An `OpenedStore` in a file, locked for this process and recovered.

    Args:
        file: The file.
        recovered: What is in it.
        handlers: The users' functions.
        settings: The bounds of the file.
        failed: Called in the event loop if the journal cannot go on: the pool has to end.
        now: The wall clock, as an aware UTC time.
    """

    def __init__(
        self,
        file: StoreFile,
        recovered: Recovered,
        handlers: HandlerRegistry,
        settings: StoreSettings,
        *,
        failed: Callable[[Exception], None],
        now: Callable[[], datetime],
    ) -> None:
        self.for_pool = ForPool(last_id=recovered.last_id, now=now)
        self._file = file
        self._handlers = handlers
        self._recovered = sorted((*recovered.pending, *recovered.suspects))
        self._returned, self._ended = frozenset(recovered.returned), recovered.ended
        self._paused = recovered.paused
        retention = Retention(settings, kept=recovered.kept, now=now, keep_for=settings.keep_for)
        self._end_of_turn = EndOfTurn(failed)
        self._journal = Journal(file, failed=failed, retention=retention, soon=self._end_of_turn)
        self._reader = FileReader(file)
        self.store = DurableStore(
            self._journal,
            self._reader,
            self._recovered,
            last_seq=recovered.last_seq,
            repeatable=handlers.is_repeatable,
            timeout=settings.timeout,
            now=now,
            soon=self._end_of_turn,
        )
        self.find_nowait = self.store.shown_nowait

    def around(
        self,
        pool: Pool,  # noqa: ARG002
        stopping: trio.Event | None = None,  # noqa: ARG002
    ) -> AbstractAsyncContextManager[None]:
        """See `OpenedStore.around`; there are no connections."""
        return nullcontext()

    def start(self, pool: Pool) -> None:
        """See `OpenedStore.start`; starts the thread that writes, too."""
        self._journal.start()
        self._end_of_turn.open()
        pool.paused.pause(each for each in self._paused if each in self._handlers.table)
        jobs = [job for _, job in self._recovered]
        if pool.observation is not None:
            returned = [job for job in jobs if job.id in self._returned]
            pool.observation.note_recovered(returned, self._ended)
        schedule_recovered(jobs, pool.schedule, self._handlers)
        self._recovered, self._ended = [], []

    def unwritten_lines(self) -> Iterator[Line]:
        """See `OpenedStore.unwritten_lines`."""
        for job_ids in split_into_lines(self.store.unwritten_ends()):
            yield "unwritten_ends", {"job_ids": job_ids}

    async def close(self, pool: Pool, *, seconds: float) -> bool:
        """See `OpenedStore.close`; if the disk hangs, the file stays open, and locked."""
        if pool.kept:
            log.info("jobs_kept", extra={"count": pool.kept})
        # The readers first: only if the last connection to close is the one that writes, SQLite
        # moves the rest of the WAL into the file, and deletes the WAL.
        self._reader.close()
        self._end_of_turn.close()
        written = await self._journal.close(seconds)
        self._journal.report_dropped()
        if not written:
            for _, fields in self.unwritten_lines():
                log.error("unwritten_ends", extra=fields)
        if not self._journal.is_using_the_file:
            self._file.close()
        return written


class RecoveredFile:
    """A file that is open, locked and recovered, before the event loop runs.

    Args:
        path: The file.
        handlers: The users' functions.
        settings: How it is opened.
        now: The wall clock, as an aware UTC time.

    Raises:
        StoreFileError: The file cannot be used; nothing has changed.
    """

    def __init__(
        self,
        path: Path,
        handlers: HandlerRegistry,
        settings: StoreSettings,
        *,
        now: Callable[[], datetime],
    ) -> None:
        began = time.monotonic()
        self._handlers = handlers
        self._settings = settings
        self._now = now
        self._file = open_store_file(path, sync=settings.sync)
        try:
            with one_line(self._file.path):  # damage that only the jobs themselves show
                self._recovered = recover(self._file, self._rule_of, now=now())
        except BaseException:
            self._file.close()
            raise
        self._log(time.monotonic() - began)

    def open(self, failed: Callable[[Exception], None]) -> StoreInFile:
        """Open the store, in the event loop; see `StoreInFile`."""
        return StoreInFile(
            self._file,
            self._recovered,
            self._handlers,
            self._settings,
            failed=failed,
            now=self._now,
        )

    def close(self) -> None:
        """Close the file, if the store was not opened."""
        self._file.close()

    def _rule_of(self, type_: str) -> RecoveryRule | None:
        try:
            handler = self._handlers.find(type_)
        except UnknownTypeError:
            return None
        return RecoveryRule(
            repeatable=handler.repeatable, max_interruptions=handler.max_interruptions
        )

    def _log(self, seconds: float) -> None:
        found = self._recovered
        jobs = [job for _, job in (*found.pending, *found.suspects)]
        waiting = sum(job.run_at is not None for job in jobs)
        fields = {
            "path": str(self._file.path),
            "pending": len(jobs) - waiting,
            "waiting": waiting,
            "suspects": len(found.suspects),
            "completed": found.kept.jobs,
            "seconds": round(seconds, 3),
        }
        log.info("store_opened", extra=fields)
        for job_ids in split_into_lines(found.returned):
            log.warning("jobs_recovered", extra={"job_ids": job_ids})
        for job_ids in split_into_lines(map(attrgetter("id"), found.ended)):
            log.warning("jobs_interrupted_by_crash", extra={"job_ids": job_ids})
