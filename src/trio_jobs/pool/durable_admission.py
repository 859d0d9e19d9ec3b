"""`DurableAdmission`: takes a job in when it is on the disk."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from functools import partial

import trio

from trio_jobs.job import Job
from trio_jobs.pool.awaited_admission import AwaitedAdmission
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.disk_timer import DiskTimer
from trio_jobs.pool.job_spec import JobSpec, leading, make_jobs
from trio_jobs.pool.refusals import (
    AdmissionError,
    ShuttingDownError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from trio_jobs.pool.reservation import Name, Reservation, names_of
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.store import DuplicateJobError, DurableStorePort
from trio_jobs.pool.suspects import Suspects
from trio_jobs.pool.type_limits import TypeLimits

log = logging.getLogger(__name__)


class DurableAdmission(AwaitedAdmission):
    """An `AwaitedAdmission` over a file: a job is in when it is on the disk.

    It reserves the slots of jobs, or their room among those that wait for a time, makes the jobs
    and hands them to the store, without a checkpoint. When they are on the disk, the event loop
    calls what does the one step: the records are in the store, the jobs that wait for a time in the
    schedule, and the clients are told. The ids of the others go into the channel in this step, or a
    moment later (`DurableStore.meanwhile`). No task does that: a client that disconnects meanwhile
    changes nothing. If the jobs cannot be written, the slots are free again.

    The awaited methods raise, too:
        StoreWriteError: The file cannot be written.
        StoreUnavailableError: The disk does not answer for a long time already.
        StoreTimeoutError: The disk did not answer in time; the job may come in later.

    A task that is cancelled while it waits for the disk changes nothing: the jobs come in.

    Args:
        channel: See `Admission`.
        store: See there.
        capacity: See there.
        schedule: See there.
        limits: See `LimitedAdmission`.
        suspects: Holds jobs that a drain completes.
        timer: Times the waits of single jobs.
        keeps_pending: Whether `close` leaves the jobs that have not begun to the file. Otherwise a
            drain completes those in the buffer, and those that were due when it began.
        new_id: See `Admission`.
        now: See there.
        admitted: Called with each job that is in.
    """

    written_to = "file"

    def __init__(
        self,
        channel: trio.MemorySendChannel[str],
        store: DurableStorePort,
        capacity: Capacity,
        schedule: Schedule,
        limits: TypeLimits,
        suspects: Suspects,
        timer: DiskTimer,
        *,
        keeps_pending: bool,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
        admitted: Callable[[Job], None] | None = None,
    ) -> None:
        super().__init__(channel, store, capacity, schedule, limits, new_id=new_id, now=now)
        self._file = store
        self._admitted = admitted
        self._limits = limits
        self._suspects = suspects
        self._timer = timer
        self.keeps_pending = keeps_pending
        self._under_way = 0  # the reservations whose jobs can come into the channel still
        self._delayed_under_way = 0
        self._names: dict[Name, Reservation] = {}
        # For each task that reads old jobs: those that were re-run since it has begun, and others.
        self._stale: list[set[str]] = []

    @trio.lowlevel.enable_ki_protection
    async def admit(self, spec: JobSpec) -> Job:
        """See `Admission.admit`.

        Raises:
            DuplicateJobError: An unfinished job has this key, or one that has just come in. If
                another task submits a job with this key, this one waits for the result.
        """
        specs = [spec]
        if spec.due is not None or spec.key is not None or spec.rerun_of is not None:
            [job] = await self._admit(specs, batch=False)
            return job
        # What `_admit` does, at half its cost.
        capacity = self._capacity
        if capacity.closed or not capacity.has_workers:
            raise ShuttingDownError
        if self._file.hangs:
            raise StoreUnavailableError
        if self._checks:
            self._check_types(specs)
        if missing := capacity.reserve(1):
            raise self._refusal(missing)
        reservation = self._reserve(specs, 1)
        in_time = await self._timer.wait(reservation.over)
        return reservation.result(in_time=in_time)[0]

    @trio.lowlevel.enable_ki_protection
    async def admit_all(self, specs: Sequence[JobSpec]) -> list[Job]:
        """See `Admission.admit_all`; waits for other tasks as `admit` does."""
        return await self._admit(specs, batch=True)

    @trio.lowlevel.enable_ki_protection
    async def admit_up_to(self, specs: Sequence[JobSpec]) -> list[Job]:
        """See `Admission.admit_up_to`.

        Cancellation:
            Acted on while waiting for a slot, not while waiting for the disk: a stream tells its
            client how many jobs are in, also if a shutdown cancels it.
        """
        reservation = await self.reserve_up_to(specs)
        try:
            return await reservation.wait(shield=True)
        except DuplicateJobError:
            return []  # the job with the key has just ended: the caller finds it in the file

    @trio.lowlevel.enable_ki_protection
    async def reserve_up_to(self, specs: Sequence[JobSpec]) -> Reservation:
        """Do what `admit_up_to` does, up to the wait for the disk, which is left to the caller.

        Cancellation:
            Acted on while waiting; then nothing is reserved.
        """
        await trio.lowlevel.checkpoint()
        await self._wait_for_others(names_of(specs[:1]))
        specs = self._check(specs)
        if specs[0].due is not None:
            return self._reserve_delayed(specs)
        slots = await self._capacity.reserve_up_to(len(specs))
        if not slots:
            raise ShuttingDownError
        return self._reserve_leading(specs, slots)

    def close(self) -> None:
        """Refuse new jobs; workers finish what runs, or also what could begin now, and exit."""
        self._capacity.close()
        if self.keeps_pending:
            self._file.keep_pending()
            self._limits.close_channel_when_claimed()
        else:
            self._schedule.end()
            self._close_channel_if_landed()

    async def _reserve_to_feed(self, number: int) -> int:
        # A drain of all jobs feeds those that are due as it begins.
        draining = not self.keeps_pending
        slots = await self._capacity.reserve_up_to(number, draining=draining)
        self._limits.note_fed(slots)
        return slots

    def until_fed(self) -> AbstractContextManager[object]:
        """See `Admission.until_fed`; a drain of all jobs feeds until the channel closes."""
        return super().until_fed() if self.keeps_pending else self._limits.until_closed

    def _close_channel_if_landed(self) -> None:
        if not self._under_way:
            self._limits.close_channel_when_claimed(self._feeds)

    def _feeds(self) -> bool:
        return self._schedule.has_due or self._suspects.some_are_held

    async def _admit(self, specs: Sequence[JobSpec], *, batch: bool) -> list[Job]:
        self._check(specs, whole=True)
        if not specs:
            return []
        reruns = await self._find_reruns(specs)
        self._check(specs, whole=True)
        slots = len(specs)
        if delayed := sum([spec.due is not None for spec in specs]):
            self._check_waiting_room(delayed + self._delayed_under_way)
            slots -= delayed
        if missing := self._capacity.reserve(slots, batch=batch):
            raise self._refusal(missing)
        return await self._reserve(specs, slots, reruns).wait()

    def _check(self, specs: Sequence[JobSpec], *, whole: bool = False) -> Sequence[JobSpec]:
        """Check what can be known without a slot; return the first ones that are not refused."""
        if not self._capacity.has_workers:
            raise ShuttingDownError
        if self._file.hangs:
            if self._other(names_of(specs)) is not None:  # this may be a job that comes in later
                raise StoreTimeoutError(self._file.timeout)
            raise StoreUnavailableError
        if whole:
            self._check_types(specs)
            return specs
        return self._up_to_full(specs)

    async def _find_reruns(self, specs: Sequence[JobSpec]) -> dict[str, tuple[int, Job]]:
        """Wait for jobs under way that have names of these; find the old jobs of re-runs.

        Checkpoints:
            If there is something to wait for; then no name of these is taken.
        """
        names = names_of(specs)
        wanted = {spec.rerun_of for spec in specs if spec.rerun_of is not None}
        reruns: dict[str, tuple[int, Job]] = {}
        stale = wanted.copy()
        self._stale.append(stale)
        try:
            await self._wait_for_others(names)
            self._check_keys(specs)
            while to_read := stale & wanted:
                stale -= to_read  # first: they may be re-run while they are read
                reruns |= await self._file.find_all_stored(to_read)
                await self._wait_for_others(names)
        finally:
            # By identity: another task may have an equal set.
            self._stale = [each for each in self._stale if each is not stale]
        return reruns

    async def _wait_for_others(self, names: Sequence[Name]) -> None:
        while (other := self._other(names)) is not None:
            with suppress(AdmissionError, DuplicateJobError):
                await other.wait()

    def _is_known(self, text: str) -> bool:
        return super()._is_known(text) or ("key", text) in self._names

    def _other(self, names: Sequence[Name]) -> Reservation | None:
        """A reservation under way that has one of these names."""
        return next((self._names[name] for name in names if name in self._names), None)

    def _reserve_delayed(self, specs: Sequence[JobSpec]) -> Reservation:
        self._check_waiting_room(1 + self._delayed_under_way)
        room = self._schedule.room - self._delayed_under_way
        return self._reserve(
            specs[: min(leading(specs, delayed=True, is_known=self._is_known), room)], 0
        )

    def _reserve_leading(self, specs: Sequence[JobSpec], slots: int) -> Reservation:
        self._check_intake(slots)
        specs = specs[: min(leading(specs, delayed=False, is_known=self._is_known), slots)]
        if len(specs) < slots:
            self._capacity.slot_freed(slots - len(specs))
        return self._reserve(specs, len(specs))

    def _reserve(
        self,
        specs: Sequence[JobSpec],
        slots: int,
        reruns: Mapping[str, tuple[int, Job]] = {},
    ) -> Reservation:
        """Make the jobs, and hand them to the store; the slots are reserved already."""
        if not specs:
            return Reservation.nothing()
        try:
            jobs = make_jobs(specs, self._new_id, self._now())
            reservation = Reservation(jobs, specs, slots, self._file.timeout)
            self._file.add_all(
                jobs,
                reruns=reruns,
                landed=partial(self._land, reservation),
                refused=partial(self._refuse, reservation),
            )
        except BaseException:
            self._capacity.slot_freed(slots)
            raise
        self._under_way += 1
        self._delayed_under_way += len(jobs) - slots
        if reservation.names:
            for stale in self._stale:
                stale.update(reruns)
            self._names.update(dict.fromkeys(reservation.names, reservation))
        return reservation

    def _land(self, reservation: Reservation) -> None:
        """The one step: the jobs are in the store."""
        if self._admitted is not None:
            for job in reservation.jobs:
                self._admitted(job)
        if reservation.slots < len(reservation.jobs):
            self._let_wait(reservation)
        self._file.meanwhile(partial(self._let_begin, reservation))
        self._end(reservation)
        if log.isEnabledFor(logging.DEBUG):
            for job in reservation.jobs:
                log.debug("job_admitted", extra={"job_id": job.id, "job_type": job.type})

    def _let_begin(self, reservation: Reservation) -> None:
        """Put the jobs into the channel, but for those that wait for a time."""
        for job in reservation.jobs:
            if job.run_at is None:
                try:
                    self._channel.send_nowait(job.id)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    self._capacity.slot_freed()  # the pool has ended: the job stays in the file
        self._leave()

    def _let_wait(self, reservation: Reservation) -> None:
        elapsed = trio.current_time() - reservation.began
        for job, spec in zip(reservation.jobs, reservation.specs, strict=True):
            if isinstance(spec.due, datetime):
                self._schedule.add(job.id, spec.due)
            elif spec.due is not None:
                self._schedule.add(job.id, max(spec.due - elapsed, 0.0))

    def _refuse(self, reservation: Reservation, error: Exception) -> None:
        reservation.error = error
        self._capacity.slot_freed(reservation.slots)
        self._end(reservation)
        self._leave()

    def _end(self, reservation: Reservation) -> None:
        self._delayed_under_way -= len(reservation.jobs) - reservation.slots
        for name in reservation.names:
            del self._names[name]
        reservation.over.set()

    def _leave(self) -> None:
        self._under_way -= 1
        if self._capacity.closed and not self.keeps_pending:
            self._close_channel_if_landed()
