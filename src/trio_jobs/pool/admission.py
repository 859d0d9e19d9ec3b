"""`Admission`: the one step that takes a job in, without a checkpoint."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

import trio

from trio_jobs.job import IdempotencyKey, Job
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.job_spec import JobSpec, leading, make_jobs
from trio_jobs.pool.refusals import AdmissionError, QueueFullError, ShuttingDownError
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.store import AdmissionStore, DuplicateJobError

log = logging.getLogger(__name__)


class Admission:
    """Takes jobs in: reserves a slot, makes id and time, queues the id, stores the record.

    A job that may begin only later takes no slot: its id goes into the schedule, and into the
    channel when it is due.

    Nothing awaits within this step: no worker runs meanwhile, and a client that disconnects cannot
    cancel it. So no id is queued without a record, and no refused job was ever visible. Ctrl-C
    does not raise KeyboardInterrupt within it either. If the step raises, the slots of the jobs
    that it has not queued are free again. Of several jobs it admits none if ``now`` or ``new_id``
    raises, and all if a filter of the log raises; a part of them only if memory is exhausted.

    The plain methods are for a store in memory. The awaited ones are for any store; in memory
    `admit` and `admit_all` make no checkpoint.

    Args:
        channel: The one send end of the job channel, with room for all slots; `close` closes it.
        new_id: Makes an id greater than all that it has made before.
        now: The wall clock, as an aware UTC time.
    """

    def __init__(
        self,
        channel: trio.MemorySendChannel[str],
        store: AdmissionStore,
        capacity: Capacity,
        schedule: Schedule,
        *,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        self._channel = channel
        self._store = store
        self._capacity = capacity
        self._slots = capacity  # of the channel
        self._schedule = schedule
        self._new_id = new_id
        self._now = now

    @property
    def closed(self) -> bool:
        """Whether no more jobs are taken."""
        return self._capacity.closed

    @property
    def buffered(self) -> int:
        """How many jobs are in the buffer."""
        return self._channel.statistics().current_buffer_used

    @property
    def peak_buffered(self) -> int:
        """The most jobs that were in the buffer at the same time so far."""
        return int(self._channel.statistics().peak_buffer_used)

    @trio.lowlevel.enable_ki_protection
    def submit(
        self,
        type: str,  # noqa: A002  (the field's name)
        payload: bytes,
        due: float | datetime | None = None,
        key: IdempotencyKey | None = None,
    ) -> Job:
        """Admit one job, or refuse it.

        Args:
            type: See `JobSpec`, as for the next two.
            payload: See there.
            due: See there.
            key: No job in the store has this key.

        Raises:
            QueueFullError: No slot is free, or the last one is for a waiting task; or too many
                jobs wait for a time.
            ShuttingDownError: The admission is closed.
        """
        if due is not None:
            self._check_waiting_room(1)
            return self._publish([JobSpec(type, payload, due, key)], 0)[0]
        return self._submit(type, payload, key)

    @trio.lowlevel.enable_ki_protection
    def submit_all(self, specs: Sequence[JobSpec]) -> list[Job]:
        """Admit all of these jobs, in this order, or refuse all of them.

        The store has none of their keys, and no two of them have the same key.

        Raises:
            QueueFullError: There is too little room for all.
            ShuttingDownError: The admission is closed.
        """
        slots = len(specs)
        if delayed := sum([spec.due is not None for spec in specs]):
            self._check_waiting_room(delayed)
            slots -= delayed
        missing = self._capacity.reserve(slots, batch=True)
        if missing or self.closed:
            raise self._refusal(missing)
        return self._publish(specs, slots)

    async def admit(self, spec: JobSpec) -> Job:
        """Admit one job, or refuse it as `submit` does.

        Raises:
            DuplicateJobError: The store has a job with its key.
        """
        self._check_keys([spec])
        if spec.rerun_of is not None or spec.submitted_by is not None or spec.trace is not None:
            return self.submit_all([spec])[0]
        return self.submit(spec.type, spec.payload, spec.due, spec.key)

    async def admit_all(self, specs: Sequence[JobSpec]) -> list[Job]:
        """Admit all of these jobs, or refuse all of them as `submit_all` does.

        Raises:
            DuplicateJobError: The store has a job with one of their keys.
        """
        self._check_keys(specs)
        return self.submit_all(specs)

    @trio.lowlevel.enable_ki_protection
    async def admit_up_to(self, specs: Sequence[JobSpec]) -> list[Job]:
        """Wait in turn for slots, then admit the first ones of these jobs, one for each slot.

        If the first one may begin only later, the first ones of that kind are admitted instead.
        The last one is the one before a job whose key the store has: if that is the first, none is.

        Raises:
            QueueFullError: The first one may begin only later, and too many jobs wait for a time.
            ShuttingDownError: The admission is closed, or closes during the wait.

        Cancellation:
            Acted on while waiting; then no job has been admitted.

        Checkpoints:
            At least once, before jobs are admitted; not after.
        """
        if specs and specs[0].due is not None:
            await trio.lowlevel.checkpoint()
            return self._publish_delayed(specs)
        slots = await self._capacity.reserve_up_to(len(specs))
        if not slots:
            raise ShuttingDownError
        return self._publish_up_to(specs, slots)

    @trio.lowlevel.enable_ki_protection
    def admit_up_to_nowait(self, specs: Sequence[JobSpec]) -> list[Job]:
        """`admit_up_to` without waiting: admit no job if that would have to wait.

        Raises:
            QueueFullError: As there.
            ShuttingDownError: The admission is closed.
        """
        if self.closed:
            raise ShuttingDownError
        if specs and specs[0].due is not None:
            return self._publish_delayed(specs)
        return self._publish_up_to(specs, self._capacity.reserve_up_to_nowait(len(specs)))

    @trio.lowlevel.enable_ki_protection
    async def feed(self, job_ids: deque[str]) -> None:
        """Queue pending jobs that are not in the channel, in this order, as slots come free.

        Args:
            job_ids: The id of a job that is queued is removed.

        Raises:
            ShuttingDownError: The admission is closed. The jobs not yet queued stay pending, as
                after a cancellation.
        """
        while job_ids:
            slots = await self._reserve_to_feed(len(job_ids))
            if not slots:
                raise ShuttingDownError
            try:
                while slots:
                    self._channel.send_nowait(job_ids[0])
                    job_ids.popleft()
                    slots -= 1  # the worker frees it
            except BaseException as error:
                self._give_back(slots, error)
                raise

    async def _reserve_to_feed(self, number: int) -> int:
        """Wait for slots, for so many jobs at the most; 0: no job is fed any more."""
        return await self._slots.reserve_up_to(number)

    def until_fed(self) -> AbstractContextManager[object]:
        """A block that is cancelled when no waiting job is fed any more: the admission closes."""
        return self._capacity.cancel_on_close()

    def close(self) -> None:
        """Refuse new jobs. Workers finish the buffered ones and exit. Idempotent."""
        self._capacity.close()
        self._channel.close()

    def _refusal(self, missing: int) -> AdmissionError:
        full = QueueFullError(self._capacity.retry_after(missing))
        return ShuttingDownError() if self.closed else full

    def _submit(self, type_: str, payload: bytes, key: IdempotencyKey | None) -> Job:
        """The one step, for one job: what `_publish` does, at half its cost."""
        if missing := self._capacity.reserve(1):
            raise self._refusal(missing)
        try:
            job_id, now = self._new_id(), self._now()
            job = Job(id=job_id, type=type_, payload=payload, created_at=now, key=key)
            self._channel.send_nowait(job_id)
        except BaseException as error:
            self._give_back(1, error)
            raise
        self._store.add(job)  # see `_publish`
        if log.isEnabledFor(logging.DEBUG):
            log.debug("job_admitted", extra={"job_id": job_id, "job_type": type_})
        return job

    def _publish_up_to(self, specs: Sequence[JobSpec], slots: int) -> list[Job]:
        """The one step, for the first jobs, one for each of these slots, up to a delayed one."""
        specs = specs[:slots]
        number = leading(specs, delayed=False, is_known=self._is_known)
        if number < slots:
            self._capacity.slot_freed(slots - number)
        return self._publish(specs[:number], number)

    def _publish_delayed(self, specs: Sequence[JobSpec]) -> list[Job]:
        """The one step, for the first jobs that may begin only later, as many as may wait."""
        self._check_waiting_room(1)
        number = min(leading(specs, delayed=True, is_known=self._is_known), self._schedule.room)
        return self._publish(specs[:number], 0)

    def _check_waiting_room(self, wanted: int) -> None:
        """Refuse jobs that may begin only later if too many wait, or the pool has ended."""
        if self.closed or not self._channel.statistics().open_receive_channels:
            raise ShuttingDownError
        if wanted > self._schedule.room:
            text = "too many jobs wait for a later time"
            raise QueueFullError(self._schedule.retry_after(), text, reason="waiting_full")

    def _check_keys(self, specs: Sequence[JobSpec]) -> None:
        for key in [spec.key for spec in specs if spec.key is not None]:
            if self._is_known(key.text):
                raise DuplicateJobError(f"a job with the key {key.text!r} is in the store already")

    def _is_known(self, text: str) -> bool:
        return self._store.find_key_nowait(text) is not None

    def _publish(self, specs: Sequence[JobSpec], slots: int) -> list[Job]:
        """The one step, for all of these jobs; those that may begin now have these slots."""
        some_wait = slots < len(specs)
        try:
            jobs = make_jobs(specs, self._new_id, self._now())
            for job in jobs:
                # Nothing awaits or logs between these lines. The channel comes first: it refuses
                # the id if no worker is left, and then the store must not have the record.
                if job.run_at is None:
                    self._channel.send_nowait(job.id)
                    slots -= 1  # the worker frees it
                self._store.add(job)
            for job, spec in zip(jobs, specs, strict=True) if some_wait else ():
                if spec.due is not None:
                    self._schedule.add(job.id, spec.due)
        except BaseException as error:
            self._give_back(slots, error)
            raise
        if log.isEnabledFor(logging.DEBUG):
            for job in jobs:
                log.debug("job_admitted", extra={"job_id": job.id, "job_type": job.type})
        return jobs

    def _give_back(self, slots: int, error: BaseException) -> None:
        """Free the slots of the jobs that have not been queued."""
        self._slots.slot_freed(slots)
        if isinstance(error, trio.ClosedResourceError | trio.BrokenResourceError):
            self._slots.close()  # no worker is left, so a slot is of no use
            raise ShuttingDownError from None
