"""`LimitedAdmission`: takes jobs in, in a pool with limited types."""

from collections.abc import Callable, Sequence
from datetime import datetime

import trio

from trio_jobs.job import IdempotencyKey, Job
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import QueueFullError, ShuttingDownError
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.store import NewJobs
from trio_jobs.pool.type_limits import TypeLimits


class LimitedAdmission(Admission):
    """An `Admission` that looks at the types of jobs; that costs time for each job.

    Its methods raise QueueFullError, too, if a job's type is at its limit and too many jobs wait.
    A stream's jobs before such a job are admitted.

    After `close`, the channel stays open until workers have claimed the jobs in it and the held
    ones: a drain completes them.
    """

    def __init__(
        self,
        channel: trio.MemorySendChannel[str],
        store: NewJobs,
        capacity: Capacity,
        schedule: Schedule,
        limits: TypeLimits,
        *,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        super().__init__(channel, store, capacity, schedule, new_id=new_id, now=now)
        self._limits = limits

    @trio.lowlevel.enable_ki_protection
    def submit(
        self,
        type: str,  # noqa: A002  (the field's name)
        payload: bytes,
        due: float | datetime | None = None,
        key: IdempotencyKey | None = None,
    ) -> Job:
        """See `Admission.submit`."""
        self._check_types([JobSpec(type, payload, due)])
        return super().submit(type, payload, due, key)

    @trio.lowlevel.enable_ki_protection
    def submit_all(self, specs: Sequence[JobSpec]) -> list[Job]:
        """See `Admission.submit_all`."""
        self._check_types(specs)
        return super().submit_all(specs)

    @trio.lowlevel.enable_ki_protection
    async def admit_up_to(self, specs: Sequence[JobSpec]) -> list[Job]:
        """See `Admission.admit_up_to`."""
        await trio.lowlevel.checkpoint()  # also if the next line refuses the jobs
        return await super().admit_up_to(self._up_to_full(specs))

    @trio.lowlevel.enable_ki_protection
    def admit_up_to_nowait(self, specs: Sequence[JobSpec]) -> list[Job]:
        """See `Admission.admit_up_to_nowait`."""
        return super().admit_up_to_nowait(self._up_to_full(specs))

    def close(self) -> None:
        """Refuse new jobs. Workers finish the buffered and the held ones, and exit. Idempotent."""
        self._capacity.close()
        self._limits.close_channel_when_claimed()

    def _up_to_full(self, specs: Sequence[JobSpec]) -> Sequence[JobSpec]:
        """The first ones of these jobs, up to one that is refused; at least one."""
        self._check_types(specs[:1])
        for number, spec in enumerate(specs):
            if spec.due is None and self._limits.is_full(spec.type):
                return specs[:number]
        return specs

    def _check_types(self, specs: Sequence[JobSpec]) -> None:
        # The channel is still open while the pool drains: it does not refuse the jobs.
        if self.closed:
            raise ShuttingDownError
        for spec in specs:
            if spec.due is None and self._limits.is_full(spec.type):
                retry_after = self._capacity.retry_after(1)
                text = "too many jobs wait for others of their type"
                raise QueueFullError(retry_after, text, reason="waiting_full")
