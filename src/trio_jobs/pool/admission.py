"""`Admission`: the one step that takes a job in, without a checkpoint."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

import trio

from trio_jobs.job import IdempotencyKey, Job
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.store import DuplicateJobError, Store

log = logging.getLogger(__name__)


class AdmissionError(Exception):
    """The job was refused: nothing of it was kept, and no client could see it."""


class QueueFullError(AdmissionError):
    """There is no room in the buffer.

    Attributes:
        retry_after: Whole seconds after which a slot should be free, at least 1.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__("no room in the buffer")
        self.retry_after = retry_after


class ShuttingDownError(AdmissionError):
    """The admission is closed: the pool takes no more jobs."""

    def __init__(self) -> None:
        super().__init__("shutting down")


class JobSpec(NamedTuple):
    """What a client asks for: a job's type, and its payload as JSON."""

    type: str
    payload: bytes


class Admission:
    """Takes jobs in: reserves a slot, makes id and time, queues the id, stores the record.

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
        store: Store,
        capacity: Capacity,
        *,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        self._channel = channel
        self._store = store
        self._capacity = capacity
        self._new_id = new_id
        self._now = now
        self._open_blocks: set[trio.CancelScope] = set()

    @property
    def closed(self) -> bool:
        """Whether no more jobs are taken."""
        return self._capacity.closed

    @property
    def buffered(self) -> int:
        """How many jobs are in the buffer."""
        return self._channel.statistics().current_buffer_used

    @property
    def peak_buffer_used(self) -> int:
        """The most jobs that were in the buffer at the same time so far."""
        return int(self._channel.statistics().peak_buffer_used)

    @trio.lowlevel.enable_ki_protection
    def submit(self, type: str, payload: bytes) -> Job:  # noqa: A002  (the field's name)
        """Admit one job, or refuse it.

        Raises:
            QueueFullError: No slot is free, or the last one is for a waiting task.
            ShuttingDownError: The admission is closed.
        """
        return self._submit(type, payload, None)

    @trio.lowlevel.enable_ki_protection
    def submit_all(self, specs: Sequence[JobSpec]) -> list[Job]:
        """Admit all of these jobs, in this order, or refuse all of them.

        Raises:
            QueueFullError: There are too few slots for all.
            ShuttingDownError: The admission is closed.
        """
        missing = self._capacity.reserve(len(specs), batch=True)
        if missing or self.closed:
            raise self._refusal(missing)
        return self._publish(specs, len(specs))

    @trio.lowlevel.enable_ki_protection
    async def admit(self, spec: JobSpec, *, key: IdempotencyKey | None = None) -> Job:
        """Admit one job, or refuse it as `submit` does.

        Raises:
            DuplicateJobError: The store has a job with this key already.
        """
        if key is not None and await self._store.find_key(key.text) is not None:
            raise DuplicateJobError(f"a job with the key {key.text!r} is in the store already")
        return self._submit(*spec, key)

    async def admit_all(self, specs: Sequence[JobSpec]) -> list[Job]:
        """Admit all of these jobs, or refuse all of them as `submit_all` does."""
        return self.submit_all(specs)

    @trio.lowlevel.enable_ki_protection
    async def admit_up_to(self, specs: Sequence[JobSpec]) -> list[Job]:
        """Wait in turn for slots, then admit the first ones of these jobs, one for each slot.

        Raises:
            ShuttingDownError: The admission is closed, or closes during the wait.

        Cancellation:
            Acted on while waiting; then no job has been admitted.

        Checkpoints:
            At least once, before jobs are admitted; not after.
        """
        slots = await self._capacity.reserve_up_to(len(specs))
        if not slots:
            raise ShuttingDownError
        return self._publish(specs, slots)

    @trio.lowlevel.enable_ki_protection
    def admit_up_to_nowait(self, specs: Sequence[JobSpec]) -> list[Job]:
        """`admit_up_to` without waiting: admit no job if that would have to wait.

        Raises:
            ShuttingDownError: The admission is closed.
        """
        if self.closed:
            raise ShuttingDownError
        return self._publish(specs, self._capacity.reserve_up_to_nowait(len(specs)))

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
            slots = await self._capacity.reserve_up_to(len(job_ids))
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

    @contextmanager
    def cancel_on_close(self) -> Iterator[None]:
        """A block that is cancelled when the admission closes.

        Raises:
            ShuttingDownError: The block was cancelled.
        """
        with trio.CancelScope() as scope:
            if self.closed:
                scope.cancel()
            self._open_blocks.add(scope)
            try:
                yield
            finally:
                self._open_blocks.remove(scope)
        if scope.cancelled_caught:
            raise ShuttingDownError

    def close(self) -> None:
        """Refuse new jobs. Workers finish the buffered ones and exit. Idempotent."""
        self._capacity.close()
        self._channel.close()
        for scope in self._open_blocks:
            scope.cancel()

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

    def _publish(self, specs: Sequence[JobSpec], slots: int) -> list[Job]:
        """The one step, for the first jobs, one for each of these slots."""
        try:
            new_id, now = self._new_id, self._now()
            jobs = [Job(id=new_id(), type=t, payload=p, created_at=now) for t, p in specs[:slots]]
            for job in jobs:
                # Nothing awaits or logs between these lines. The channel comes first: it refuses
                # the id if no worker is left, and then the store must not have the record.
                self._channel.send_nowait(job.id)
                slots -= 1  # the worker frees it
                self._store.add(job)
        except BaseException as error:
            self._give_back(slots, error)
            raise
        if log.isEnabledFor(logging.DEBUG):
            for job in jobs:
                log.debug("job_admitted", extra={"job_id": job.id, "job_type": job.type})
        return jobs

    def _give_back(self, slots: int, error: BaseException) -> None:
        """Free the slots of the jobs that have not been queued."""
        self._capacity.slot_freed(slots)
        if isinstance(error, trio.ClosedResourceError | trio.BrokenResourceError):
            self._capacity.close()  # no worker is left, so a slot is of no use
            raise ShuttingDownError from None
