"""`Journal`: hands records to the one thread that writes, and says when they are on the disk.

The thread takes all that was handed over since its last commit, writes it in one transaction, and
makes one call in the event loop. So the loop never waits for the disk, and all records of a commit
wake it once.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from trio_jobs.job import Outcome
from trio_jobs.stores.drop_log import DropLog
from trio_jobs.stores.sqlite.commit_errors import (
    is_unacceptable,
    passes,
    refusal_of,
    until_it_passes,
)
from trio_jobs.stores.sqlite.meanwhile import MANY, Meanwhile, is_worth_waiting
from trio_jobs.stores.sqlite.record_writer import Mark, Record, RecordWriter
from trio_jobs.stores.sqlite.retention import Kept, Retention
from trio_jobs.stores.sqlite.store_file import StoreFile

log = logging.getLogger(__name__)

# A commit takes no further part once it has so many records: the loop stands still while it makes
# the calls of one commit.
_MAX_RECORDS: Final = 2_000

# Seconds until the next attempt after a commit that failed, if nothing is handed over before.
_RETRY: Final = 0.25

# Seconds between two attempts to use the WAL's room again while no commit succeeds: each may copy
# the whole WAL.
_BETWEEN_CHECKPOINTS: Final = 1.0

# A commit that takes so many seconds gets a line in the log.
_SLOW: Final = 1.0


class _Entry:
    """Records that were handed over together.

    The loop writes the attributes; the thread only reads them, except for ``done``, which it
    never touches.
    """

    __slots__ = ("done", "landed", "mark", "records", "refused", "since")

    def __init__(
        self,
        records: Sequence[Record],
        landed: Callable[[], None],
        refused: Callable[[Exception], None] | None,
        mark: Mark | None,
    ) -> None:
        self.records = records
        self.mark = mark
        self.landed = landed
        self.refused = refused
        self.since = time.monotonic()
        self.done = False


class Journal:
    """Writes records in a thread of its own, in the order in which they are handed over.

    Args:
        file: The file; the thread closes its connection at the end.
        retention: Drops completed jobs; None: the file keeps all.
        failed: Called in the event loop, once, if the journal cannot go on: a sync has failed,
            the file is damaged or no longer there, or there is a bug. Nothing lands after that.
        soon: Calls a function in the event loop at the end of a turn (`EndOfTurn`): then the thread
            gets what was handed over until then. None: it gets each part at once.

    Attributes:
        unwritten: How many records are not yet on the disk.
        failing: Since when (`time.monotonic`) nothing can be written, and why; None if the last
            commit succeeded.
        kept: The completed jobs that the file holds; without ``retention`` nobody counts them.
        dropped: How many completed jobs were dropped, by outcome.
        meanwhile: See `JournalPort.meanwhile`.
    """

    def __init__(
        self,
        file: StoreFile,
        *,
        failed: Callable[[Exception], None],
        retention: Retention | None = None,
        soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.unwritten = 0
        self.kept = Kept() if retention is None else retention.kept
        self.dropped = dict.fromkeys(Outcome, 0)
        self.failing: tuple[float, str] | None = None
        self._identity = file.identity
        self._retention = retention
        self._connection = file.connection  # the thread's, once it has started
        self._failed = failed
        self._drop_log = DropLog()
        # Each part is what one turn has brought, or a few; None: close.
        self._queue: queue.SimpleQueue[list[_Entry] | None] = queue.SimpleQueue()
        # Of the loop alone: the entries from the oldest undone one on, and how many came before.
        self._entries: deque[_Entry] = deque()
        self._passed = 0
        # Entries that the thread does not have yet.
        self._next_part: list[_Entry] = []
        self._soon = soon
        self._looks_soon = False  # whether the loop will call `_look`
        self.meanwhile = Meanwhile(self._call_all, may_wait=soon is not None)
        self._waiting: deque[tuple[int, trio.Event]] = deque()
        self._ended = trio.Event()
        self._started = self._all_written = False
        # Of the thread alone: seconds until the next attempt, after a commit has failed.
        self._pause: float | None = None
        self._next_checkpoint = float("-inf")

    def start(self) -> None:
        """Start the thread; the event loop that runs now gets all calls."""
        self._started = True
        self._token = trio.lowlevel.current_trio_token()
        # A daemon: a disk that hangs must not keep the process alive.
        threading.Thread(target=self._run, name="trio-jobs-journal", daemon=True).start()

    @property
    def is_using_the_file(self) -> bool:
        """Whether its thread runs: to close the file then would make the loop wait for the disk."""
        return self._started and not self._ended.is_set()

    @property
    def oldest_unwritten_seconds(self) -> float:
        """How long ago the oldest record was handed over that is not on the disk; or 0."""
        return time.monotonic() - self._entries[0].since if self._entries else 0.0

    def append(
        self,
        records: Sequence[Record],
        *,
        landed: Callable[[], None],
        refused: Callable[[Exception], None] | None = None,
        mark: Mark | None = None,
    ) -> None:
        """Hand over records, which one commit writes together.

        Without ``refused`` they are moves, which have happened: the journal tries to write them
        until it can. With ``refused`` they are a submission: it gets one attempt.

        Args:
            records: Each a job's seq, and the job as it is now, or None if it is forgotten. A new
                job has a greater seq than all before it.
            landed: Called in the event loop when the records are on the disk.
            refused: Called in the event loop, instead, if they cannot be written; nothing of them
                is in the file. Its error is a `DuplicateJobError` if the file has a job's id or
                key already.
            mark: A name and its text, which are written too.
        """
        entry = _Entry(records, landed, refused, mark)
        self.unwritten += len(records)
        self._entries.append(entry)
        self._next_part.append(entry)
        if self._soon is None:
            self._pass_on()
        else:
            self._look_soon(self._soon)

    async def settled(self) -> None:
        """Wait until all that has been handed over is on the disk, or refused.

        Checkpoints:
            If there is something to wait for.
        """
        if self._entries:
            event = trio.Event()
            self._waiting.append((self._passed + len(self._entries), event))
            await event.wait()

    def report_dropped(self) -> None:
        """Log the drops since the last line about drops."""
        self._drop_log.report(self.dropped)

    async def close(self, seconds: float) -> bool:
        """Write the rest, and close the connection; nothing may be handed over from now on.

        Args:
            seconds: How long to wait for the disk at the most.

        Returns:
            Whether all is written.
        """
        if not self._started:
            return not self._entries
        self._pass_on()
        self._queue.put(None)
        with trio.move_on_after(seconds):
            await self._ended.wait()
        return self._all_written

    # In the event loop.

    def _pass_on(self) -> None:
        if self._next_part:
            self._queue.put(self._next_part)
            self._next_part = []

    def _look_soon(self, soon: Callable[[Callable[[], None]], object]) -> None:
        if not self._looks_soon:
            self._looks_soon = True
            soon(self._look)

    def _look(self) -> None:
        """At the end of a turn, start what need not wait for a commit: writes, and calls."""
        self._looks_soon = False
        next_ones = _records_of(self._next_part)
        waits = is_worth_waiting(under_way=self.unwritten - next_ones, next_ones=next_ones)
        if not waits or self.failing is not None:  # then each submission tries the disk again
            self._pass_on()
        if self.meanwhile and (not self._entries or self.unwritten > MANY):
            self._in_loop(self.meanwhile.make_calls)  # wakes the loop, which may be about to wait

    def _land(
        self, entries: Sequence[_Entry], seconds: float, dropped: Mapping[Outcome, int], kept: Kept
    ) -> None:
        self.kept = kept
        for outcome, count in dropped.items():
            if count:
                self.dropped[outcome] += count
                self._drop_log.note(outcome, self.dropped)
        if self.failing is not None:
            since = time.monotonic() - self.failing[0]
            self.failing = None
            log.warning("store_works_again", extra={"seconds": round(since, 3)})
        if seconds >= _SLOW:
            log.warning("store_slow", extra={"seconds": round(seconds, 3)})
        submissions = sum([entry.refused is not None for entry in entries])
        self.meanwhile.land(submissions=submissions, records=_records_of(entries))
        self._done(entries, [entry.landed for entry in entries])

    def _refuse(self, entries: Sequence[_Entry], error: Exception) -> None:
        calls = [entry.refused for entry in entries if entry.refused is not None]
        self._done(entries, [lambda call=call: call(error) for call in calls])  # type: ignore[misc]

    def _note_failure(self, error: Exception, entries: Sequence[_Entry]) -> None:
        if self.failing is None:
            self.failing = (time.monotonic(), str(error))
            log.error("store_failing", extra={"reason": str(error)})
        self._refuse(entries, error)
        self.meanwhile.make_calls()

    def _done(self, entries: Sequence[_Entry], calls: Iterable[Callable[[], None]]) -> None:
        for entry in entries:
            entry.done = True
        self.unwritten -= _records_of(entries)
        waiting = self._entries
        before = len(waiting)
        while waiting and waiting[0].done:
            waiting.popleft()
        self._passed += before - len(waiting)
        self._call_all(calls)
        while self._waiting and self._waiting[0][0] <= self._passed:
            self._waiting.popleft()[1].set()
        if self._soon is not None and (self._next_part or self.meanwhile):
            self._look_soon(self._soon)

    def _call_all(self, calls: Iterable[Callable[[], None]]) -> None:
        try:
            for call in calls:
                call()
        except Exception as error:  # noqa: BLE001 - a bug; raised here it would end Trio itself
            self._failed(error)

    def _end(self, error: Exception | None) -> None:
        self._all_written = error is None
        self._ended.set()
        if error is not None:
            self._failed(error)

    # In the thread.

    def _run(self) -> None:
        try:
            self._write_all()
        except Exception as error:  # noqa: BLE001 - the loop raises it
            self._in_loop(self._end, error)
        else:
            self._in_loop(self._end, None)

    def _in_loop(self, call: Callable[..., object], *args: object) -> None:
        with suppress(trio.RunFinishedError):  # nobody is left who could be told
            self._token.run_sync_soon(call, *args)

    def _write_all(self) -> None:
        self._writer = RecordWriter(self._connection, self._retention)
        held: list[_Entry] = []
        closing = False
        while held or not closing:
            entries, closed = self._take(held)
            closing = closing or closed
            if entries or self._pause is not None or self._writer.seconds_to_next_drop == 0:
                held = self._commit(entries)
        with until_it_passes():  # the next start checks the file
            self._writer.close()

    def _take(self, held: list[_Entry]) -> tuple[list[_Entry], bool]:
        """Wait for entries; return those to write now, and whether the journal is closed."""
        entries, count = held.copy(), 0
        try:
            timeout = self._pause if self._pause is not None else self._writer.seconds_to_next_drop
            part = self._queue.get(timeout=timeout)
            while part is not None:
                entries += part
                count += _records_of(part)
                if count >= _MAX_RECORDS:
                    break
                part = self._queue.get_nowait()
        except queue.Empty:
            return entries, False
        return entries, part is None

    def _commit(self, entries: list[_Entry]) -> list[_Entry]:
        """Write entries; return those to try again, which are moves."""
        began = time.monotonic()
        try:
            dropped = self._writer.write(
                [each for entry in entries for each in entry.records],
                [entry.mark for entry in entries if entry.mark is not None],
                flushes=self._flushes,
            )
        except sqlite3.Error as error:
            if is_unacceptable(error) and len(entries) > 1:
                return self._commit_one_by_one(entries)
            if is_unacceptable(error) and entries and entries[0].refused is not None:
                self._in_loop(self._refuse, entries, refusal_of(error))
                return []
            if not passes(error):
                raise
            submissions = [entry for entry in entries if entry.refused is not None]
            self._in_loop(self._note_failure, error, submissions)
            self._pause = _RETRY
            self._use_the_wal_again()
            return [entry for entry in entries if entry.refused is None]
        self._identity.check()
        self._pause = None
        kept = Kept() if self._retention is None else self._retention.kept
        self._in_loop(self._land, entries, time.monotonic() - began, dropped, kept)
        with until_it_passes():  # the WAL keeps what could not be copied
            self._writer.checkpoint(begins=partial(self._in_loop, self.meanwhile.make_calls))
        return []

    def _flushes(self) -> None:
        """Make calls now: until the commit is done, the loop has the interpreter for itself."""
        if self.meanwhile:
            self._in_loop(self.meanwhile.make_calls)

    def _use_the_wal_again(self) -> None:
        """Copy the WAL into the file: a reader may have kept it growing until the disk was full."""
        if time.monotonic() >= self._next_checkpoint:
            with until_it_passes():
                self._writer.checkpoint(pages=0)
            self._next_checkpoint = time.monotonic() + _BETWEEN_CHECKPOINTS

    def _commit_one_by_one(self, entries: list[_Entry]) -> list[_Entry]:
        for index, entry in enumerate(entries):
            if self._commit([entry]):
                return entries[index:]  # a later record of the same job must not get ahead
        return []


def _records_of(entries: Sequence[_Entry]) -> int:
    return sum([len(entry.records) for entry in entries])
