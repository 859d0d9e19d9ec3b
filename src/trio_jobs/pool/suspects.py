"""`Suspects`: hands out jobs that were in a crash one at a time, beside all other jobs."""

from collections import deque
from collections.abc import Callable, Mapping

from trio_jobs.handlers.reports import Reports
from trio_jobs.job import Ending, Job, JobStatus, Later
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.store import KeepingStore


class Suspects:
    """The moves in a store whose jobs survive the process.

    One of the jobs that ran when a process died may have ended it, and may do so again. If it ran
    beside the others, they would be in the next crash as well, and all would end as interrupted.
    So only one job with interruptions runs at a time. The next one is handed out when this one has
    ended or been postponed; its handler begins when its claim, and with it the end of the job
    before, is on the disk.

    A job that has to wait for its turn is held, as by `TypeLimits`.

    Args:
        store: Where the moves are made.
        schedule: The jobs that wait.
        has_begun: Whether the handler of a claimed job has begun.
        reports: What the handlers of released jobs have reported.
        show: See `StoreMoves.complete`; called with a job that a release has ended.
    """

    def __init__(
        self,
        store: KeepingStore,
        schedule: Schedule,
        has_begun: Callable[[str], bool],
        reports: Mapping[str, Reports],
        show: Callable[[Job], None],
    ) -> None:
        self.disk = store.disk
        self._store = store
        self._schedule = schedule
        self._has_begun = has_begun
        self._reports = reports
        self._show = show
        # The one that runs, or comes next, and those after it in the order of their claims.
        self._current: str | None = None
        self._held: deque[str] = deque()

    @property
    def some_are_held(self) -> bool:
        """Whether a job waits for its turn."""
        return any(map(self._schedule.waits, self._held))

    def claim(self, job_id: str) -> Job | None:
        """See `Moves.claim`; holds the job if it is not its turn."""
        job = self._store.find_nowait(job_id)
        if not job.interruptions:
            return self._store.claim(job_id)
        gated = not job.cancel_requested and job.status is JobStatus.PENDING
        if gated and self._current not in (None, job_id):
            self._held.append(job_id)
            self._schedule.hold(job)
            return None
        claimed = self._store.claim(job_id)
        if gated and claimed is not None:
            self._current = job_id
        return claimed

    def complete(
        self,
        job_id: str,
        ending: Ending,
        *,
        duration: float | None = None,
        show: Callable[[Job], None] | None = None,
    ) -> Job:
        """See `StoreMoves.complete`; gives the turn to the next job."""
        job = self._store.complete(job_id, ending, duration=duration, show=show)
        if self._current is not None:
            self.pass_turn(job_id)
        return job

    def postpone(self, job_id: str, later: Later) -> Job:
        """See `Moves.postpone`; gives the turn to the next job."""
        job = self._store.postpone(job_id, later)
        self.pass_turn(job_id)
        return job

    def release(self, job_id: str) -> None:
        """See `Moves.release`. No job gets the turn: the pool ends."""
        reports = self._reports.get(job_id)
        left = None if reports is None else reports.left
        begun = self._has_begun(job_id)
        self._store.release(job_id, begun=begun, left=left, show=self._show)

    def pass_turn(self, job_id: str) -> None:
        """Give the turn of this job, if it has it, to the next one."""
        if job_id != self._current:
            return
        self._current = None
        while self._held:
            held = self._held.popleft()
            if self._schedule.waits(held):  # otherwise its cancel was requested
                self._current = held
                self._schedule.advance(held)
                return
