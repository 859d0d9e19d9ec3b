"""`Feed`: makes what the streams of ``GET /events`` send: snapshots of the pool, and ended jobs.

The feed has no task: it works only when a stream asks. The first stream that asks in a turn has the
snapshot made; the others send the same bytes. So nothing is made while nobody looks, and no bug in
a snapshot can reach the pool: it ends in a request, as `FeedError`.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

import msgspec
import trio

from trio_jobs.api.serialization import jobs_json
from trio_jobs.job import Job, Outcome

log = logging.getLogger(__name__)

# Seconds from one turn to the next at least: 4 snapshots a second move smoothly enough for the eye.
GAP = 0.25
# Seconds from one snapshot to the next while only time changes the state, such as how long a job
# has been running. So often the summary is made, too, which is 18 kB with 100 types.
TICK = 1.0
# Ended jobs in one message to a client with snapshots: 64 a second are more than anybody reads, and
# a stream has 21 kB/s at 1,000 jobs a second. Others get as many in each of their messages.
MAX_ENDED = 16

_encode = msgspec.json.Encoder().encode


class FeedError(Exception):
    """A bug: no snapshot can be made. The log has it."""


class Summary(TypedDict):
    """What a state has once a second; see `JobStatistics`."""

    ended_per_second: Sequence[tuple[int, int]]
    types: Mapping[str, object]


class Source(Protocol):
    """What a feed shows."""

    @property
    def boot(self) -> str:
        """Names this start of the server."""

    @property
    def over(self) -> trio.Event:
        """Set once the pool has ended; so is the event of ``next_change``."""

    @property
    def last(self) -> int:
        """The number of the last ended job; they are numbered from 1."""

    def since(self, number: int) -> tuple[int, Sequence[Job]]:
        """How many jobs after this number are no longer known, and the jobs after those."""

    def next_change(self) -> trio.Event:
        """Set by the next change of the pool."""

    def state(self, *, withheld: bool) -> Mapping[str, object]:
        """The state now, for JSON, without the summary; see `Wanted.withheld`."""

    def touch(self) -> None:
        """Set the event of ``next_change``."""

    def summary(self) -> Summary:
        """The rest of the state, which need not be new each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a client wants to see, and may see.

    Attributes:
        state: Whether it wants snapshots.
        types: If there are any, only ended jobs of these types.
        outcomes: The same for how they ended.
        withheld: Whether it must not see what handlers have written.
    """

    state: bool = True
    types: frozenset[str] = frozenset()
    outcomes: frozenset[Outcome] = frozenset()
    withheld: bool = False

    def matches(self, job: Job) -> bool:
        """Whether the client wants to see this ended job."""
        return (not self.types or job.type in self.types) and (
            not self.outcomes or job.outcome in self.outcomes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of the pool as an event, without its id.

    Attributes:
        brief: The event without the summary.
        whole: The event with the summary.
        summary: The number of the summary: it grows when one is made.
        expires: When time alone makes the next snapshot due, by Trio's clock.
    """

    brief: bytes
    whole: bytes
    summary: int
    expires: float


@dataclass(slots=True, kw_only=True)
class Turn:
    """A time of at least `GAP` in which every stream sends the same.

    Attributes:
        began: By Trio's clock.
        changed: Set by the first change after that.
        last: The number of the last job that had ended by then.
        final: Whether the pool had ended by then.
    """

    began: float
    changed: trio.Event
    last: int
    final: bool
    # By whether it is for clients from whom something is withheld.
    snapshots: dict[bool, Snapshot] = field(default_factory=dict)
    # By position and wish. The streams that are up to date share one entry.
    ended: dict[tuple[int, Wanted], tuple[int, bytes]] = field(default_factory=dict)


