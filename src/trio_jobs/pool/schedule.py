"""`Schedule`: the jobs that wait for a time, and the task that sleeps until the first is due."""

import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush

import trio

from trio_jobs.job import Job, Waiting

# Seconds. Two clocks never agree exactly: without this, a task that has slept until a date would
# find the wall clock some microseconds behind, and sleep again.
_EARLY = 0.001

# Due jobs that are taken from the heaps in one step: less than a millisecond's work.
_STRIDE = 200

# Seconds. Clients should try again within a minute.
_LONGEST_RETRY_AFTER = 60


class Schedule:
    """The waiting jobs: delayed ones, those between two attempts, and held ones (`TypeLimits`).

    A delay is measured by Trio's clock; a date by the wall clock, which may be set forward or back.
    The schedule looks at both whenever it wakes up, so it notices only then that the wall clock was
    set forward.

    A job that waits here has no slot. `run` hands the ids of due jobs to the admission, which
    queues each one when a slot is free for it.

    Args:
        max_waiting: How many new jobs may wait; kept as an attribute. A job that comes back is
            never refused, and counts; a job of an earlier process counts if it waits for a time.
        now: The wall clock, as an aware UTC time.
    """

    def __init__(self, max_waiting: int, *, now: Callable[[], datetime]) -> None:
        self.max_waiting = max_waiting
        self._now = now
        # `trio.current_time()` would look for the clock each time, at twice the cost.
        self._clock = trio.lowlevel.current_clock()
        self._delays = _Timeline()
        self._dates = _Timeline()
        self._due: deque[str] = deque()
        # Jobs of an earlier process: those that are due come first; no handler can run the others.
        self._recovered: deque[str] = deque()
        self._kept: set[str] = set()
        # By id the type; empty for a job between two attempts.
        self._held: dict[str, str] = {}
        self._held_types: Counter[str] = Counter()
        self._stopped = False
        self._ends = math.inf  # a job that comes due later, by Trio's clock, stays here
        # The clocks' difference at that time: the wall clock's changes make nothing due any more.
        self._last_offset: float | None = None
        # For `add`: until when the task sleeps, by Trio's clock, and what wakes it earlier.
        self._sleeps_until = -math.inf
        self._earlier = trio.Event()

    @property
    def count(self) -> int:
        """How many jobs wait: for a time, for others of their type, or, when due, for a slot."""
        return self._counted + len(self._recovered) + len(self._kept)

    @property
    def _counted(self) -> int:
        waiting = len(self._delays) + len(self._dates) - len(self._kept)
        return waiting + len(self._due)

    @property
    def held(self) -> int:
        """How many jobs wait by `hold`."""
        return len(self._held)

    @property
    def held_types(self) -> Mapping[str, int]:
        """By type, how many of them are not between two attempts."""
        return self._held_types

    @property
    def room(self) -> int:
        """How many more new jobs may wait."""
        return max(self.max_waiting - self._counted, 0)

    def retry_after(self) -> int:
        """Whole seconds until the first job is due and makes room, from 1 to 60."""
        return retry_after(0 if self._due else self._first_due() - self._clock.current_time())

    def add(self, job_id: str, due: float | datetime) -> None:
        """Let a pending job wait.

        Args:
            job_id: The job; it is in no channel.
            due: Seconds from now, or an aware time.
        """
        if isinstance(due, datetime):
            date = due.timestamp()
            self._dates.add(job_id, date)
            time = date - self._date_offset()
        else:
            time = self._clock.current_time() + due
            self._delays.add(job_id, time)
        if time < self._sleeps_until:
            self._earlier.set()

    def add_recovered(self, job_id: str, run_at: datetime | None) -> None:
        """Let a pending job of an earlier process wait for its time; or for a slot, before others.

        While it waits for a slot it does not count: jobs that the last process has let in must not
        have new ones refused.

        Args:
            job_id: The job.
            run_at: An aware time; None: it is due.
        """
        if run_at is not None and run_at > self._now():
            self.add(job_id, run_at)
        else:
            self._recovered.append(job_id)

    def hold(self, job: Job) -> None:
        """Let a pending job that is in no channel wait until `advance` or `remove`."""
        self._delays.add(job.id, math.inf)
        type_ = self._held[job.id] = "" if job.waiting is Waiting.RETRYING else job.type
        if type_:
            self._held_types[type_] += 1

    def keep(self, job_id: str) -> None:
        """Let a job without a handler wait until `advance`; it does not count."""
        self._delays.add(job_id, math.inf)
        self._kept.add(job_id)

    @property
    def has_due(self) -> bool:
        """Whether there are jobs to feed: they are due, and were so at `end`, if it has come."""
        until = min(self._clock.current_time(), self._ends)
        is_due = self._recovered or self._due or self._first_due() <= until
        return not self._stopped and bool(is_due)

    def waits(self, job_id: str) -> bool:
        """Whether a job waits for a time; False once it is due."""
        return job_id in self._delays or job_id in self._dates

    def remove(self, job_id: str) -> bool:
        """Take a job out if it waits for a time; return whether it did."""
        self._kept.discard(job_id)
        if type_ := self._held.pop(job_id, None):
            self._held_types[type_] -= 1
            if not self._held_types[type_]:
                del self._held_types[type_]
        return self._delays.remove(job_id) or self._dates.remove(job_id)

    def advance(self, job_id: str) -> None:
        """Make a waiting job due now. Does nothing with any other job."""
        if self.remove(job_id):
            self._delays.add(job_id, min(self._clock.current_time(), self._ends))
            self._earlier.set()

    def holds(self, job_id: str) -> bool:
        """Whether a job waits by `hold`, or by `keep`."""
        return job_id in self._held or job_id in self._kept

    def end(self) -> None:
        """Feed what is due now, and what `advance` makes due later; then nothing more."""
        if self._ends == math.inf:
            self._ends = self._clock.current_time()
            self._last_offset = self._now().timestamp() - self._ends

    def stop(self) -> None:
        """Feed nothing more: the due jobs wait again, until `remove`. The caller cancels `run`."""
        self._stopped = True
        now = self._clock.current_time()
        for due in (self._recovered, self._due):
            while due:
                self._delays.add(due.popleft(), now)

    async def run(self, feed: Callable[[deque[str]], Awaitable[None]]) -> None:
        """Sleep until jobs are due, and feed them, for ever.

        Args:
            feed: Queues these jobs, each when a slot is free for it, and removes their ids.

        Cancellation:
            Acted on while sleeping and while feeding. Jobs that are not queued stay pending.
        """
        while True:
            if self._recovered:
                await feed(self._recovered)
            self._take_due()
            if self._due:
                await feed(self._due)
                continue
            first = self._first_due()
            self._sleeps_until = first if first <= self._ends else math.inf
            self._earlier = trio.Event()
            try:
                with trio.move_on_at(self._sleeps_until):
                    await self._earlier.wait()
            finally:
                self._sleeps_until = -math.inf

    def _first_due(self) -> float:
        """When the first job is due, by Trio's clock."""
        return min(self._delays.first, self._dates.first - self._date_offset())

    def _date_offset(self) -> float:
        """What to subtract from a time of the wall clock for that of Trio's clock."""
        if not self._dates:
            return 0.0
        if self._last_offset is not None:
            return self._last_offset
        return self._now().timestamp() - self._clock.current_time()

    def _take_due(self) -> None:
        """Take the next due jobs, in the order of their times."""
        if self._stopped:
            return
        now, offset = min(self._clock.current_time(), self._ends), self._date_offset()
        for _ in range(_STRIDE):
            delay, date = self._delays.first, self._dates.first - offset - _EARLY
            if min(delay, date) > now:
                return
            self._due.append((self._delays if delay <= date else self._dates).pop())


