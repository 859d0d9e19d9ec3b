"""`Fetching`: what this server fetches from the database, and the fetched jobs until their claims.

A fetched job has a slot and is in the channel, until a worker claims it; or it is held, because
its type is at its limit. The store may let go of such a job at any time.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import trio

from trio_jobs.handlers.registry import DEFAULT, HandlerRegistry
from trio_jobs.job import Job
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.want import NOTHING, Want

if TYPE_CHECKING:  # a pool that counts nothing does not import it
    from trio_jobs.pool.observation import Observation


# Up to how many jobs are counted at each heartbeat: in a hundredth of a second.
_SHOWN: Final = 100_000


class FetchCapacity(Capacity):
    """The slots for fetched jobs: a free one may let the next round fetch a job.

    Args:
        buffer_size: The most jobs that are fetched ahead.
        freed: Called when a slot is free.
    """

    def __init__(self, buffer_size: int, freed: Callable[[], object]) -> None:
        super().__init__(buffer_size)
        self._freed = freed

    def slot_freed(self, number: int = 1) -> None:
        """See `Capacity.slot_freed`."""
        super().slot_freed(number)
        self._freed()


class SharedRoom(Capacity):
    """The room for unfinished jobs, which all servers free.

    Args:
        max_open: How many jobs may be unfinished.
        members: The names of the servers.
    """

    def __init__(self, max_open: int, members: Callable[[], Collection[str]]) -> None:
        super().__init__(max_open)
        self._members = members

    def retry_after(self, slots: int = 1) -> int:
        """See `Capacity.retry_after`; the others end as many jobs as this server does."""
        return super().retry_after(math.ceil(slots / max(len(self._members()), 1)))


class Fetching:
    """The `LocalJobs` of a shared store.

    Args:
        channel: The send end of the job channel, which the admission owns.
        capacity: The slots for fetched jobs.
        room: Has a slot for each job that may be unfinished, of all servers.
        schedule: The jobs that are held here.
        handlers: The types whose jobs this server runs.
        cancel: Cancels the handler of a job, if it runs.
        observation: Counts the jobs that come and go; None if nobody looks.

    Attributes:
        paused: The types whose jobs are held.
        under_way: How many new jobs are on their way to the database.
        counts_soon: See `LocalJobs`.
    """

    def __init__(
        self,
        channel: trio.MemorySendChannel[str],
        capacity: Capacity,
        room: Capacity,
        schedule: Schedule,
        handlers: HandlerRegistry,
        cancel: Callable[[str], object],
        observation: "Observation | None",
    ) -> None:
        self.paused: Iterable[str] = ()
        self.under_way = 0
        self.counts_soon = False
        self._channel = channel
        self._capacity = capacity
        self._room = room
        self._schedule = schedule
        self._types = frozenset(handlers.table)
        self._named = sorted(self._types - {DEFAULT})
        self._limits = {
            type_: limit for type_, limit in handlers.max_running.items() if limit is not None
        }
        self._cancel = cancel
        self._observation = observation
        # By id: how many copies in the channel are of jobs that are not here any more.
        self._stale: Counter[str] = Counter()

    # What the store asks.

    def want(self, owned: Iterable[Job], *, ended: float, suspect: bool) -> Want:
        """See `LocalJobs.want`.

        That is a job for each free worker, and ahead of them as many as two rounds are likely to
        use up: a long job is not fetched before a worker is free for it.
        """
        ahead = self._capacity.buffer_size
        number = self._capacity.free - ahead + min(int(2 * ended), ahead)
        if number <= 0:
            return NOTHING
        closed, limits = set(self.paused), {}
        if self._limits:
            rooms = self._rooms(owned)
            closed.update(type_ for type_, room in rooms.items() if room <= 0)
            limits = {type_: room for type_, room in rooms.items() if type_ not in closed}
        if DEFAULT in closed or DEFAULT not in self._types:
            types = [type_ for type_ in self._named if type_ not in closed]
            limits.pop(DEFAULT, None)
            return Want(number, types, limits=limits, suspect=suspect)
        # The types without a handler of their own share a limit, and cannot be named.
        number = min(number, limits.pop(DEFAULT, number))
        return Want(number, without=sorted(closed), limits=limits, suspect=suspect)

    def count_to(self, *, new: int, fetched: int) -> int:
        """See `LocalJobs.count_to`.

        Jobs are counted when asked, while a task waits for room, and if new jobs pile up or meet
        many others.
        """
        room, asked = self._room, self.counts_soon
        self.counts_soon = False
        piles_up = new > fetched or 2 * room.free < room.buffer_size
        return room.buffer_size if asked or room.some_wait or (new and piles_up) else 0

    def is_limited(self, type: str) -> bool:  # noqa: A002  (the field's name)
        """See `LocalJobs.is_limited`."""
        return bool(self._limits) and self._entry(type) in self._limits

    def is_narrow(self, want: Want) -> bool:
        """See `LocalJobs.is_narrow`."""
        if want.types is None:
            return bool(want.without)
        return len(want.types) < len(self._types)

    def take_up(self, job: Job) -> bool:
        """See `LocalJobs.take_up`; the job takes a slot."""
        try:
            self._channel.send_nowait(job.id)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        self._capacity.slot_lost()
        if self._observation is not None:
            self._observation.note_fetched(job)
        return True

    def let_go(self, job: Job) -> None:
        """See `LocalJobs.let_go`; a queued job's slot is free when a worker has come to its id."""
        if not self._schedule.remove(job.id):
            self._stale[job.id] += 1
        self.note_gone(job)

    def note_gone(self, job: Job) -> None:
        """Count a pending job that is not here any more."""
        if self._observation is not None:
            self._observation.note_gone(job)

    def note_end(self, job: Job, *, counts: bool) -> None:
        """See `LocalJobs.note_end`."""
        if counts:
            self._room.slot_freed()
            self._room.measure_claim()
        elif self._observation is not None:
            self._observation.note_lost(job)

    def note_cancel(self, job_id: str) -> None:
        """See `LocalJobs.note_cancel`."""
        self._cancel(job_id)
        self._schedule.advance(job_id)

    def note_beat(self) -> None:
        """See `LocalJobs.note_beat`: a task may wait for room that others have made.

        Otherwise the jobs are counted to be shown, unless there are so many that it takes long.
        """
        self.counts_soon |= self._room.some_wait or self.unfinished <= _SHOWN

    @property
    def unfinished(self) -> int:
        """About how many unfinished jobs there are, of all servers."""
        return max(0, self._room.buffer_size - self._room.free)

    def note_unfinished(self, number: int) -> None:
        """See `LocalJobs.note_unfinished`."""
        free = self._room.buffer_size - number - self.under_way
        self._room.slot_freed(free - self._room.free)

    # What the workers' moves ask.

    def take_stale(self, job_id: str) -> bool:
        """Take a copy of an id from the stale ones; whether the job is not here any more."""
        if not self._stale:
            return False
        copies = self._stale.pop(job_id, 0)
        if copies > 1:
            self._stale[job_id] = copies - 1
        return copies > 0

    def _rooms(self, owned: Iterable[Job]) -> Mapping[str, int]:
        """By limited type, how many more of its jobs may be here."""
        here = Counter(self._entry(job.type) for job in owned if not job.cancel_requested)
        return {type_: limit - here[type_] for type_, limit in self._limits.items()}

    def _entry(self, type_: str) -> str:
        return type_ if type_ in self._types else DEFAULT
