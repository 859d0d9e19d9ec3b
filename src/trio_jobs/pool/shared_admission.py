"""`SharedAdmission`: admits a job once the database that several servers share has it."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

import trio

from trio_jobs.job import Job
from trio_jobs.pool.awaited_admission import AwaitedAdmission
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.disk_timer import DiskTimer
from trio_jobs.pool.fetching import Fetching
from trio_jobs.pool.job_spec import JobSpec, make_jobs
from trio_jobs.pool.refusals import (
    NO_ANSWER,
    ShuttingDownError,
    StoreTimeoutError,
    StoreUnavailableError,
    StoreWriteError,
)
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.shared_port import SharedStorePort
from trio_jobs.pool.store import DuplicateJobError, StoreError

log = logging.getLogger(__name__)


class SharedAdmission(AwaitedAdmission):
    """An `AwaitedAdmission` over a database: a job is in when it is there.

    Which server runs it, and when, the database decides. So a new job needs no slot in a channel,
    but room among the unfinished jobs of all servers: an estimate, since others take jobs in, too.

    The awaited methods raise, too:
        StoreWriteError: The database cannot be written.
        StoreUnavailableError: It does not answer; nothing was kept.
        StoreTimeoutError: It did not answer in time; the job may come in later.

    A task that is cancelled while it waits for the database changes nothing: the jobs come in.

    Args:
        channel: See `Admission`.
        store: The jobs.
        room: The room for unfinished jobs, also those for a later time: `close` closes it.
        slots: The slots for fetched jobs: likewise.
        schedule: The jobs that are held here.
        fetching: Knows how many jobs are on their way to the database.
        timer: Times the waits.
        new_id: See `Admission`.
        now: See there.
        submitted: Called with each job that is in.
    """

    keeps_pending = True
    written_to = "database"

    def __init__(
        self,
        channel: trio.MemorySendChannel[str],
        store: SharedStorePort,
        room: Capacity,
        slots: Capacity,
        schedule: Schedule,
        fetching: Fetching,
        timer: DiskTimer,
        *,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
        submitted: Callable[[Job], None] | None = None,
    ) -> None:
        super().__init__(channel, store, room, schedule, None, new_id=new_id, now=now)
        self._database = store
        self._slots = slots
        self._fetching = fetching
        self._timer = timer
        self._submitted = submitted

    @trio.lowlevel.enable_ki_protection
    async def admit(self, spec: JobSpec) -> Job:
        """See `Admission.admit`."""
        return (await self._admit([spec], batch=False))[0]

    @trio.lowlevel.enable_ki_protection
    async def admit_all(self, specs: Sequence[JobSpec]) -> list[Job]:
        """See `Admission.admit_all`."""
        return await self._admit(specs, batch=True)

    @trio.lowlevel.enable_ki_protection
    async def admit_up_to(self, specs: Sequence[JobSpec]) -> list[Job]:
        """See `Admission.admit_up_to`; jobs for later times and others come in together.

        Cancellation:
            Acted on while waiting for room, not while waiting for the database: a stream tells its
            client how many jobs are in, also if a shutdown cancels it.
        """
        await trio.lowlevel.checkpoint()
        self._check_database()
        specs = self._up_to_full(specs)
        if not specs:
            return []
        if self._capacity.free <= 0:
            self._want_room()
        room = await self._capacity.reserve_up_to(len(specs))
        if not room:
            raise ShuttingDownError
        self._check_intake(room)
        specs = _without_repetition(specs[:room])
        if len(specs) < room:
            self._capacity.slot_freed(room - len(specs))
        with trio.CancelScope(shield=True):
            try:
                return await self._reserved(specs)
            except DuplicateJobError:
                pass
            # Another client has one of the keys. If not that of the first, take that one in.
            if len(specs) > 1 and not self._capacity.reserve(1):
                try:
                    return await self._reserved(specs[:1])
                except DuplicateJobError:
                    pass
        return []

    def close(self) -> None:
        """Refuse new jobs; give back those that have not begun; running ones end. Idempotent."""
        self._capacity.close()
        self._slots.close()
        self._database.keep_pending()
        self._channel.close()

    async def _admit(self, specs: Sequence[JobSpec], *, batch: bool) -> list[Job]:
        self._check_database()
        self._check_types(specs)
        if not specs:
            return []
        if missing := self._capacity.reserve(len(specs), batch=batch):
            self._want_room()
            raise self._refusal(missing)
        return await self._reserved(specs)

    def _check_database(self) -> None:
        if self.closed or not self._channel.statistics().open_receive_channels:
            raise ShuttingDownError
        if self._database.hangs:
            raise StoreUnavailableError(NO_ANSWER)

    def _want_room(self) -> None:
        """Have the unfinished jobs counted: others may have ended since."""
        self._fetching.counts_soon = True
        self._database.wake()

    async def _reserved(self, specs: Sequence[JobSpec]) -> list[Job]:
        """Make the jobs, and wait until they are in the database; the room is reserved already."""
        under_way = _UnderWay()
        try:
            jobs = make_jobs(specs, self._new_id, self._now())
            submission = self._database.submit(
                jobs,
                landed=partial(self._land, jobs, under_way),
                refused=partial(self._refuse, jobs, under_way),
            )
        except BaseException:
            self._capacity.slot_freed(len(specs))
            raise
        self._fetching.under_way += len(jobs)
        in_time = await self._timer.wait(under_way.over)
        if not in_time and self._database.withdraw(submission):
            self._refuse(jobs, under_way, StoreUnavailableError(NO_ANSWER))
        return under_way.result(jobs, in_time=in_time, timeout=self._database.timeout)

    def _land(self, jobs: Sequence[Job], under_way: "_UnderWay") -> None:
        self._fetching.under_way -= len(jobs)
        under_way.is_in = True
        under_way.over.set()
        if self._submitted is not None:
            for job in jobs:
                self._submitted(job)
        if log.isEnabledFor(logging.DEBUG):
            for job in jobs:
                log.debug("job_admitted", extra={"job_id": job.id, "job_type": job.type})

    def _refuse(self, jobs: Sequence[Job], under_way: "_UnderWay", error: Exception) -> None:
        self._fetching.under_way -= len(jobs)
        self._capacity.slot_freed(len(jobs))
        under_way.error = error
        under_way.over.set()


class _UnderWay:
    """Jobs on their way to the database.

    Attributes:
        over: Set when they are in, or refused.
        is_in: Whether they are in.
        error: Why they were refused; None if they were not.
    """

    __slots__ = ("error", "is_in", "over")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.is_in = False
        self.error: Exception | None = None

    def result(self, jobs: list[Job], *, in_time: bool, timeout: float) -> list[Job]:
        """The jobs, if they are in.

        Raises:
            StoreTimeoutError: It is not known whether they are.
            StoreUnavailableError: They are not: the database did not answer.
            StoreWriteError: They are not: it refuses to write.
            StoreError: They are not: one of them was refused.
        """
        if self.is_in:
            return jobs
        if self.error is None:
            assert not in_time  # noqa: S101 - the event is set when the jobs are in, or refused
            raise StoreTimeoutError(timeout, "the database")
        if isinstance(self.error, StoreError | StoreUnavailableError):
            raise self.error
        raise StoreWriteError(str(self.error)) from self.error


def _without_repetition(specs: Sequence[JobSpec]) -> Sequence[JobSpec]:
    """The first ones, up to the first repeated key."""
    texts: set[str] = set()
    for number, spec in enumerate(specs):
        if spec.key is not None:
            if spec.key.text in texts:
                return specs[:number]
            texts.add(spec.key.text)
    return specs
