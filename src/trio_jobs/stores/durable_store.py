"""`DurableStore`: unfinished jobs in memory, every job in a file; it shows what is in the file."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial

import trio
from msgspec.structs import replace

from trio_jobs.job import Ending, Job, JobStatus, Later, Left, Outcome
from trio_jobs.pool.job_query import ALL_JOBS, JobQuery, Order
from trio_jobs.pool.refusals import StoreTimeoutError, StoreWriteError
from trio_jobs.pool.store import (
    InvalidTransitionError,
    JobNotFoundError,
    StoreStatistics,
    UnfinishedJobs,
)
from trio_jobs.stores.file_port import JournalPort, ReaderPort, Stored
from trio_jobs.stores.transitions import (
    COMPLETED,
    CUT_OFF,
    PENDING,
    PROCESSING,
    cancel_requested,
    claimed,
    completed,
    made_due,
    postponed,
    refuse,
    released,
    rerun,
)

log = logging.getLogger(__name__)

# What is called with a job when its end is written.
Show = Callable[[Job], None] | None

# The seq and the record of a job that has ended, and what is called when its end is written.
End = tuple[int, Job, Show]

# What a client's request makes of a job, at this time.
Change = Callable[[Job, datetime], Job]

# How many ends may be unwritten before workers wait. Each is a job that runs again after a crash.
MAX_UNWRITTEN_ENDS = 1_000


def _nothing() -> None:
    """Do nothing when a record has landed that no task waits for."""


class DurableStore:
    """All jobs, in a file; `trio_jobs.pool.store.DurableStorePort` says what each method does.

    Unfinished jobs are in memory too, and their moves are plain: each is handed to the journal at
    once, and written soon. A job that has ended stays in memory, processing, until its end is on
    the disk; then clients see it, in the file.

    A crash may take back a claim, or a postponement, that was not yet written. A worker waits for a
    claim that must not be taken back (`begun`).

    Args:
        journal: Writes the file.
        reader: Reads it.
        pending: The unfinished jobs of earlier processes, with their seqs.
        last_seq: The greatest seq in the file.
        repeatable: Whether jobs of a type may run again after a process has died in them.
        timeout: See `trio_jobs.pool.store.DurableStorePort`.
        now: The wall clock, as an aware UTC time.
        soon: Calls a function in the event loop at the end of a turn (`EndOfTurn`). Until then
            claims and ends are collected; then the journal gets them together, without the claims
            of jobs that have ended meanwhile. None: each is handed over at once.
    """

    def __init__(
        self,
        journal: JournalPort,
        reader: ReaderPort,
        pending: Iterable[Stored],
        *,
        last_seq: int,
        repeatable: Callable[[str], bool],
        timeout: float,
        now: Callable[[], datetime],
        soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.timeout = timeout
        self.meanwhile = journal.meanwhile
        self._journal = journal
        self._reader = reader
        self._repeatable = repeatable
        self._now = now
        self._last_seq = last_seq
        # Of the unfinished jobs, and of those whose ends are unwritten.
        self._jobs: dict[str, Job] = {}
        self._seqs: dict[str, int] = {}
        self._keys: dict[str, str] = {}
        for seq, job in pending:
            self._take_in(job, seq)
        self._from_file = set(self._jobs)
        self._processing = 0  # how many jobs are
        self._soon = soon
        self._claims: dict[str, Job] = {}  # not yet handed to the journal
        self._ends: list[End] = []
        self._is_hand_over_due = False  # whether the loop will call `hand_over`
        self._ending: dict[str, Job] = {}  # the records of the unwritten ends
        self._fewer_ends = trio.Event()
        self._not_begun: set[str] = set()  # claimed, and cut off before their handlers began
        self._released: set[str] = set()
        self._cut_off: dict[str, Job] = {}  # ended by a release
        # Unfinished jobs with an unwritten request, as they were before it: as clients see them.
        self._not_yet_changed: dict[str, Job] = {}
        self._keeps_pending = False

    def __len__(self) -> int:
        """How many jobs are in memory."""
        return len(self._jobs)

    @property
    def disk(self) -> "DurableStore":
        """What a worker waits for: this store."""
        return self

    @property
    def unwritten(self) -> int:
        return self._journal.unwritten

    @property
    def failing_seconds(self) -> float | None:
        failing = self._journal.failing
        return None if failing is None else round(time.monotonic() - failing[0], 3)

    @property
    def hangs(self) -> bool:
        # A journal that fails goes on, and each submission tries it again.
        journal = self._journal
        return journal.failing is None and journal.oldest_unwritten_seconds > self.timeout

    # New jobs.

    def add(self, job: Job) -> None:
        """Refuse the job: nobody can wait here until it is on the disk."""
        raise TypeError(f"job {job.id!r} can not be added at once to a file: use add_all")

    def add_all(
        self,
        jobs: Sequence[Job],
        *,
        reruns: Mapping[str, Stored],
        landed: Callable[[], None],
        refused: Callable[[Exception], None],
    ) -> None:
        first = self._last_seq + 1
        records: list[tuple[int, Job | None]] = list(enumerate(jobs, first))
        if reruns:
            olds = dict(reruns)
            for job in jobs:
                if job.rerun_of is not None:
                    seq, old = olds[job.rerun_of]
                    olds[job.rerun_of] = seq, rerun(old, job.id)
            records += olds.values()
        self._last_seq += len(jobs)
        self._journal.append(
            records, landed=partial(self._land, jobs, first, landed), refused=refused
        )

    def _land(self, jobs: Sequence[Job], first: int, landed: Callable[[], None]) -> None:
        for seq, job in enumerate(jobs, first):
            self._take_in(job, seq)
        landed()

    def _take_in(self, job: Job, seq: int) -> None:
        self._jobs[job.id] = job
        self._seqs[job.id] = seq
        if job.key is not None:
            self._keys[job.key.text] = job.id

    # The moves.

    def claim(self, job_id: str) -> Job | None:
        job = self._get(job_id, PENDING, PROCESSING)
        if job_id in self._released:
            raise InvalidTransitionError(f"job {job_id!r} was released; it is not handed out again")
        if self._keeps_pending and not job.cancel_requested:
            return None
        job = self._jobs[job_id] = claimed(job, self._now())
        self._claims[job_id] = job
        self._hand_over_soon()
        self._processing += 1
        return job

    def complete(
        self, job_id: str, ending: Ending, *, duration: float | None = None, show: Show = None
    ) -> Job:
        job = self._get(job_id, PROCESSING, COMPLETED)
        job = completed(job, ending, self._now(), duration)
        self._processing -= 1
        self._claims.pop(job_id, None)
        self._ending[job_id] = job
        self._ends.append((self._seqs[job_id], job, show))
        self._hand_over_soon()
        return job

    def postpone(self, job_id: str, later: Later) -> Job:
        job = postponed(self._get(job_id, PROCESSING, PENDING), later, self._now())
        self._write(job)
        self._processing -= 1
        return job

    def release(
        self, job_id: str, *, begun: bool = True, left: Left | None = None, show: Show = None
    ) -> None:
        job = self._get(job_id, PROCESSING, PENDING)
        if not begun:
            self._not_begun.add(job_id)
        if job_id not in self._not_begun and not self._repeatable(job.type):
            self._cut_off[job_id] = self.complete(job_id, replace(CUT_OFF, left=left), show=show)
            return
        self._write(released(job, left))
        self._processing -= 1
        self._released.add(job_id)

    async def note(self, name: str, value: str) -> None:
        self._journal.append((), landed=_nothing, mark=(name, value))
        await self._write_now(())  # with all before it

    def keep_pending(self) -> None:
        self._keeps_pending = True

    def hand_over(self) -> None:
        """Hand the claims and the ends so far to the journal."""
        self._is_hand_over_due = False
        if self._ends:
            ends, self._ends = self._ends, []
            records = [(seq, job) for seq, job, _ in ends]
            self._journal.append(records, landed=partial(self._show_all, ends))
        if self._claims:
            records = [(self._seqs[job_id], job) for job_id, job in self._claims.items()]
            self._claims.clear()
            self._journal.append(records, landed=_nothing)

    def _hand_over_soon(self) -> None:
        if self._soon is None:
            self.hand_over()
        elif not self._is_hand_over_due:
            self._is_hand_over_due = True
            self._soon(self.hand_over)

    def _write(self, job: Job, *, landed: Callable[[], None] = _nothing) -> None:
        self._jobs[job.id] = job
        self._claims.pop(job.id, None)
        self._journal.append(((self._seqs[job.id], job),), landed=landed)

    def _show_all(self, ends: Sequence[End]) -> None:
        for _, job, show in ends:
            self._show(job, show)

    def _show(self, job: Job, show: Show) -> None:
        """Let a job whose end is on the disk leave the memory."""
        del self._jobs[job.id], self._seqs[job.id], self._ending[job.id]
        self._from_file.discard(job.id)
        self._not_yet_changed.pop(job.id, None)
        if job.key is not None:
            del self._keys[job.key.text]
        if len(self._ending) == MAX_UNWRITTEN_ENDS:
            self._fewer_ends.set()
            self._fewer_ends = trio.Event()
        if show is not None:
            show(job)

    # What workers wait for.

    @property
    def is_behind(self) -> bool:
        return len(self._ending) > MAX_UNWRITTEN_ENDS

    def begins_later(self, job: Job) -> bool:
        may_run_again = job.id not in self._from_file and self._repeatable(job.type)
        return not (may_run_again or job.cancel_requested)

    async def begun(self, job: Job) -> Job:
        if not self.begins_later(job):
            return job
        try:
            await self.settled()
        except BaseException:
            self._not_begun.add(job.id)
            raise
        return self._jobs[job.id]

    async def caught_up(self) -> None:
        while self.is_behind:
            await self._fewer_ends.wait()

    async def settled(self) -> None:
        self.hand_over()
        await self._journal.settled()

    # What clients ask for.

    def find_nowait(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFoundError(f"no unfinished job {job_id!r}") from None

    def find_key_nowait(self, text: str) -> Job | None:
        job_id = self._keys.get(text)
        return None if job_id is None else self._jobs[job_id]

    def shown_nowait(self, job_id: str) -> Job:
        """The unfinished job as clients see it; see `find_nowait`."""
        return self._shown(job_id) or self.find_nowait(job_id)

    async def find(self, job_id: str) -> Job:
        while (job := self._shown(job_id)) is None:
            job = (await self.find_stored(job_id))[1]
            if job.status is COMPLETED:
                return job
            if job_id not in self._jobs:  # it is just coming in, or it has ended since it was read
                with suppress(StoreWriteError):  # all that was on the disk has been shown now
                    await self._write_now(())
        return job

    async def find_stored(self, job_id: str) -> Stored:
        return (await self.find_all_stored([job_id]))[job_id]

    async def find_many(self, job_ids: Collection[str]) -> list[Job]:
        found = await self._find_stored(job_ids)
        # The memory last: a job may have come in.
        jobs = [self._shown(each) or found.get(each, (0, None))[1] for each in job_ids]
        return [job for job in jobs if job is not None]

    async def find_all_stored(self, job_ids: Collection[str]) -> dict[str, Stored]:
        found = await self._find_stored(job_ids)
        for job_id in job_ids:
            if job_id not in found:
                raise JobNotFoundError(f"no job {job_id!r}")
        return {id_: (seq, self._jobs.get(id_, job)) for id_, (seq, job) in found.items()}

    async def _find_stored(self, job_ids: Collection[str]) -> dict[str, Stored]:
        if not self._ending.keys().isdisjoint(job_ids):
            await self._write_now(())  # with all before it
        return {job.id: (seq, job) for seq, job in await self._reader.find_many(list(job_ids))}

    async def find_keys(self, texts: Iterable[str]) -> dict[str, Job]:
        texts = list(texts)
        found: dict[str, Job] = {}
        if any(text not in self._keys for text in texts):
            for job in await self._reader.find_keys(texts):
                if job.key is not None:
                    found[job.key.text] = job
        # The memory last: a job may have come in, and one that has gone was in the file.
        for text in texts:
            if (job_id := self._keys.get(text)) is not None:
                found[text] = self.shown_nowait(job_id)
        return found

    async def page(
        self, query: JobQuery = ALL_JOBS, *, after: str | None = None, limit: int
    ) -> list[Job]:
        jobs = await self._reader.page(query, after=after, limit=limit)
        return jobs if query.order is Order.ENDED else self.now_of(jobs)

    async def count(self, query: JobQuery) -> tuple[Mapping[tuple[str, Outcome], int], list[Job]]:
        return await self._reader.count(query)

    def now_of(self, jobs: Iterable[Job]) -> list[Job]:
        # Each job that is in memory is in the file too, perhaps as it was a moment ago: pending,
        # say, although it is processing.
        return [self._shown(job.id) or job for job in jobs]

    def _shown(self, job_id: str) -> Job | None:
        """The job as clients see it, if it is in memory: its cancel shows when it is written."""
        return self._not_yet_changed.get(job_id) or self._jobs.get(job_id)

    async def request_cancel(
        self, job_id: str, *, noted: Callable[[str], None] | None = None
    ) -> Job:
        return await self._request(job_id, cancel_requested, "being cancelled", noted)

    def request_cancel_nowait(self, job_id: str) -> Job:
        """The plain step of `request_cancel`, for a job that is in memory."""
        job = self._change(job_id, cancel_requested)
        self._write(job, landed=partial(self._show_change, job_id))
        return job

    async def make_due(self, job_id: str, *, noted: Callable[[str], None]) -> Job:
        return await self._request(job_id, made_due, "due", noted)

    async def _request(
        self, job_id: str, change: Change, is_now: str, noted: Callable[[str], None] | None
    ) -> Job:
        while job_id not in self._jobs or job_id in self._ending:
            # Refused, unless the job is just coming in.
            change((await self.find_stored(job_id))[1], self._now())
        job = self._change(job_id, change)
        if noted is not None:
            noted(job_id)
        try:
            await self._write_now(
                [(self._seqs[job_id], job)],
                landed=partial(self._show_change, job_id),
                refused=partial(self._write_when_possible, job_id),
            )
        except StoreWriteError as error:
            kept = f"the job is {is_now}, but a crash can take that back"
            raise StoreWriteError(str(error), kept=kept) from error
        return self._jobs.get(job_id, job)

    def _change(self, job_id: str, change: Change) -> Job:
        before = self._ending.get(job_id) or self.find_nowait(job_id)
        job = self._jobs[job_id] = change(before, self._now())
        self._not_yet_changed.setdefault(job_id, before)
        return job

    def _show_change(self, job_id: str) -> None:
        self._not_yet_changed.pop(job_id, None)

    def _write_when_possible(self, job_id: str) -> None:
        """Let the journal write the job as it is now, when it can; its end has its own record."""
        if job_id in self._jobs and job_id not in self._ending:
            self._write(self._jobs[job_id], landed=partial(self._show_change, job_id))

    async def delete(self, job_id: str) -> None:
        seq, job = await self.find_stored(job_id)
        if job.status is not COMPLETED:
            raise InvalidTransitionError(
                f"job {job_id!r} is {job.status}; only a completed job can be deleted"
            )
        await self._write_now([(seq, None)])

    async def _write_now(
        self,
        records: Sequence[tuple[int, Job | None]],
        *,
        landed: Callable[[], None] = _nothing,
        refused: Callable[[], None] = _nothing,
    ) -> None:
        """Write records, unless the disk refuses them; all that was handed over is written before.

        Args:
            records: What to write.
            landed: Called when they are on the disk, even if this task is cancelled by then.
            refused: Called when the disk refuses them, likewise.

        Raises:
            StoreWriteError: They are not written, and will not be.
            StoreTimeoutError: It is not yet known.
        """
        self.hand_over()
        over = trio.Event()
        errors: list[Exception] = []

        def land() -> None:
            landed()
            over.set()

        def refuse(error: Exception) -> None:
            refused()
            errors.append(error)
            over.set()

        self._journal.append(records, landed=land, refused=refuse)
        with trio.move_on_after(self.timeout):
            await over.wait()
        if errors:
            raise StoreWriteError(str(errors[0])) from errors[0]
        if not over.is_set():
            raise StoreTimeoutError(self.timeout)

    # Counts.

    def unfinished(self) -> UnfinishedJobs:
        # Copied in one call: no other thread can change the dict within it.
        jobs = [job for job in list(self._jobs.values()) if job.id not in self._ending]
        cut_off = list(self._cut_off.values())
        begun = (self._released - self._not_begun) | self._cut_off.keys()
        return UnfinishedJobs.of(jobs + cut_off, released=begun)

    def unwritten_ends(self) -> list[str]:
        """The ids of the jobs that have ended, and whose ends are not on the disk."""
        return sorted(self._ending.copy())

    def statistics(self) -> StoreStatistics:
        processing = self._processing
        return StoreStatistics(
            pending=len(self._jobs) - processing - len(self._ending),
            processing=processing,
            completed=self._journal.kept.jobs,
            completed_bytes=self._journal.kept.bytes,
            dropped=dict(self._journal.dropped),
        )

    def _get(self, job_id: str, expected: JobStatus, wanted: JobStatus) -> Job:
        """The job, if it has the status from which the move leads to the wanted one."""
        job = self._ending.get(job_id) or self._jobs.get(job_id) or self.find_nowait(job_id)
        if job.status is not expected:
            refuse(job, expected, wanted)
        return job
