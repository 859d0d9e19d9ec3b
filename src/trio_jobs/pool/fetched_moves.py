"""`FetchedMoves`: the workers' moves of jobs that were fetched from a database."""

from datetime import datetime

from trio_jobs.job import Job, Later
from trio_jobs.pool.fetching import Fetching
from trio_jobs.pool.store import StoreMoves
from trio_jobs.pool.suspects import Suspects
from trio_jobs.pool.type_limits import TypeLimits


class FetchedMoves:
    """The moves in a shared store. They alone see the ids of jobs that are not here any more.

    Args:
        moves: What makes the moves of the jobs that are here.
        fetching: Knows which are.
        limits: Has permits for jobs that are on their way to a worker.
        suspects: Has a turn for one of them.
    """

    def __init__(
        self, moves: StoreMoves, fetching: Fetching, limits: TypeLimits, suspects: Suspects
    ) -> None:
        self.disk = moves.disk
        self.complete = moves.complete
        self.release = moves.release
        self._moves = moves
        self._fetching = fetching
        self._limits = limits
        self._suspects = suspects

    def claim(self, job_id: str) -> Job | None:
        """See `Moves.claim`; returns None for a job that is not here any more."""
        if self._fetching.take_stale(job_id):
            self._limits.give_up_permit(job_id)
            self._suspects.pass_turn(job_id)
            return None
        return self._moves.claim(job_id)

    def postpone(self, job_id: str, later: Later) -> Job:
        """See `Moves.postpone`; the job is the database's from now on."""
        job = self._moves.postpone(job_id, later)
        self._fetching.note_gone(job)
        return job


class NoDelays:
    """In place of a `Schedule` for postponed jobs: their delays are the database's."""

    def add(self, job_id: str, due: float | datetime) -> None:
        """Do nothing."""
