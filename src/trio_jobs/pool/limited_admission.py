"""`LimitedAdmission`: refuses jobs by their types, and all of them while the intake is paused."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import trio

from trio_jobs.job import IdempotencyKey, Job
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.intake import Intake
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import (
    PAUSED_RETRY_AFTER,
    IntakePausedError,
    QueueFullError,
    ShuttingDownError,
)
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.store import AdmissionStore
from trio_jobs.pool.type_limits import TypeLimits


class Held(Protocol):
    """The types that hold jobs."""

    def is_full(self, type: str) -> bool:  # noqa: A002  (the field's name)
        """Whether one more job of this type would be held although too many jobs wait."""


class LimitedAdmission(Admission):
    """An `Admission` in a pool whose types can be limited or paused, and so can its intake.

    Its methods raise QueueFullError, too, if a job's type is paused or at its limit and too many
    jobs wait. A stream's jobs before such a job are admitted. They raise IntakePausedError while
    the intake is paused. To look at the types costs time for each job, and is left out while no
    type has a limit and nothing is paused.

    With limited types, the channel stays open after `close` until workers have claimed the jobs in
    it and the held ones: a drain completes them.

    Args:
        channel: See `Admission`.
        store: See there.
        capacity: See there.
        schedule: See there.
        limits: None if no type has a limit.
        new_id: See `Admission`.
        now: See there.

    Attributes:
        intake: Whether jobs are let in.
        keeps_pending: Whether `close` leaves the jobs that have not begun to a file.
    """

    keeps_pending = False

    def __init__(
        self,
        channel: trio.MemorySendChannel[str],
        store: AdmissionStore,
        capacity: Capacity,
        schedule: Schedule,
        limits: TypeLimits | None,
        *,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        super().__init__(channel, store, capacity, schedule, new_id=new_id, now=now)
        self.intake = Intake(self._decide)
        self._type_limits = limits
        self._paused: Held | None = None
        self._decide()

    def look_at(self, paused: Held | None) -> None:
        """Look at the paused types from now on; None: no type is paused."""
        self._paused = paused
        self._decide()

    def _decide(self) -> None:
        """Decide whether there is something to check for each job."""
        limits = self._type_limits
        has_held = (limits is not None and limits.has_some) or self._paused is not None
        self._checks = has_held or not self.intake.is_open

    @trio.lowlevel.enable_ki_protection
    def submit(
        self,
        type: str,  # noqa: A002  (the field's name)
        payload: bytes,
        due: float | datetime | None = None,
        key: IdempotencyKey | None = None,
    ) -> Job:
        """See `Admission.submit`."""
        if self._checks:
            self._check_types([JobSpec(type, payload, due)])
        if due is not None:
            return super().submit(type, payload, due, key)
        return self._submit(type, payload, key)

    @trio.lowlevel.enable_ki_protection
    def submit_all(self, specs: Sequence[JobSpec]) -> list[Job]:
        """See `Admission.submit_all`."""
        if self._checks:
            self._check_types(specs)
        return super().submit_all(specs)

    @trio.lowlevel.enable_ki_protection
    async def admit_up_to(self, specs: Sequence[JobSpec]) -> list[Job]:
        """See `Admission.admit_up_to`."""
        if self._checks:
            await trio.lowlevel.checkpoint()  # also if the next line refuses the jobs
        return await super().admit_up_to(self._up_to_full(specs))

    @trio.lowlevel.enable_ki_protection
    def admit_up_to_nowait(self, specs: Sequence[JobSpec]) -> list[Job]:
        """See `Admission.admit_up_to_nowait`."""
        return super().admit_up_to_nowait(self._up_to_full(specs))

    def close(self) -> None:
        """Refuse new jobs. Workers finish the buffered and the held ones, and exit. Idempotent."""
        if self._type_limits is None:
            super().close()
        else:
            self._capacity.close()
            self._type_limits.close_channel_when_claimed()

    def _publish_up_to(self, specs: Sequence[JobSpec], slots: int) -> list[Job]:
        self._check_intake(slots)
        return super()._publish_up_to(specs, slots)

    def _check_intake(self, slots: int) -> None:
        """Give slots back if the intake was paused during the wait for them."""
        if not self.intake.is_open:
            self._capacity.slot_freed(slots)
            raise IntakePausedError

    def _up_to_full(self, specs: Sequence[JobSpec]) -> Sequence[JobSpec]:
        """The first ones of these jobs, up to one that is refused; at least one."""
        if not self._checks:
            return specs
        self._check_types(specs[:1])
        for number, spec in enumerate(specs):
            if self._why_full(spec) is not None:
                return specs[:number]
        return specs

    def _check_types(self, specs: Sequence[JobSpec]) -> None:
        # The channel is still open while the pool drains: it does not refuse the jobs.
        if self.closed:
            raise ShuttingDownError
        if specs and not self.intake.is_open:
            raise IntakePausedError
        for spec in specs:
            if (error := self._why_full(spec)) is not None:
                raise error

    def _why_full(self, spec: JobSpec) -> QueueFullError | None:
        """The refusal of a job that would be held although too many jobs wait."""
        if spec.due is not None:
            return None
        if self._type_limits is not None and self._type_limits.is_full(spec.type):
            text = "too many jobs wait for others of their type"
            return QueueFullError(self._capacity.retry_after(1), text, reason="waiting_full")
        if self._paused is not None and self._paused.is_full(spec.type):
            text = "the type is paused, and too many jobs wait"
            return QueueFullError(PAUSED_RETRY_AFTER, text, reason="waiting_full")
        return None
