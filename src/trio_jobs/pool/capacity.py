"""`Capacity`: counts the slots for jobs, reserves them, wakes waiters, measures the flow."""

import math
from collections import deque
from contextlib import AbstractContextManager

import trio

from trio_jobs.elapsed import elapsed_clock
from trio_jobs.pool.open_blocks import OpenBlocks
from trio_jobs.pool.refusals import ShuttingDownError

# The number of claims that `retry_after` looks at: enough to even out single jobs, few enough
# to follow a change within seconds.
_MEASURED_CLAIMS = 64

# Seconds. Clients should try again within a minute. Claims older than that do not count: after an
# idle night they would give a rate of one an hour, and a minute's wait for a burst of a second.
_LONGEST_RETRY_AFTER = 60


class Capacity:
    """The slots for jobs: `buffer_size` in the buffer, and one for each running worker.

    A job has a slot from its admission until its worker is done with it. The channel has room
    for all slots: a job that has one never meets a full channel.

    Some tasks reserve at once, or are refused (`reserve`); others wait, one after the other
    (`reserve_up_to`). While a task waits and one slot is left, the two kinds alternate, so
    neither starves the other: the waiting task leaves this slot to a non-waiting one. After that,
    the next slot that is the only one left is for the waiting task. A batch that takes the last
    slot has had this turn, even if no task waits yet.

    Attributes:
        buffer_size: How many jobs may wait for a worker.
        free: How many slots are free; negative if workers have ended whose slots are in use.
        closed: Whether the pool takes no more jobs. Then no waiting task gets a slot. `reserve`
            does not look at it: the channel closes as well, and refuses the job.
        has_workers: False once no worker is left: nobody would receive a job's id.
    """

    def __init__(self, buffer_size: int) -> None:
        self.buffer_size = buffer_size
        self.free = buffer_size
        self.closed = False
        self.has_workers = True
        # Held by the task that waits for a slot; the next tasks wait in turn for this lock.
        self._fifo = trio.StrictFIFOLock()
        self._last_is_for_waiting = False
        self._refused = False  # whether the last `reserve` beside a waiting task failed
        self._elapsed = elapsed_clock()
        self._claims: deque[float] = deque(maxlen=_MEASURED_CLAIMS)
        # Made by the waiting task, so that a slot costs less while no task waits.
        self._changed: trio.Event | None = None
        self._open_blocks = OpenBlocks()

    @property
    def some_wait(self) -> bool:
        """Whether a task waits for a slot."""
        return self._fifo.locked()

    def reserve(self, wanted: int, *, batch: bool = False) -> int:
        """Reserve ``wanted`` slots at once, or none.

        Args:
            wanted: How many.
            batch: Whether they are for a batch, however many jobs it has.

        Returns:
            How many slots are missing; 0 if all are reserved.
        """
        free = self.free
        if wanted < free and not batch and not self._refused:
            self.free -= wanted  # the usual case: no turn is to be taken
            return 0
        waiting = self._fifo.locked()
        if batch or waiting:
            if waiting and self._last_is_for_waiting:
                free = max(free - 1, 0)
            self._refused = 0 < wanted > free
            if 0 < wanted == free:
                self._last_is_for_waiting = True
        if 0 < wanted > free:
            return wanted - free
        self.free -= wanted
        return 0

    async def reserve_up_to(self, wanted: int, *, draining: bool = False) -> int:
        """Wait for a turn and a slot, then reserve as many as are free, up to ``wanted``.

        Args:
            wanted: How many.
            draining: Whether they are for jobs that a drain completes: then these slots are
                given out even if the capacity is closed.

        Returns:
            How many are reserved; 0 if the capacity is closed, or closes during the wait.

        Cancellation:
            Acted on while waiting; then nothing is reserved.

        Checkpoints:
            At least once, before slots are reserved; not after.
        """
        async with self._fifo:
            while draining or not self.closed:
                if reserved := self._reserve_up_to(wanted):
                    return reserved
                if self._changed is None:
                    self._changed = trio.Event()
                await self._changed.wait()
        return 0

    def reserve_up_to_nowait(self, wanted: int) -> int:
        """`reserve_up_to` without waiting; 0 if that would have to wait for a turn or a slot."""
        return 0 if self.closed or self._fifo.locked() else self._reserve_up_to(wanted)

    def slot_freed(self, number: int = 1) -> None:
        """Count one more free slot: a worker has begun, is done with a job, or got no job.

        Args:
            number: More than one, or none, if jobs with a slot could not be queued.
        """
        self.free += number
        if self._changed is not None:
            self._wake()

    def slot_lost(self) -> None:
        """Count one free slot less: a worker has ended, or a held job takes over a slot."""
        self.free -= 1

    def measure_claim(self) -> None:
        """Measure the flow: a worker has claimed a job."""
        self._claims.append(self._elapsed())

    def retry_after(self, slots: int = 1) -> int:
        """Whole seconds until so many slots are likely to come free, from 1 to 60."""
        if not self._claims:
            return 1
        now = self._elapsed()
        # The last claim stays, even if it is old: its age says that nothing has moved since.
        while len(self._claims) > 1 and self._claims[0] < now - _LONGEST_RETRY_AFTER:
            self._claims.popleft()
        seconds_per_claim = (now - self._claims[0]) / len(self._claims)
        return min(max(math.ceil(slots * seconds_per_claim), 1), _LONGEST_RETRY_AFTER)

    def close(self) -> None:
        """Give out no slots for new jobs, wake the waiting tasks, cancel the blocks. Idempotent."""
        self.closed = True
        self._wake()
        self._open_blocks.cancel()

    def cancel_on_close(self) -> AbstractContextManager[None]:
        """A block that is cancelled when the capacity closes.

        Raises:
            ShuttingDownError: The block was cancelled.
        """
        return self._open_blocks.block(ShuttingDownError, cancelled=self.closed)

    def _reserve_up_to(self, wanted: int) -> int:
        free = self.free
        # A buffer's only slot is left only to a task that was refused. If no non-waiting task
        # comes, a slot left to one would never be used.
        leave_one = (
            not self._last_is_for_waiting
            and not self.closed
            and (self.buffer_size > 1 or self._refused)
        )
        reserved = max(min(wanted, free - leave_one), 0)
        if reserved and reserved == free:
            self._last_is_for_waiting = False
        self.free -= reserved
        return reserved

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
