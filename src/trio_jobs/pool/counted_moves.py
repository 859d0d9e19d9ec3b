"""`CountedJobs`, `CountedMoves`: what the admission and the workers do in the store is counted."""

from trio_jobs.job import Job, JobStatus, Later
from trio_jobs.pool.observation import Observation
from trio_jobs.pool.store import AdmissionStore, Store, StoreMoves


class CountedJobs:
    """A store in memory as the admission sees it: each new job is counted."""

    def __init__(self, store: AdmissionStore, observation: Observation) -> None:
        self.find_key_nowait = store.find_key_nowait
        self.add = observation.admitting(store.add)


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
        self.claim = observation.claiming(self)

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
