"""Admission: the one place where jobs come in, in one step without a checkpoint."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import trio

from trio_jobs.job import Job
from trio_jobs.store import JobStore

# How many claims the drain rate is measured over: enough to even out single
# jobs, few enough to follow a change within seconds.
_MEASURED_CLAIMS = 64

# Seconds. Clients should look again within a minute, and claims from before
# that say nothing: after an idle night their rate would be one an hour, and a
# burst that the pool gets through in a second would be told to wait.
_LONGEST_RETRY_AFTER = 60


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


class Submission(NamedTuple):
    """What a client asks for: a job's type, and its payload as JSON."""

    type: str
    payload: bytes


class DrainRate:
    """How fast claims free places in the buffer, from the last claims' times."""

    def __init__(self) -> None:
        self._claims: deque[float] = deque(maxlen=_MEASURED_CLAIMS)

    def note_claim(self) -> None:
        """Note a claim, made now."""
        self._claims.append(trio.current_time())

    def retry_after(self, places: int = 1) -> int:
        """Whole seconds until ``places`` are likely to come free; from 1 to 60."""
        if not self._claims:
            return 1
        now = trio.current_time()
        # One always stays: if even the last is old, nothing has moved since.
        while len(self._claims) > 1 and self._claims[0] < now - _LONGEST_RETRY_AFTER:
            self._claims.popleft()
        seconds_per_claim = (now - self._claims[0]) / len(self._claims)
        return min(max(math.ceil(places * seconds_per_claim), 1), _LONGEST_RETRY_AFTER)


class Submissions:
    """Takes jobs in: makes the id and the time, queues the id, stores the record.

    Between these nothing awaits. A client that hangs up cancels its request at
    the request's next checkpoint, and no worker runs in between: an id is
    never queued without a record, and a refused job was never visible.

    Args:
        channel: The one send end of the job channel. Owned: `close` closes it.
        store: Where the records go.
        rate: Measures how fast places come free.
        new_id: Makes an id greater than any before.
        now: The wall clock, as an aware UTC time.
    """

    def __init__(
        self,
        channel: trio.MemorySendChannel[str],
        store: JobStore,
        *,
        rate: DrainRate,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        self._channel = channel
        self._store = store
        self._rate = rate
        self._new_id = new_id
        self._now = now
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the server has stopped taking jobs."""
        return self._closed

    def submit(self, type: str, payload: bytes) -> Job:  # noqa: A002  (the field's name)
        """Admit one job, or refuse it.

        Raises:
            QueueFullError: No worker is waiting and the buffer is full.
            ShuttingDownError: The submissions are closed.
        """
        job = Job(id=self._new_id(), type=type, payload=payload, created_at=self._now())
        # No await until both lines have run, and in this order: the channel
        # may refuse, the store cannot.
        try:
            self._channel.send_nowait(job.id)
        except trio.WouldBlock:
            raise QueueFullError(self._rate.retry_after()) from None
        except (trio.ClosedResourceError, trio.BrokenResourceError):  # broken: the pool is gone
            raise ShuttingDownError from None
        self._store.add(job)
        return job

    def submit_all(self, submissions: Sequence[Submission]) -> list[Job]:
        """Admit all of these jobs, in this order, or refuse all of them.

        Raises:
            QueueFullError: There is not room for all.
            ShuttingDownError: The submissions are closed.
        """
        if self._closed:
            raise ShuttingDownError
        missing = len(submissions) - self.room
        if missing > 0:
            raise QueueFullError(self._rate.retry_after(missing))
        return [self.submit(submission.type, submission.payload) for submission in submissions]

    @property
    def room(self) -> int:
        """How many jobs the channel would take now."""
        channel = self._channel.statistics()
        free = int(channel.max_buffer_size) - channel.current_buffer_used
        return free + channel.tasks_waiting_receive

    def close(self) -> None:
        """Take no more jobs: the workers drain what is in, and end. Can be called again."""
        self._closed = True
        self._channel.close()