def retry_after(seconds: float) -> int:
    """Whole seconds after which to look again at what is due in so many seconds, from 1 to 60."""
    return math.ceil(min(max(seconds, 1), _LONGEST_RETRY_AFTER))


def date_of(due: float | datetime, now: datetime) -> datetime:
    """The date of a due time, which is in seconds from now, or a date already."""
    return due if isinstance(due, datetime) else now + timedelta(seconds=due)


class _Timeline:
    """Ids of jobs in the order of their times, by one clock; at the same time, in their own."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        # Entries of removed jobs stay in the heap, and are passed over.
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._times)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._times

    @property
    def first(self) -> float:
        """The first time; infinity if there is no job."""
        while self._heap:
            time, job_id = self._heap[0]
            if self._times.get(job_id) == time:
                return time
            heappop(self._heap)
        return math.inf

    def add(self, job_id: str, time: float) -> None:
        """Add a job that is not here."""
        self._times[job_id] = time
        heappush(self._heap, (time, job_id))

    def pop(self) -> str:
        """Remove the first job, and return its id; call it right after `first`."""
        _, job_id = heappop(self._heap)
        del self._times[job_id]
        return job_id

    def remove(self, job_id: str) -> bool:
        """Remove this job; return whether it was here."""
        if self._times.pop(job_id, None) is None:
            return False
        # Otherwise jobs that are cancelled long before their times would fill the memory.
        if len(self._heap) > 2 * len(self._times) + 64:
            self._heap = [(time, each) for each, time in self._times.items()]
            heapify(self._heap)
        return True