class Feed:
    """Shared by all streams of one pool.

    Attributes:
        source: What it shows.
        streams: How many streams are open; each counts itself.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.streams = 0
        self._turn: Turn | None = None
        self._summary = b""
        self._summary_number = 0
        self._summary_made = -math.inf
        self._is_fading = False  # the summary changes by time alone
        self._failing = False

    def turn(self) -> Turn:
        """The present turn; the next one if `GAP` is over, or the pool has ended."""
        now, over, turn = trio.current_time(), self.source.over.is_set(), self._turn
        if turn is None or now >= turn.began + GAP or (over and not turn.final):
            turn = self._turn = Turn(
                began=now,
                changed=self.source.next_change(),
                last=self.source.last,
                final=over,
            )
        return turn

    def snapshot(self, turn: Turn, *, withheld: bool) -> Snapshot:
        """The snapshot of this turn, perhaps without what handlers have written.

        Raises:
            FeedError: It cannot be made; the log says so once, until one can be made again.
        """
        snapshot = turn.snapshots.get(withheld)
        if snapshot is None:
            try:
                snapshot = turn.snapshots[withheld] = self._make(turn, withheld=withheld)
            except Exception as error:
                if not self._failing:
                    log.error("feed_failed", exc_info=error)
                self._failing = True
                raise FeedError from None
            self._failing = False
        return snapshot

    def ended(self, turn: Turn, wanted: Wanted, position: int) -> tuple[int, bytes]:
        """The next event about ended jobs.

        A client that also wants snapshots gets only the last `MAX_ENDED` jobs that it has not seen,
        and their number; another one gets all, in as many events as that takes.

        Args:
            turn: The present turn.
            wanted: What the client wants to see.
            position: The number of the last job that the client has seen.

        Returns:
            The number of the last job that the client has seen with this event; and the event,
            which is empty if the client wants to see none of them.
        """
        key = (position, wanted)
        if (found := turn.ended.get(key)) is None:
            found = turn.ended[key] = self._ended(wanted, position)
        return found

    async def touch_after(self, event: trio.Event) -> None:
        """Have the streams show what changes in the turn of the event loop that sets this event."""
        await event.wait()
        self.source.touch()

    def event_id(self, position: int) -> bytes:
        """The line that tells the client its position; `position_of` reads it."""
        return b"id: %s-%d\n" % (self.source.boot.encode("ascii"), position)

    def position_of(self, event_id: str) -> int | None:
        """The position in a ``Last-Event-ID``; None if this server has not made it."""
        boot, _, number = event_id.partition("-")
        last = self.source.last
        if boot == self.source.boot and number.isascii() and number.isdigit():
            position = int(number[: len(str(last)) + 1])
            return position if position <= last else None
        return None

    def _make(self, turn: Turn, *, withheld: bool) -> Snapshot:
        state = self.source.state(withheld=withheld)
        if turn.final or turn.began >= self._summary_made + TICK:
            summary = self.source.summary()
            # The last minute moves on, until nothing has ended in it.
            self._is_fading = any(map(any, summary["ended_per_second"]))
            self._summary = _encode(summary)
            self._summary_number += 1
            self._summary_made = turn.began
        expires = math.inf
        if state["busy"] or state["pending"] or self._is_fading:
            expires = turn.began + TICK
        elif self._summary_made < turn.began:
            # In the next turn at the soonest: the streams would send this snapshot again and again.
            expires = max(self._summary_made + TICK, turn.began + GAP)
        json = _encode(state)
        return Snapshot(
            brief=b"event: state\ndata: %s\n\n" % json,
            whole=b"event: state\ndata: %s,%s\n\n" % (json[:-1], self._summary[1:]),
            summary=self._summary_number,
            expires=expires,
        )

    def _ended(self, wanted: Wanted, position: int) -> tuple[int, bytes]:
        missed, jobs = self.source.since(position)
        last = position + missed + len(jobs)
        if wanted.state:
            found = [job for job in jobs if wanted.matches(job)]
            missed += max(0, len(found) - MAX_ENDED)
            found = found[-MAX_ENDED:]
        else:
            found = []
            for number, job in enumerate(jobs, position + missed + 1):
                if wanted.matches(job):
                    found.append(job)
                    if len(found) == MAX_ENDED:
                        last = number
                        break
        if not missed and not found:
            return last, b""
        data = b'{"missed":%d,"jobs":%s}' % (missed, jobs_json(found, withheld=wanted.withheld))
        return last, b"event: ended\n%sdata: %s\n\n" % (self.event_id(last), data)
