"""`Outbox`: what the next rounds write for this server, and what the present one writes."""

from collections import deque
from typing import Final

import trio

from trio_jobs.stores.postgres.round import Batch, Moved, NewJobs, OwnedJob

# Bytes of payloads and results that one round writes of moves, and of submissions; and what a job
# counts beside them.
_MAX_BYTES: Final = 4_194_304
_JOB_BYTES: Final = 500


class Outbox:
    """Moves, submissions, begins and cancels on their way into the database.

    What a round has taken is *under way* until `landed` or `put_back`. No method makes a
    checkpoint.
    """

    def __init__(self) -> None:
        self._moves: deque[Moved] = deque()
        self._new: deque[NewJobs] = deque()
        self._begun: dict[str, tuple[OwnedJob, trio.Event]] = {}
        self._cancels: dict[str, None] = {}
        self._settling: list[trio.Event] = []  # set when all moves so far are recorded
        # The round that is under way, and what belongs to it.
        self._under_way: Batch | None = None
        self._begun_under_way: dict[str, tuple[OwnedJob, trio.Event]] = {}
        self._settling_under_way: list[trio.Event] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for the next round."""
        return not (self._moves or self._new or self._begun or self._cancels or self._settling)

    @property
    def has_new(self) -> bool:
        """Whether a submission waits for the next round."""
        return bool(self._new)

    @property
    def is_under_way(self) -> bool:
        """Whether a round is."""
        return self._under_way is not None

    @property
    def moves(self) -> list[Moved]:
        """The moves that are not recorded, those under way first."""
        under_way = () if self._under_way is None else self._under_way.moves
        return [*under_way, *self._moves]

    @property
    def waiting_ids(self) -> set[str]:
        """The ids of the jobs with moves that wait for the next round."""
        return {moved.owned.job.id for moved in self._moves}

    def __len__(self) -> int:
        """How many moves are not recorded."""
        return len(self._moves) + (0 if self._under_way is None else len(self._under_way.moves))

    def record(self, moved: Moved) -> None:
        """Let the next round write a move."""
        self._moves.append(moved)

    def submit(self, submission: NewJobs) -> None:
        """Let the next round write a submission."""
        self._new.append(submission)

    def withdraw(self, submission: object) -> bool:
        """Drop a submission; False if a round has taken it."""
        for index, each in enumerate(self._new):
            if each is submission:
                del self._new[index]
                return True
        return False

    def record_begin(self, owned: OwnedJob) -> trio.Event:
        """Let the next round write that a job begins.

        Returns:
            Set when that is written, or the lease has run out.
        """
        event = trio.Event()
        self._begun[owned.job.id] = owned, event
        return event

    def drop_begin(self, job_id: str) -> None:
        """Nobody waits any more for the begin to be written."""
        self._begun.pop(job_id, None)

    def request_cancel(self, job_id: str) -> None:
        """Let the next round write that a job's cancel is requested."""
        self._cancels[job_id] = None

    def settling(self) -> trio.Event | None:
        """Set when all moves, begins and cancels so far are written; None if they are."""
        if self._moves or self._cancels or self._begun:
            waiting = self._settling
        elif self._under_way is not None:
            waiting = self._settling_under_way
        else:
            return None
        waiting.append(trio.Event())
        return waiting[-1]

    def lost(self, member: int) -> None:
        """The lease of a membership has run out: no begin of its jobs is waited for."""
        for begun in (self._begun, self._begun_under_way):
            for owned, event in begun.values():
                if owned.member <= member:
                    event.set()

    def take(self) -> Batch:
        """What the next round writes: at most one move of each job, and not too many bytes."""
        if self.is_empty:
            self._under_way = Batch()
            return self._under_way
        moves, new = self._take_moves(), self._take_new()
        # A begin beside an older move of the same job waits: an answer names the id alone.
        moved = {each.owned.job.id for each in moves}
        self._begun_under_way = {id_: self._begun[id_] for id_ in self._begun.keys() - moved}
        self._begun = {id_: self._begun[id_] for id_ in self._begun.keys() & moved}
        cancels, self._cancels = list(self._cancels), {}
        if not self._moves:
            self._settling_under_way, self._settling = self._settling, []
        begun = [owned for owned, _ in self._begun_under_way.values()]
        self._under_way = Batch(moves=moves, begun=begun, new=new, cancels=cancels)
        return self._under_way

    def landed(self) -> None:
        """The round under way is committed."""
        events = [event for _, event in self._begun_under_way.values()] + self._settling_under_way
        self._under_way, self._begun_under_way, self._settling_under_way = None, {}, []
        for event in events:
            event.set()

    def put_back(self, batch: Batch, error: Exception | None) -> None:
        """The round under way had no effect: the next one takes its parts again.

        Args:
            batch: The round, without the submissions that were refused already.
            error: Refuses the others; None keeps them.
        """
        self._under_way = None
        self._moves.extendleft(reversed(batch.moves))
        self._begun = self._begun_under_way | self._begun
        self._cancels = dict.fromkeys(batch.cancels) | self._cancels
        self._settling += self._settling_under_way
        self._begun_under_way, self._settling_under_way = {}, []
        if error is None:
            self._new.extendleft(reversed(batch.new))
        else:
            for new in batch.new:
                new.refused(error)

    def _take_moves(self) -> list[Moved]:
        moves: list[Moved] = []
        job_ids: set[str] = set()
        size = 0
        while self._moves and size < _MAX_BYTES and self._moves[0].owned.job.id not in job_ids:
            moved = self._moves.popleft()
            moves.append(moved)
            ending = moved.owned.job.ending
            size += _JOB_BYTES + len((ending and ending.result) or b"")
            job_ids.add(moved.owned.job.id)
        return moves

    def _take_new(self) -> list[NewJobs]:
        new: list[NewJobs] = []
        size = 0
        while self._new and size < _MAX_BYTES:
            new.append(self._new.popleft())
            size += sum(_JOB_BYTES + len(job.payload) for job in new[-1].jobs)
        return new
