"""`CountedJobs`, `CountedMoves`: what the admission and the workers do in the store is counted."""

from trio_jobs.job import Job, JobStatus, Later
from trio_jobs.pool.observation import Observation
from trio_jobs.pool.store import NewJobs, Store, StoreError, StoreMoves


class CountedJobs:
    """A store in memory as the admission sees it: each new job is counted."""

    def __init__(self, store: NewJobs, observation: Observation) -> None:
        self.find_key_nowait = store.find_key_nowait
        self._add = store.add
        self._note = observation.note_admitted

    def add(self, job: Job) -> None:
        """See `NewJobs.add`."""
        self._add(job)
        self._note(job)


class CountedMoves:
    """The moves of the workers; each is counted. An end is counted when it is shown.

    ``moves`` makes them; it is replaced while types are paused.
    """

    def __init__(self, moves: StoreMoves, store: Store, observation: Observation) -> None:
        self.disk = moves.disk
        self.complete = moves.complete
        self.moves = moves
        self._store = store
        self._observation = observation
        self._note_claimed = observation.note_claimed

    def claim(self, job_id: str) -> Job | None:
        """See `Moves.claim`."""
        try:
            job = self.moves.claim(job_id)
        except StoreError:
            self._observation.note_passed_over(job_id)
            raise
        if job is not None:
            self._note_claimed(job)
        return job

    def postpone(self, job_id: str, later: Later) -> Job:
        """See `Moves.postpone`."""
        job = self.moves.postpone(job_id, later)
        self._observation.note_postponed(job, later)
        return job

    def release(self, job_id: str) -> None:
        """See `Moves.release`."""
        self.moves.release(job_id)
        job = self._store.find_nowait(job_id)
        if job.status is JobStatus.PENDING:
            self._observation.note_released(job)
