"""Admission: the one place where jobs come in, in one step without a checkpoint."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

import trio

from trio_jobs.job import IdempotencyKey, Job
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.store import DuplicateJobError
from trio_jobs.stores.memory import MemoryStore

log = logging.getLogger(__name__)


class AdmissionError(Exception):
    """The submission was refused; nothing of it was kept, or was ever visible."""


class QueueFullError(AdmissionError):
    """There is no room in the buffer.

    Attributes:
        retry_after: Whole seconds after which a place should be free, at
            least 1.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__("no room in the buffer")
        self.retry_after = retry_after


class ShuttingDownError(AdmissionError):
    """The submissions are closed: the server is shutting down."""

    def __init__(self) -> None:
        super().__init__("shutting down")


class JobSpec(NamedTuple):
    """What a client asks for: a job's type, and its payload as JSON."""

    type: str
    payload: bytes


class Admission:
    """Takes jobs in: makes the id and the time, queues the id, stores the record.

    Between these nothing awaits. A client that hangs up cancels its request at
    the request's next checkpoint, and no worker runs in between: an id is
    never queued without a record, and a refused job was never visible. Nor is
    a KeyboardInterrupt raised in between, in a program where there is one.

    Some wait for room (`submit_up_to`), one after the other; others are taken
    or refused at once. While one waits, the buffer's last free place is for
    the two kinds in turn: who waits leaves it free until one of the others
    has taken it, and the next one is not for them. However many come of
    either kind, the other gets on.

    Args:
        channel: The one send end of the job channel. Owned: `close` closes it.
        store: Where the records go.
        places: Told of what the workers do; wakes those who wait for room.
        new_id: Makes an id greater than any before.
        now: The wall clock, as an aware UTC time.
    """

    def __init__(
        self,
        channel: trio.MemorySendChannel[str],
        store: MemoryStore,
        *,
        places: Capacity,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        self._channel = channel
        self._store = store
        self._places = places
        self._new_id = new_id
        self._now = now
        self._closed = False
        self._open_blocks: set[trio.CancelScope] = set()
        self._waiters_turn = False  # the last free place is for them
        self._other_refused = False  # since the last one that was taken

    @property
    def closed(self) -> bool:
        """Whether the server has stopped taking jobs."""
        return self._closed

    @property
    def buffer_size(self) -> int:
        """How many jobs the buffer holds."""
        return int(self._channel.statistics().max_buffer_size)

    @property
    def peak_buffer_used(self) -> int:
        """The most places of the buffer that were taken at the same time so far."""
        return int(self._channel.statistics().peak_buffer_used)

    @property
    def buffered(self) -> int:
        """How many jobs are in the buffer."""
        return self._channel.statistics().current_buffer_used

    @property
    def room(self) -> int:
        """How many jobs the channel would take now."""
        channel = self._channel.statistics()
        free = int(channel.max_buffer_size) - channel.current_buffer_used
        return free + channel.tasks_waiting_receive

    @trio.lowlevel.enable_ki_protection
    def submit(
        self,
        type: str,  # noqa: A002  (the field's name)
        payload: bytes,
        *,
        key: IdempotencyKey | None = None,
    ) -> Job:
        """Admit one job, or refuse it.

        Raises:
            QueueFullError: No worker is waiting and the buffer is full, or its
                last place is for those who wait.
            ShuttingDownError: The submissions are closed.
            DuplicateJobError: A job with this key is there already.
        """
        if key is not None and self._store.find_key(key.text) is not None:
            raise DuplicateJobError(f"a job with the key {key.text!r} is in the store already")
        if self._places.turn.locked():
            self._check_room(1)
        return self._admit(type, payload, self._now(), key)

    def submit_all(self, submissions: Sequence[JobSpec]) -> list[Job]:
        """Admit all of these jobs, in this order, or refuse all of them.

        Raises:
            QueueFullError: There is not room for all.
            ShuttingDownError: The submissions are closed.
        """
        if self._closed:
            raise ShuttingDownError
        self._check_room(len(submissions))
        return self._admit_all(submissions)

    async def submit_up_to(self, submissions: Sequence[JobSpec]) -> list[Job]:
        """Wait for room, then admit as many of these as it has, the first ones, in one step.

        Args:
            submissions: At least one.

        Raises:
            ShuttingDownError: The submissions are closed, before or meanwhile.

        Cancellation:
            Acted on while waiting; then nothing has been admitted.

        Checkpoints:
            At least once, before the jobs are admitted; not after.
        """
        async with self._places.turn:
            while not self._closed:
                if admitted := self._admit_some(submissions):
                    return admitted
                await self._places.wait_change()
        raise ShuttingDownError

    def submit_up_to_nowait(self, submissions: Sequence[JobSpec]) -> list[Job]:
        """The same without waiting: none is admitted if it would have to wait for its turn or room.

        Raises:
            ShuttingDownError: The submissions are closed.
        """
        if self._closed:
            raise ShuttingDownError
        return [] if self._places.turn.locked() else self._admit_some(submissions)

    @contextmanager
    def cancel_on_close(self) -> Iterator[None]:
        """A block that is cancelled when the submissions close.

        Raises:
            ShuttingDownError: That has happened.
        """
        with trio.CancelScope() as scope:
            if self._closed:
                scope.cancel()
            self._open_blocks.add(scope)
            try:
                yield
            finally:
                self._open_blocks.remove(scope)
        if scope.cancelled_caught:
            raise ShuttingDownError

    def close(self) -> None:
        """Take no more jobs: the workers drain what is in, and end. Can be called again."""
        self._closed = True
        self._channel.close()
        self._places.note_close()
        for scope in self._open_blocks:
            scope.cancel()

    def _admit_some(self, submissions: Sequence[JobSpec]) -> list[Job]:
        """Admit as many as there is room for, whose turn it is to wait for it."""
        room = self.room
        admitted = self._admit_all(submissions[: max(self._room_for_waiters(room), 0)])
        if admitted and len(admitted) == room:
            self._waiters_turn = False
        return admitted

    def _room_for_waiters(self, room: int) -> int:
        """How much of the room that there is they may take."""
        if self._waiters_turn:
            return room
        # A buffer of one place is kept free only for somebody who has asked:
        # with nobody asking, it would be as good as no buffer.
        if self.buffer_size == 1 and not self._other_refused:
            return room
        return room - 1

    def _check_room(self, wanted: int) -> None:
        """Check that there is room at once for so many of those who do not wait.

        Raises:
            QueueFullError: There is not, or the last place is for those who wait.
        """
        room = allowed = self.room
        if self._places.turn.locked() and self._waiters_turn:
            allowed = max(room - 1, 0)
        if wanted > allowed:
            self._other_refused = True
            raise QueueFullError(self._places.retry_after(wanted - allowed))
        self._other_refused = False
        if 0 < wanted == room:
            self._waiters_turn = True

    @trio.lowlevel.enable_ki_protection
    def _admit_all(self, submissions: Iterable[JobSpec]) -> list[Job]:
        created_at = self._now()
        return [self._admit(type_, payload, created_at) for type_, payload in submissions]

    def _admit(
        self,
        type_: str,
        payload: bytes,
        created_at: datetime,
        key: IdempotencyKey | None = None,
    ) -> Job:
        """The one step.

        Raises:
            QueueFullError: There is no room; for those who come with several
                that has been checked.
            ShuttingDownError: The submissions are closed, or the pool is gone.
        """
        job = Job(id=self._new_id(), type=type_, payload=payload, created_at=created_at, key=key)
        # No await until both lines have run, and in this order: the channel
        # may refuse, the store cannot.
        try:
            self._channel.send_nowait(job.id)
        except trio.WouldBlock:
            raise QueueFullError(self._places.retry_after()) from None
        except (trio.ClosedResourceError, trio.BrokenResourceError):  # broken: the pool is gone
            raise ShuttingDownError from None
        self._store.add(job)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("job_admitted", extra={"job_id": job.id, "job_type": type_})
        return job
