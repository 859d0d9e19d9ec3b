"""`SharedParts`: the parts of a pool that only a database shared with other servers needs."""

from collections.abc import Callable, Sequence
from datetime import datetime

import trio

from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.registry import DEFAULT, HandlerRegistry
from trio_jobs.job import Job
from trio_jobs.pool.capacity import Capacity
from trio_jobs.pool.disk_timer import DiskTimer
from trio_jobs.pool.fetched_moves import FetchedMoves
from trio_jobs.pool.fetching import Fetching, SharedRoom
from trio_jobs.pool.observation import Observation
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.shared_admission import SharedAdmission
from trio_jobs.pool.shared_port import SharedStorePort
from trio_jobs.pool.store import StoreMoves
from trio_jobs.pool.suspects import Suspects
from trio_jobs.pool.type_limits import TypeLimits
from trio_jobs.pool.waiters import CompletionWaiters


class SharedParts:
    """The parts, connected with each other and with the store; and the `Sharing` of the pool.

    Args:
        channel: The job channel's one send end.
        store: The jobs.
        slots: The slots for fetched jobs.
        schedule: The jobs that are held here.
        executor: Runs the handlers.
        handlers: Their types.
        max_open: How many jobs may be unfinished, of all servers.
        waiters: Who waits for jobs.
        show: See `StoreMoves.complete`.
        observation: Counts the jobs; None if nobody looks.
        new_id: See `Admission`.
        now: See there.

    Attributes:
        max_open: See `Sharing`.
        limits: Holds the jobs whose types are at their limits.
        timer: Times the waits of submissions.
        admission: Takes jobs in.
    """

    def __init__(
        self,
        channel: trio.MemorySendChannel[str],
        store: SharedStorePort,
        slots: Capacity,
        schedule: Schedule,
        executor: JobExecutor,
        handlers: HandlerRegistry,
        max_open: int,
        waiters: CompletionWaiters,
        show: Callable[[Job], None],
        observation: Observation | None,
        *,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        self.max_open = max_open
        room = SharedRoom(max_open, lambda: store.members)
        self._store = store
        self._fetching = Fetching(
            channel, slots, room, schedule, handlers, executor.cancel, observation
        )
        self._suspects = Suspects(store, schedule, executor.has_begun, executor.released, show)
        self.limits = TypeLimits(
            store,
            self._suspects,
            channel,
            slots,
            schedule,
            handlers.max_running,
            default=DEFAULT,
        )
        self.timer = DiskTimer(store.timeout)
        self.admission = SharedAdmission(
            channel,
            store,
            room,
            slots,
            schedule,
            self._fetching,
            self.timer,
            new_id=new_id,
            now=now,
            submitted=None if observation is None else observation.note_submitted,
        )
        store.connect(self._fetching, waiters)

    @property
    def members(self) -> Sequence[str]:
        """See `Sharing`."""
        return self._store.members

    @property
    def unfinished(self) -> int:
        """See `Sharing`."""
        return self._fetching.unfinished

    @property
    def is_away(self) -> bool:
        """See `Sharing`."""
        return self._store.hangs

    def around(self, moves: StoreMoves) -> FetchedMoves:
        """The workers' moves, made by these of the jobs that are here."""
        return FetchedMoves(moves, self._fetching, self.limits, self._suspects)

    def note_paused(self, types: Sequence[str]) -> None:
        """Fetch no jobs of these types from now on, and jobs of all others."""
        self._fetching.paused = types
        self._store.want_more()

    def give_back(self, job_id: str) -> None:
        """Give a job back whose type is paused; a worker has come to it."""
        self._suspects.pass_turn(job_id)
        self._store.give_back(job_id)
