"""`TypeLimits`: how many jobs of a type run at the same time. It holds the jobs beyond that."""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

import trio

from trio_jobs.job import Ending, Job, JobStatus, Later
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.store import Store, StoreMoves

# Entries of held jobs that were cancelled stay in a deque, up to its length and so many more.
_SPARE = 64


class TypeLimits:
    """The workers' moves in the store, in a pool with limited types.

    A job beyond the limit of its type is held: it stays pending, and has no worker, no slot and no
    copy of its id in the channel. The schedule counts it among the jobs that wait. A job that is
    not held has a *permit* from its limit. When it ends, the first held job of the type takes over
    the permit and the slot, and goes into the channel. So the jobs of a type begin in the order in
    which workers came to them.

    A job whose cancel was requested needs no permit: its worker completes it without running it.

    Args:
        store: The jobs.
        moves: What makes the moves in the store.
        channel: The send end of the job channel, which the admission owns.
        capacity: The slots for jobs.
        schedule: The jobs that wait.
        max_running: By type, how many jobs run at the same time; None for any number.
        default: The entry for all types without one; these types share its number.

    Attributes:
        moves: See above.
        has_some: Whether a type has a limit.
        until_closed: A block that is cancelled when the channel has closed after a drain.
    """

    def __init__(
        self,
        store: Store,
        moves: StoreMoves,
        channel: trio.MemorySendChannel[str],
        capacity: Capacity,
        schedule: Schedule,
        max_running: Mapping[str, int | None],
        *,
        default: str,
    ) -> None:
        self.disk = moves.disk
        self.until_closed = trio.CancelScope()
        self._store = store
        self.moves = moves
        self._channel = channel
        self._capacity = capacity
        self._schedule = schedule
        self._limits = {type_: _limit(number) for type_, number in max_running.items()}
        self.has_some = bool(self._limits)
        self._default = self._limits.get(default)
        # By id, the limit whose permit the job has: a running one, or one on its way to a worker.
        self._permits: dict[str, _Limit] = {}
        # During a drain: how many jobs are in the channel, or received and not yet claimed.
        self._unclaimed: int | None = None
        self._feeds: Callable[[], bool] = lambda: False

    def is_full(self, type: str) -> bool:  # noqa: A002  (the field's name)
        """Whether one more job of this type would be held although too many jobs wait."""
        limit = self._limits.get(type, self._default)
        return limit is not None and limit.free <= 0 and not self._schedule.room

    def claim(self, job_id: str) -> Job | None:
        """See `Moves.claim`; holds the job if its type is at its limit."""
        if self._unclaimed is None:
            return self._claim(job_id) if self.has_some else self.moves.claim(job_id)
        try:
            return self._claim(job_id)
        finally:
            self._unclaimed -= 1
            self._close_channel_if_claimed(self._unclaimed)

    def complete(
        self,
        job_id: str,
        ending: Ending,
        *,
        duration: float | None = None,
        show: Callable[[Job], None] | None = None,
    ) -> Job:
        """See `StoreMoves.complete`; gives the job's permit to the first held one."""
        job = self.moves.complete(job_id, ending, duration=duration, show=show)
        if self._permits:
            self.give_up_permit(job_id)
        return job

    def postpone(self, job_id: str, later: Later) -> Job:
        """See `Moves.postpone`; gives the job's permit to the first held one."""
        job = self.moves.postpone(job_id, later)
        self.give_up_permit(job_id)
        return job

    def release(self, job_id: str) -> None:
        """See `Moves.release`. Nobody gets the permit: the pool ends."""
        self.moves.release(job_id)
        if (limit := self._permits.pop(job_id, None)) is not None:
            limit.free += 1

    def close_channel_when_claimed(self, feeds: Callable[[], bool] | None = None) -> None:
        """Close the channel as soon as workers have claimed all jobs in it, and none is held.

        No task sends new jobs to the channel any more. Idempotent.

        Args:
            feeds: Whether waiting jobs go into the channel still; a task that sends them calls
                `note_fed`. None if there is no such task.
        """
        if self._unclaimed is None:
            if feeds is None:
                # A held job whose cancel was requested may be due, and wait for a slot in vain.
                self._schedule.stop()
            else:
                self._feeds = feeds
            self._unclaimed = self._store.statistics().pending - self._schedule.count
        self._close_channel_if_claimed(self._unclaimed)

    def note_fed(self, number: int) -> None:
        """Note, in a drain, that so many waiting jobs go into the channel."""
        if self._unclaimed is not None:
            self._unclaimed += number

    def give_up_permit(self, job_id: str) -> None:
        """Give the permit of a job, if it has one, to the first held job of the type."""
        limit = self._permits.pop(job_id, None)
        if limit is None:
            return
        limit.free += 1
        while limit.held:
            held = limit.held.popleft()
            if not self._schedule.remove(held):
                continue  # its cancel was requested: it needs no permit
            self._capacity.slot_lost()  # the caller frees the slot of the other job
            # No worker is left if this one's clone was closed, and was the last; the pool ends.
            with suppress(trio.BrokenResourceError):
                self._channel.send_nowait(held)
            limit.free -= 1
            self._permits[held] = limit
            if self._unclaimed is not None:
                self._unclaimed += 1
            return
        if self._unclaimed is not None:
            self._close_channel_if_claimed(self._unclaimed)

    def _claim(self, job_id: str) -> Job | None:
        job = self._store.find_nowait(job_id)
        limit = self._limits.get(job.type, self._default)
        if limit is None or job.status is not JobStatus.PENDING:
            return self.moves.claim(job_id)
        granted = job_id in self._permits
        if not granted and not job.cancel_requested and limit.free <= 0:
            self._hold(job, limit)
            return None
        claimed = None
        try:
            claimed = self.moves.claim(job_id)
        finally:
            if claimed is None:
                self.give_up_permit(job_id)
            elif not granted and not job.cancel_requested:
                self._permits[job_id] = limit
                limit.free -= 1
        return claimed

    def _hold(self, job: Job, limit: "_Limit") -> None:
        if len(limit.held) > limit.longest:
            limit.held = deque(filter(self._schedule.waits, limit.held))
            limit.longest = 2 * len(limit.held) + _SPARE
        limit.held.append(job.id)
        self._schedule.hold(job)

    def _close_channel_if_claimed(self, unclaimed: int) -> None:
        if unclaimed > 0 or self._feeds():
            return
        for limit in self._limits.values():
            while limit is not None and limit.held:
                if self._schedule.waits(limit.held[0]):
                    return
                limit.held.popleft()
        self._channel.close()
        self.until_closed.cancel()


class _Limit:
    """One limit.

    Attributes:
        free: How many permits are free: none while a job is held.
        held: The held jobs, in the order of their claims. Those whose cancel was requested since
            then are passed over.
        longest: The length at which ``held`` is cleared of these.
    """

    def __init__(self, max_running: int) -> None:
        self.free = max_running
        self.held: deque[str] = deque()
        self.longest = _SPARE


def _limit(max_running: int | None) -> _Limit | None:
    return None if max_running is None else _Limit(max_running)
